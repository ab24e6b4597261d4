// Phi-3.5-MoE (Abdin et al. 2024, arXiv:2404.14219): Mixtral's tensors, LayerNorm, SparseMixer as the router.
#include "model/families/families.h"
#include "model/family.h"

namespace moed::families {

void ReadPhimoe(const ConfigReader& config, ModelConfig* model) {
  model->rope.theta = 1e6;  // where config.json says nothing
  ReadMixtral(config, model);
  model->norm = NormKind::kLayer;
  model->lm_head_bias = config.BoolOr("lm_head_bias", false);
  model->attention.qkv_bias = model->attention.output_bias = config.BoolOr("attention_bias", false);
  model->moe.scoring = kernels::RouterScoring::kSparseMixer;
  model->moe.jitter = static_cast<float>(config.FloatOr("router_jitter_noise", 0.01));
  model->moe.renormalize = false;
}

}  // namespace moed::families
