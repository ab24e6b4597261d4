#include "model/model_config.h"

#include <algorithm>

namespace moed {

int32_t ModelConfig::num_moe_layers() const {
  return static_cast<int32_t>(
      std::count_if(layers.begin(), layers.end(), [](const LayerConfig& l) { return l.is_moe; }));
}

namespace {

absl::Status ValidateGroups(const MoeConfig& moe) {
  if (moe.num_experts % moe.num_groups != 0) {
    return InvalidArgument("config.json: n_group is {}; it must divide the number of experts ({})", moe.num_groups,
                           moe.num_experts);
  }
  if (moe.top_groups > moe.num_groups) {
    return InvalidArgument("config.json: topk_group is {}; it must be at most n_group ({})", moe.top_groups,
                           moe.num_groups);
  }
  const int32_t allowed = moe.num_experts / moe.num_groups * moe.top_groups;
  if (moe.top_k > allowed) {
    return InvalidArgument("config.json: num_experts_per_tok is {}; {} groups of experts hold only {}", moe.top_k,
                           moe.top_groups, allowed);
  }
  return absl::OkStatus();
}

// Of one feed-forward.
int64_t FfnParameters(int64_t hidden, int64_t intermediate, bool bias) {
  return 3 * hidden * intermediate + (bias ? 2 * intermediate + hidden : 0);
}

// Of one layer.
int64_t AttentionParameters(const ModelConfig& config) {
  const AttentionConfig& a = config.attention;
  const int64_t hidden = config.hidden_size, q_rows = int64_t{a.num_heads} * a.k_head_dim;
  const int64_t output =
      int64_t{a.num_heads} * a.v_head_dim * hidden + (a.output_bias ? hidden : 0) + (a.sinks ? a.num_heads : 0);
  if (!a.is_latent()) {
    const int64_t rows = q_rows + int64_t{a.num_kv_heads} * (a.k_head_dim + a.v_head_dim);
    return rows * hidden + (a.qkv_bias ? rows : 0) + output;
  }
  const LatentAttentionConfig& latent = a.latent;
  const int64_t q = latent.q_lora_rank > 0 ? latent.q_lora_rank * (hidden + q_rows) : q_rows * hidden;
  const int64_t kv_b = int64_t{a.num_heads} * (latent.nope_head_dim + a.v_head_dim) * latent.kv_lora_rank;
  const int64_t bias = a.qkv_bias ? latent.q_lora_rank + latent.cached_dim() : 0;
  return q + latent.cached_dim() * hidden + kv_b + bias + output;
}

// Fields that are sound one by one may still multiply to more than any machine holds, and than an int64 counts.
absl::Status ValidateSize(const ModelConfig& config) {
  constexpr double kMostParameters = 1e15;
  const AttentionConfig& a = config.attention;
  const double hidden = config.hidden_size, layers = config.num_layers();
  const double heads = double{1} * a.num_heads * (a.k_head_dim + a.v_head_dim) * (hidden + a.latent.kv_lora_rank);
  const double feed_forward = 3.0 * hidden * std::max(config.intermediate_size, config.moe.intermediate_size);
  const double parameters = 2.0 * config.vocab_size * hidden +
                            layers * (2.0 * heads + feed_forward * std::max(1, config.moe.num_experts) +
                                      3.0 * hidden * static_cast<double>(config.moe.shared_intermediate_size));
  if (parameters <= kMostParameters) return absl::OkStatus();
  return InvalidArgument("config.json: its sizes make {:.1e} parameters; at most {:.0e} can be counted", parameters,
                         kMostParameters);
}

}  // namespace

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
  if (config.num_moe_layers() > 0) MOED_RETURN_IF_ERROR(ValidateGroups(config.moe));
  MOED_RETURN_IF_ERROR(ValidateSize(config));
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
    const AttentionConfig& attention = config.attention;
    CacheSpec& spec = specs.emplace_back(CacheSpec{.num_kv_heads = attention.num_kv_heads,
                                                   .k_head_dim = attention.k_head_dim,
                                                   .v_head_dim = attention.v_head_dim,
                                                   .window = layer.window,
                                                   .dtype = dtype});
    if (!attention.is_latent()) continue;
    spec.num_kv_heads = 1;
    spec.k_head_dim = attention.latent.cached_dim();
    spec.v_head_dim = attention.latent.kv_lora_rank;
    spec.v_in_k = true;
  }
  return specs;
}

ParameterCount CountParameters(const ModelConfig& config) {
  const AttentionConfig& a = config.attention;
  const MoeConfig& moe = config.moe;
  const int64_t hidden = config.hidden_size;
  const int64_t table = config.vocab_size * hidden;
  const int64_t norm = config.norm == NormKind::kLayer ? 2 * hidden : hidden;
  const int64_t qk_norm =
      a.qk_norm_full_width ? int64_t{a.num_heads + a.num_kv_heads} * a.k_head_dim : 2 * a.k_head_dim;
  const int64_t expert = FfnParameters(hidden, moe.intermediate_size, moe.expert_bias);
  ParameterCount count;
  count.embedding = (config.tied_embeddings ? table : 2 * table) + (config.lm_head_bias ? config.vocab_size : 0);
  count.norms = norm;
  int64_t active_experts = 0;
  for (const LayerConfig& layer : config.layers) {
    count.attention += AttentionParameters(config);
    count.norms += 2 * norm + (a.qk_norm ? qk_norm : 0);
    if (a.is_latent()) count.norms += a.latent.q_lora_rank + a.latent.kv_lora_rank;
    if (!layer.is_moe) {
      count.dense += FfnParameters(hidden, config.intermediate_size, config.dense_bias);
      continue;
    }
    count.router += moe.num_experts * (hidden + moe.router_bias + moe.correction_bias);
    count.experts += moe.num_experts * expert;
    active_experts += moe.top_k * expert;
    if (moe.shared_intermediate_size > 0) {
      count.shared_experts += FfnParameters(hidden, moe.shared_intermediate_size, /*bias=*/false);
      if (moe.shared_gate) count.router += hidden;
    }
  }
  const int64_t always = count.attention + count.router + count.shared_experts + count.dense + count.norms;
  count.total = count.embedding + always + count.experts;
  count.active = count.embedding - (config.tied_embeddings ? 0 : table - hidden) + always + active_experts;
  return count;
}

}  // namespace moed
