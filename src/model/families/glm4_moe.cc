// GLM-4.5 and GLM-4.5-Air (arXiv:2508.06471): grouped-query attention with DeepSeek-V3's router; and GLM-4.7-Flash,
// which is a DeepSeek-V3 of other sizes.
#include <string>
#include <vector>

#include "model/families/families.h"
#include "model/family.h"

namespace moed::families {

void ReadGlm4Moe(const ConfigReader& config, ModelConfig* model) {
  ReadCommonFields(config, model);
  model->attention.qk_norm = config.BoolOr("use_qk_norm", false);
  model->attention.qkv_bias = config.BoolOr("attention_bias", false);
  const auto rope = config.Object("rope_parameters");
  const bool says_part = config.Has("partial_rotary_factor") || (rope && rope->Has("partial_rotary_factor"));
  if (!says_part) model->rope.rotary_dim = model->attention.k_head_dim / 2;

  MoeConfig& moe = model->moe;
  moe.num_experts = static_cast<int32_t>(config.Int("n_routed_experts", {1, 4096}));
  moe.top_k = static_cast<int32_t>(config.IntOr("num_experts_per_tok", 8, {1, 4096}));
  moe.intermediate_size = static_cast<int32_t>(config.Int("moe_intermediate_size", {1, 1 << 20}));
  moe.scoring = kernels::RouterScoring::kSigmoid;
  moe.correction_bias = true;
  moe.num_groups = static_cast<int32_t>(config.IntOr("n_group", 1, kPositive));
  moe.top_groups = static_cast<int32_t>(config.IntOr("topk_group", 1, kPositive));
  moe.renormalize = config.BoolOr("norm_topk_prob", true);
  moe.weight_scale = static_cast<float>(config.FloatOr("routed_scaling_factor", 1.0));
  moe.shared_intermediate_size =
      SharedSize(config, config.IntOr("n_shared_experts", 1, {0, 4096}), moe.intermediate_size);

  const int64_t dense = config.IntOr("first_k_dense_replace", 1, kNotNegative);
  for (int32_t l = 0; l < model->num_layers(); ++l) model->layers[l].is_moe = l >= dense;
}

void ReadGlm4MoeLite(const ConfigReader& config, ModelConfig* model) {
  ReadDeepseekV3(config, model);
  const std::vector<std::string> types = config.Strings("mlp_layer_types");
  if (!types.empty() && std::ssize(types) != model->num_layers()) {
    config.Fail(InvalidArgument("config.json: mlp_layer_types names {} layers; num_hidden_layers is {}", types.size(),
                                model->num_layers()));
    return;
  }
  const int64_t dense = config.IntOr("first_k_dense_replace", 1, kNotNegative);
  for (int32_t l = 0; l < model->num_layers(); ++l) {
    model->layers[l].is_moe = types.empty() ? l >= dense : types[l] == "sparse";
  }
}

}  // namespace moed::families
