// OLMoE (Muennighoff et al. 2024, arXiv:2409.02060).
#include "model/families/families.h"
#include "model/family.h"

namespace moed::families {

void ReadOlmoe(const ConfigReader& config, ModelConfig* model) {
  ReadCommonFields(config, model);
  model->attention.qk_norm = model->attention.qk_norm_full_width = true;
  model->attention.qkv_bias = model->attention.output_bias = config.BoolOr("attention_bias", false);
  if (config.Has("clip_qkv")) config.Fail(Unimplemented("config.json: clip_qkv is not supported; it must be null"));

  model->moe.num_experts = static_cast<int32_t>(config.IntOr("num_experts", 64, {1, 4096}));
  model->moe.top_k = static_cast<int32_t>(config.IntOr("num_experts_per_tok", 8, {1, 4096}));
  model->moe.intermediate_size = model->intermediate_size;
  model->moe.renormalize = config.BoolOr("norm_topk_prob", false);
}

}  // namespace moed::families
