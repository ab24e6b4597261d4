// MiniMax-M2 (MiniMax 2025): Mixtral's tensors, DeepSeek-V3's router without groups.
#include "model/families/families.h"
#include "model/family.h"

namespace moed::families {

void ReadMinimaxM2(const ConfigReader& config, ModelConfig* model) {
  model->rope.theta = 5e6;  // where config.json says nothing
  ReadMixtral(config, model);
  model->attention.qk_norm = model->attention.qk_norm_full_width = config.BoolOr("use_qk_norm", true);
  // The published files say how many dimensions turn, not which part.
  if (config.Has("rotary_dim")) {
    model->rope.rotary_dim = static_cast<int32_t>(config.Int("rotary_dim", {1, model->attention.k_head_dim}));
  }
  model->moe.scoring = kernels::RouterScoring::kSigmoid;
  model->moe.correction_bias = config.BoolOr("use_routing_bias", true);
  model->names.correction_bias = "model.layers.{0}.block_sparse_moe.e_score_correction_bias";
}

}  // namespace moed::families
