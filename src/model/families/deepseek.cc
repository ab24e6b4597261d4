// DeepSeek-V2 (arXiv:2405.04434), DeepSeek-V3 and R1 (arXiv:2412.19437), and Kimi-K2 (arXiv:2507.20534), which is a V3
// of other sizes.
#include <cmath>
#include <string>

#include "base/text.h"
#include "model/families/families.h"
#include "model/family.h"
#include "model/rope_reader.h"

namespace moed::families {
namespace {

int32_t Dimension(const ConfigReader& config, std::string_view key) {
  return static_cast<int32_t>(config.Int(key, {1, 1 << 20}));
}

void ReadAttention(const ConfigReader& config, ModelConfig* model) {
  AttentionConfig& attention = model->attention;
  LatentAttentionConfig& latent = attention.latent;
  latent.kv_lora_rank = Dimension(config, "kv_lora_rank");
  latent.q_lora_rank = static_cast<int32_t>(config.IntOr("q_lora_rank", 0, {0, 1 << 20}));
  latent.nope_head_dim = Dimension(config, "qk_nope_head_dim");
  latent.rope_head_dim = Dimension(config, "qk_rope_head_dim");
  attention.num_kv_heads = attention.num_heads;
  attention.k_head_dim = latent.nope_head_dim + latent.rope_head_dim;
  attention.v_head_dim = Dimension(config, "v_head_dim");
  attention.qkv_bias = attention.output_bias = config.BoolOr("attention_bias", false);

  model->rope.rotary_dim = latent.rope_head_dim;
  model->rope.interleaved = config.BoolOr("rope_interleave", true);
  double scale = 1.0 / std::sqrt(static_cast<double>(attention.k_head_dim));
  if (const auto* yarn = std::get_if<YarnScaling>(&model->rope.scaling); yarn != nullptr && yarn->mscale_all_dim != 0) {
    const double magnitude = YarnMagnitude(yarn->factor, yarn->mscale_all_dim);
    scale *= magnitude * magnitude;
  }
  attention.scale = static_cast<float>(scale);
}

void ReadScoring(const ConfigReader& config, std::string_view fallback, ModelConfig* model) {
  const std::string name = config.StringOr("scoring_func", fallback);
  if (name == "softmax") {
    model->moe.scoring = kernels::RouterScoring::kSoftmax;
  } else if (name == "sigmoid") {
    model->moe.scoring = kernels::RouterScoring::kSigmoid;
  } else {
    config.Fail(Unimplemented("config.json: scoring_func {} is not supported; softmax and sigmoid are", Quoted(name)));
  }
}

void ReadChoice(const ConfigReader& config, std::string_view fallback, ModelConfig* model) {
  const std::string method = config.StringOr("topk_method", fallback);
  if (method != "greedy" && method != "group_limited_greedy" && method != "noaux_tc") {
    config.Fail(Unimplemented(
        "config.json: topk_method {} is not supported; greedy, group_limited_greedy and noaux_tc are", Quoted(method)));
    return;
  }
  model->moe.correction_bias = method == "noaux_tc";
  if (method == "greedy") return;
  model->moe.num_groups = static_cast<int32_t>(config.IntOr("n_group", 1, kPositive));
  model->moe.top_groups = static_cast<int32_t>(config.IntOr("topk_group", 1, kPositive));
}

void ReadExperts(const ConfigReader& config, int64_t default_dense_layers, ModelConfig* model) {
  MoeConfig& moe = model->moe;
  moe.num_experts = Dimension(config, "n_routed_experts");
  moe.top_k = Dimension(config, "num_experts_per_tok");
  moe.intermediate_size = Dimension(config, "moe_intermediate_size");
  moe.weight_scale = static_cast<float>(config.FloatOr("routed_scaling_factor", 1.0));
  const int64_t shared = config.IntOr("n_shared_experts", 0, {0, 4096});
  moe.shared_intermediate_size = SharedSize(config, shared, moe.intermediate_size);

  const int64_t dense = config.IntOr("first_k_dense_replace", default_dense_layers, kNotNegative);
  const int64_t step = config.IntOr("moe_layer_freq", 1, kPositive);
  for (int32_t l = 0; l < model->num_layers(); ++l) model->layers[l].is_moe = l >= dense && l % step == 0;
}

}  // namespace

void ReadDeepseekV2(const ConfigReader& config, ModelConfig* model) {
  ReadCommonFields(config, model);
  ReadAttention(config, model);
  ReadExperts(config, 0, model);
  ReadScoring(config, "softmax", model);
  ReadChoice(config, "greedy", model);
  // As the authors' code has it: a choice is either renormalised or scaled. (No V2 that was published renormalises.)
  model->moe.renormalize = config.BoolOr("norm_topk_prob", false);
  if (model->moe.renormalize) model->moe.weight_scale = 1.0f;
}

void ReadDeepseekV3(const ConfigReader& config, ModelConfig* model) {
  ReadCommonFields(config, model);
  ReadAttention(config, model);
  ReadExperts(config, 3, model);
  ReadScoring(config, "sigmoid", model);
  ReadChoice(config, "noaux_tc", model);
  model->moe.renormalize = config.BoolOr("norm_topk_prob", true);
}

}  // namespace moed::families
