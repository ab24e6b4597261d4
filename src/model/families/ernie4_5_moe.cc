// ERNIE 4.5 (Baidu 2025), the mixture-of-experts models for text.
#include "model/families/families.h"
#include "model/family.h"

namespace moed::families {

void ReadErnie45Moe(const ConfigReader& config, ModelConfig* model) {
  model->rope.theta = 5e5;  // where config.json says nothing
  ReadCommonFields(config, model);
  model->tied_embeddings = config.BoolOr("tie_word_embeddings", true);
  model->rope.interleaved = true;
  if (config.BoolOr("use_bias", false)) {
    config.Fail(Unimplemented("config.json: use_bias is true; ERNIE 4.5 is supported without biases"));
  }

  MoeConfig& moe = model->moe;
  moe.num_experts = static_cast<int32_t>(config.Int("moe_num_experts", {1, 4096}));
  moe.top_k = static_cast<int32_t>(config.IntOr("moe_k", 6, {1, 4096}));
  moe.intermediate_size = static_cast<int32_t>(config.Int("moe_intermediate_size", {1, 1 << 20}));
  moe.renormalize = true;
  moe.correction_bias = config.BoolOr("moe_use_aux_free", true);
  const int64_t shared = config.IntOr("moe_num_shared_experts", 0, {0, 64});
  moe.shared_intermediate_size = static_cast<int32_t>(shared * moe.intermediate_size);

  const int64_t first = config.IntOr("moe_layer_start_index", 1, kNotNegative);
  int64_t last = config.IntOr("moe_layer_end_index", -1, {-1});
  if (last < 0) last = model->num_layers() - 1;
  const int64_t interval = config.IntOr("moe_layer_interval", 1, kPositive);
  for (int32_t l = 0; l < model->num_layers(); ++l) {
    model->layers[l].is_moe = (l + 1) % interval == 0 && l >= first && l <= last;
  }
  model->names.correction_bias = "model.layers.{0}.mlp.moe_statics.e_score_correction_bias";
  moe.correction_bias_is_row = true;
}

}  // namespace moed::families
