// Hunyuan-A13B (Tencent 2025).
#include <algorithm>
#include <vector>

#include "model/families/families.h"
#include "model/family.h"

namespace moed::families {
namespace {

// A number that may be written once for each layer; all must be the same.
int32_t Uniform(const ConfigReader& config, std::string_view key, int32_t fallback) {
  const std::vector<int64_t> values = config.Ints(key, {1, 1 << 20});
  if (values.empty()) return fallback;
  if (std::any_of(values.begin(), values.end(), [&](int64_t value) { return value != values[0]; })) {
    config.Fail(Unimplemented("config.json: {} differs between layers; that is not supported", key));
  }
  return static_cast<int32_t>(values[0]);
}

}  // namespace

void ReadHunyuanMoe(const ConfigReader& config, ModelConfig* model) {
  ReadCommonFields(config, model);
  AttentionConfig& attention = model->attention;
  attention.qk_norm = attention.qk_norm_after_rope = config.BoolOr("use_qk_norm", true);
  attention.qkv_bias = attention.output_bias = config.BoolOr("attention_bias", false);

  MoeConfig& moe = model->moe;
  moe.num_experts = Uniform(config, config.Has("num_experts") ? "num_experts" : "num_local_experts", 1);
  moe.top_k = Uniform(config, config.Has("moe_topk") ? "moe_topk" : "num_experts_per_tok", 1);
  moe.intermediate_size = Uniform(config, "moe_intermediate_size", model->intermediate_size);
  moe.renormalize = true;
  moe.shared_intermediate_size = SharedSize(config, Uniform(config, "num_shared_expert", 1), moe.intermediate_size);

  TensorNames& names = model->names;
  names.q_norm = "model.layers.{0}.self_attn.query_layernorm.weight";
  names.k_norm = "model.layers.{0}.self_attn.key_layernorm.weight";
  names.router = "model.layers.{0}.mlp.gate.wg.weight";
  names.shared_gate = "model.layers.{0}.mlp.shared_mlp.gate_proj.weight";
  names.shared_up = "model.layers.{0}.mlp.shared_mlp.up_proj.weight";
  names.shared_down = "model.layers.{0}.mlp.shared_mlp.down_proj.weight";
}

}  // namespace moed::families
