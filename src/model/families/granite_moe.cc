// IBM Granite 3.0 and later, the mixture-of-experts models, without and with a shared expert.
#include "model/families/families.h"
#include "model/family.h"

namespace moed::families {

void ReadGraniteMoe(const ConfigReader& config, ModelConfig* model) {
  ReadCommonFields(config, model);
  AttentionConfig& attention = model->attention;
  attention.qkv_bias = attention.output_bias = config.BoolOr("attention_bias", false);
  attention.scale = static_cast<float>(config.FloatOr("attention_multiplier", 1.0));
  model->embedding_multiplier = static_cast<float>(config.FloatOr("embedding_multiplier", 1.0));
  model->residual_multiplier = static_cast<float>(config.FloatOr("residual_multiplier", 1.0));
  const double logits_scaling = config.FloatOr("logits_scaling", 1.0);
  if (!(logits_scaling > 0.0)) {
    config.Fail(InvalidArgument("config.json: logits_scaling is {}; it must be positive", logits_scaling));
  }
  model->logits_multiplier = static_cast<float>(1.0 / logits_scaling);

  MoeConfig& moe = model->moe;
  moe.num_experts = static_cast<int32_t>(config.Int("num_local_experts", {1, 4096}));
  moe.top_k = static_cast<int32_t>(config.IntOr("num_experts_per_tok", 2, {1, 4096}));
  moe.intermediate_size = model->intermediate_size;
  moe.renormalize = true;  // a softmax over the chosen logits is the same
  model->expert_layout = ExpertLayout::kStacked;

  TensorNames& names = model->names;
  names.router = "model.layers.{0}.block_sparse_moe.router.layer.weight";
  names.expert_gate = "model.layers.{0}.block_sparse_moe.input_linear.weight";
  names.expert_up.clear();
  names.expert_down = "model.layers.{0}.block_sparse_moe.output_linear.weight";
}

void ReadGraniteMoeShared(const ConfigReader& config, ModelConfig* model) {
  ReadGraniteMoe(config, model);
  model->moe.shared_intermediate_size = static_cast<int32_t>(config.IntOr("shared_intermediate_size", 0, {0, 1 << 20}));
  TensorNames& names = model->names;
  names.shared_gate = "model.layers.{0}.shared_mlp.input_linear.weight";
  names.shared_up.clear();
  names.shared_down = "model.layers.{0}.shared_mlp.output_linear.weight";
}

}  // namespace moed::families
