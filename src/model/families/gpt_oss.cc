// GPT-OSS (OpenAI 2025, arXiv:2508.10925).
#include <string>

#include "model/families/families.h"
#include "model/family.h"

namespace moed::families {

void ReadGptOss(const ConfigReader& config, ModelConfig* model) {
  model->rope.theta = 150000.0;  // where config.json says nothing
  ReadCommonFields(config, model);
  AttentionConfig& attention = model->attention;
  attention.qkv_bias = attention.output_bias = config.BoolOr("attention_bias", true);
  attention.sinks = true;
  ReadWindows(config, model, [](int32_t l) { return l % 2 == 0; });

  model->activation = kernels::Activation::kClampedSwiglu;  // whatever hidden_act says
  model->swiglu_alpha = static_cast<float>(config.FloatOr("swiglu_alpha", 1.702));
  model->swiglu_limit = static_cast<float>(config.FloatOr("swiglu_limit", 7.0));

  MoeConfig& moe = model->moe;
  moe.num_experts = static_cast<int32_t>(config.Int("num_local_experts", {1, 4096}));
  moe.top_k = static_cast<int32_t>(config.IntOr("num_experts_per_tok", 4, {1, 4096}));
  moe.intermediate_size = model->intermediate_size;
  moe.renormalize = true;  // a softmax over the chosen logits is the same
  moe.router_bias = moe.expert_bias = true;

  // As published the experts are quantised, and then the outputs come before the inputs.
  const auto quantization = config.Object("quantization_config");
  const bool mxfp4 = quantization && quantization->StringOr("quant_method", "") == "mxfp4";
  model->expert_layout = mxfp4 ? ExpertLayout::kStackedInterleaved : ExpertLayout::kTransposed;
  TensorNames& names = model->names;
  names.router = "model.layers.{0}.mlp.router.weight";
  names.expert_gate = "model.layers.{0}.mlp.experts.gate_up_proj";
  names.expert_up.clear();
  names.expert_down = "model.layers.{0}.mlp.experts.down_proj";
}

}  // namespace moed::families
