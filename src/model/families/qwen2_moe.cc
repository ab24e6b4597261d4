// Qwen1.5-MoE and Qwen2 (Yang et al. 2024, arXiv:2407.10671), the mixture-of-experts models.
#include "model/families/families.h"
#include "model/family.h"

namespace moed::families {

void ReadQwen2Moe(const ConfigReader& config, ModelConfig* model) {
  ReadCommonFields(config, model);
  model->attention.qkv_bias = config.BoolOr("qkv_bias", true);

  MoeConfig& moe = model->moe;
  moe.num_experts = static_cast<int32_t>(config.Int("num_experts", {1, 4096}));
  moe.top_k = static_cast<int32_t>(config.IntOr("num_experts_per_tok", 4, {1, 4096}));
  moe.intermediate_size = static_cast<int32_t>(config.Int("moe_intermediate_size", {1, 1 << 20}));
  moe.renormalize = config.BoolOr("norm_topk_prob", false);
  moe.shared_intermediate_size = static_cast<int32_t>(config.Int("shared_expert_intermediate_size", {1, 1 << 20}));
  moe.shared_gate = true;
  ReadSparseLayers(config, model);

  const bool windows = config.BoolOr("use_sliding_window", false);
  const int64_t max_window_layers = config.IntOr("max_window_layers", model->num_layers(), kNotNegative);
  ReadWindows(config, model, [&](int32_t l) { return windows && l % 2 == 0 && l < max_window_layers; });

  TensorNames& names = model->names;
  names.shared_gate = "model.layers.{0}.mlp.shared_expert.gate_proj.weight";
  names.shared_up = "model.layers.{0}.mlp.shared_expert.up_proj.weight";
  names.shared_down = "model.layers.{0}.mlp.shared_expert.down_proj.weight";
}

}  // namespace moed::families
