#include "model/model_config.h"

#include <algorithm>

namespace moed {

int32_t ModelConfig::num_moe_layers() const {
  return static_cast<int32_t>(
      std::count_if(layers.begin(), layers.end(), [](const LayerConfig& l) { return l.is_moe; }));
}

absl::Status Validate(const ModelConfig& config) {
  const AttentionConfig& attention = config.attention;
  if (attention.num_heads % attention.num_kv_heads != 0) {
    return InvalidArgument("config.json: num_attention_heads is {}; it must be a multiple of num_key_value_heads ({})",
                           attention.num_heads, attention.num_kv_heads);
  }
  if (config.rope.rotary_dim % 2 != 0 || config.rope.rotary_dim > attention.k_head_dim) {
    return InvalidArgument(
        "config.json: {} dimensions of each head are rotated; that must be even and at most head_dim ({})",
        config.rope.rotary_dim, attention.k_head_dim);
  }
  if (config.num_moe_layers() > 0 && config.moe.top_k > config.moe.num_experts) {
    return InvalidArgument("config.json: num_experts_per_tok is {}; it must be at most the number of experts ({})",
                           config.moe.top_k, config.moe.num_experts);
  }
  if (!(config.norm_eps > 0.0f)) {
    return InvalidArgument("config.json: rms_norm_eps is {}; it must be positive", config.norm_eps);
  }
  for (int32_t id : config.eos_token_ids) {
    if (id < 0 || id >= config.vocab_size) {
      return InvalidArgument("config.json: eos_token_id {} is outside the vocabulary of {}", id, config.vocab_size);
    }
  }
  return absl::OkStatus();
}

std::vector<CacheSpec> CacheSpecs(const ModelConfig& config, DType dtype) {
  std::vector<CacheSpec> specs;
  for (const LayerConfig& layer : config.layers) {
    specs.push_back(CacheSpec{.num_kv_heads = config.attention.num_kv_heads,
                              .k_head_dim = config.attention.k_head_dim,
                              .v_head_dim = config.attention.v_head_dim,
                              .window = layer.window,
                              .dtype = dtype});
  }
  return specs;
}

ParameterCount CountParameters(const ModelConfig& config) {
  const AttentionConfig& a = config.attention;
  const int64_t hidden = config.hidden_size;
  const int64_t table = config.vocab_size * hidden;
  const int64_t qkv_rows =
      int64_t{a.num_heads + a.num_kv_heads} * a.k_head_dim + int64_t{a.num_kv_heads} * a.v_head_dim;
  const int64_t output_columns = int64_t{a.num_heads} * a.v_head_dim;
  ParameterCount count;
  count.embedding = config.tied_embeddings ? table : 2 * table;
  int64_t active_experts = 0;
  for (const LayerConfig& layer : config.layers) {
    count.attention +=
        (qkv_rows + output_columns) * hidden + (a.qkv_bias ? qkv_rows : 0) + (a.output_bias ? hidden : 0);
    count.norms += 2 * hidden + (a.qk_norm ? 2 * a.k_head_dim : 0);
    if (layer.is_moe) {
      const int64_t expert = 3 * hidden * config.moe.intermediate_size;
      count.router += config.moe.num_experts * hidden;
      count.experts += config.moe.num_experts * expert;
      active_experts += config.moe.top_k * expert;
    } else {
      count.dense += 3 * hidden * config.intermediate_size;
    }
  }
  count.norms += hidden;
  const int64_t shared = count.attention + count.router + count.dense + count.norms;
  count.total = count.embedding + shared + count.experts;
  count.active = table + (config.tied_embeddings ? 0 : hidden) + shared + active_experts;
  return count;
}

}  // namespace moed
