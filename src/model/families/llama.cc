// Llama (Touvron et al. 2023, arXiv:2302.13971) and those that are built alike: Mistral (Jiang et al. 2023,
// arXiv:2310.06825), and the dense Qwen2 and Qwen3. Layers without a router.
#include "model/families/families.h"
#include "model/family.h"

namespace moed::families {
namespace {

void ReadDense(const ConfigReader& config, ModelConfig* model) {
  ReadCommonFields(config, model);
  for (LayerConfig& layer : model->layers) layer.is_moe = false;
}

// A window from layer max_window_layers on.
void ReadQwenWindows(const ConfigReader& config, ModelConfig* model) {
  const bool windows = config.BoolOr("use_sliding_window", false);
  const int64_t full_layers = config.IntOr("max_window_layers", 28, kNotNegative);
  ReadWindows(config, model, [&](int32_t l) { return windows && l >= full_layers; });
}

}  // namespace

void ReadLlama(const ConfigReader& config, ModelConfig* model) {
  ReadDense(config, model);
  model->attention.qkv_bias = model->attention.output_bias = config.BoolOr("attention_bias", false);
  model->dense_bias = config.BoolOr("mlp_bias", false);
}

void ReadMistral(const ConfigReader& config, ModelConfig* model) {
  ReadDense(config, model);
  ReadWindows(config, model, [](int32_t) { return true; });
}

void ReadQwen2(const ConfigReader& config, ModelConfig* model) {
  ReadDense(config, model);
  model->attention.qkv_bias = true;
  ReadQwenWindows(config, model);
}

void ReadQwen3(const ConfigReader& config, ModelConfig* model) {
  ReadDense(config, model);
  model->attention.qk_norm = true;
  model->attention.qkv_bias = model->attention.output_bias = config.BoolOr("attention_bias", false);
  ReadQwenWindows(config, model);
}

}  // namespace moed::families
