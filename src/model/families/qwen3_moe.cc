// Qwen3 (Yang et al. 2025, arXiv:2505.09388), the mixture-of-experts models.
#include "model/families/families.h"
#include "model/family.h"

namespace moed::families {

void ReadQwen3Moe(const ConfigReader& config, ModelConfig* model) {
  ReadCommonFields(config, model);
  model->attention.qk_norm = true;
  model->attention.qkv_bias = config.BoolOr("attention_bias", false);
  model->attention.output_bias = model->attention.qkv_bias;

  // transformers 5 writes num_local_experts, as Mixtral always did.
  const char* num_experts = config.Has("num_local_experts") ? "num_local_experts" : "num_experts";
  model->moe.num_experts = static_cast<int32_t>(config.Int(num_experts, {1, 4096}));
  model->moe.top_k = static_cast<int32_t>(config.IntOr("num_experts_per_tok", 8, {1, 4096}));
  model->moe.intermediate_size = static_cast<int32_t>(config.Int("moe_intermediate_size", {1, 1 << 20}));
  model->moe.renormalize = config.BoolOr("norm_topk_prob", false);

  ReadSparseLayers(config, model);
  if (config.BoolOr("use_sliding_window", false) && config.Has("sliding_window")) {
    const int32_t window = static_cast<int32_t>(config.Int("sliding_window", kPositive));
    for (LayerConfig& layer : model->layers) layer.window = window;
  }
}

}  // namespace moed::families
