#include "tests/support/gguf_converter.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <variant>

#include "base/logging.h"
#include "model/family.h"
#include "model/open_model.h"
#include "model/rope_table.h"

namespace moed::testing {
namespace {

std::string Name(const std::string& pattern, int32_t layer, int32_t expert = 0) {
  return fmt::format(fmt::runtime(pattern), layer, expert);
}
std::string Block(int32_t layer, std::string_view name) { return fmt::format("blk.{}.{}", layer, name); }

// Rows [rows, columns] whose pairs that turn together, x_j and x_{j + d/2}, come to lie beside each other.
std::vector<float> Interleave(const std::vector<float>& values, int64_t columns, int64_t head_dim) {
  std::vector<float> result(values.size());
  const int64_t rows = std::ssize(values) / columns;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t j = row % head_dim;
    const int64_t to = row - j + (j < head_dim / 2 ? 2 * j : 2 * (j - head_dim / 2) + 1);
    std::copy_n(values.begin() + row * columns, columns, result.begin() + to * columns);
  }
  return result;
}

// Rows first, first + step, … of each of `count` matrices [rows, columns].
std::vector<float> Rows(const std::vector<float>& values, int64_t count, int64_t rows, int64_t columns, int64_t first,
                        int64_t step, int64_t taken) {
  std::vector<float> result;
  for (int64_t matrix = 0; matrix < count; ++matrix) {
    for (int64_t i = 0; i < taken; ++i) {
      const auto from = values.begin() + (matrix * rows + first + i * step) * columns;
      result.insert(result.end(), from, from + columns);
    }
  }
  return result;
}

// Each of `count` matrices [rows, columns] the other way round.
std::vector<float> Transpose(const std::vector<float>& values, int64_t count, int64_t rows, int64_t columns) {
  std::vector<float> result(values.size());
  for (int64_t i = 0; i < count * rows * columns; ++i) {
    const int64_t matrix = i / (rows * columns), row = i / columns % rows, column = i % columns;
    result[(matrix * columns + column) * rows + row] = values[i];
  }
  return result;
}

}  // namespace

GgufConverter::GgufConverter(const std::string& folder, std::string arch, const GgufConverterOptions& options)
    : checkpoint_(*OpenModel(folder)),
      config_(*ReadModelConfig(*checkpoint_)),
      arch_(std::move(arch)),
      options_(options) {}

std::string GgufConverter::Key(std::string_view rest) const { return fmt::format("{}.{}", arch_, rest); }

std::string GgufConverter::Convert() {
  AddMetadata();
  const TensorNames& names = config_.names;
  const int64_t hidden = config_.hidden_size;
  Add("token_embd", names.embedding, config_.vocab_size, hidden);
  if (!config_.tied_embeddings) Add("output", names.lm_head, config_.vocab_size, hidden);
  if (config_.lm_head_bias) AddBias("output", names.lm_head, config_.vocab_size);
  AddNorm("output_norm", names.final_norm, hidden);
  for (int32_t layer = 0; layer < config_.num_layers(); ++layer) AddLayer(layer);
  return writer_.Bytes();
}

void GgufConverter::AddMetadata() {
  writer_.AddString("general.architecture", arch_);
  const AttentionConfig& attention = config_.attention;
  const LatentAttentionConfig& latent = attention.latent;
  const bool is_latent = attention.is_latent();
  const bool split = is_latent && !options_.whole_kv_b;
  const int64_t further_blocks = Is("glm4moe") ? 1 : 0;
  const std::pair<const char*, int64_t> integers[] = {
      {"context_length", config_.max_positions},
      {"embedding_length", config_.hidden_size},
      {"block_count", config_.num_layers() + further_blocks},
      {"nextn_predict_layers", further_blocks},
      {"feed_forward_length", config_.intermediate_size},
      {"attention.head_count", attention.num_heads},
      {"attention.head_count_kv", split ? 1 : attention.num_kv_heads},
      {"attention.key_length", split ? latent.cached_dim() : attention.k_head_dim},
      {"attention.value_length", split ? latent.kv_lora_rank : attention.v_head_dim},
      {"attention.key_length_mla", split ? attention.k_head_dim : 0},
      {"attention.value_length_mla", split ? attention.v_head_dim : 0},
      {"attention.q_lora_rank", latent.q_lora_rank},
      {"attention.kv_lora_rank", latent.kv_lora_rank},
      {"rope.dimension_count", config_.rope.rotary_dim},
      {"expert_count", config_.moe.num_experts},
      {"expert_used_count", config_.moe.top_k},
      {"expert_feed_forward_length", config_.moe.intermediate_size}};
  for (const auto& [key, value] : integers) {
    if (value > 0) writer_.AddInt(Key(key), static_cast<uint32_t>(value));
  }
  if (config_.num_layers() > 0 && config_.layers[0].window > 0) {
    writer_.AddInt(Key("attention.sliding_window"), static_cast<uint32_t>(config_.layers[0].window));
  }
  if (Is("granitemoe")) {
    writer_.AddFloat(Key("attention.scale"), attention.scale);
    writer_.AddFloat(Key("embedding_scale"), config_.embedding_multiplier);
    writer_.AddFloat(Key("residual_scale"), config_.residual_multiplier);
    writer_.AddFloat(Key("logit_scale"), 1.0f / config_.logits_multiplier);
  }
  writer_.AddFloat(Key("attention.layer_norm_rms_epsilon"), config_.norm_eps);
  AddRope();
  AddRouterMetadata();
}

void GgufConverter::AddRope() {
  writer_.AddFloat(Key("rope.freq_base"), static_cast<float>(config_.rope.theta));
  const auto scaling_key = [&](const char* rest) { return Key(fmt::format("rope.scaling.{}", rest)); };
  if (const auto* linear = std::get_if<LinearScaling>(&config_.rope.scaling)) {
    writer_.AddString(scaling_key("type"), "linear");
    writer_.AddFloat(scaling_key("factor"), static_cast<float>(linear->factor));
  } else if (const auto* yarn = std::get_if<YarnScaling>(&config_.rope.scaling)) {
    writer_.AddString(scaling_key("type"), "yarn");
    writer_.AddFloat(scaling_key("factor"), static_cast<float>(yarn->factor));
    writer_.AddInt(scaling_key("original_context_length"), static_cast<uint32_t>(yarn->original_positions));
    writer_.AddFloat(scaling_key("yarn_beta_fast"), static_cast<float>(yarn->beta_fast));
    if (yarn->mscale_all_dim != 0) {
      writer_.AddFloat(scaling_key("yarn_log_multiplier"), static_cast<float>(0.1 * yarn->mscale_all_dim));
    }
  } else if (std::holds_alternative<Llama3Scaling>(config_.rope.scaling)) {
    RopeConfig plain = config_.rope;
    plain.scaling = std::monostate();
    const RopeFrequencies before = ComputeRopeFrequencies(plain, config_.max_positions);
    const RopeFrequencies after = ComputeRopeFrequencies(config_.rope, config_.max_positions);
    std::vector<float> factors;
    for (size_t i = 0; i < before.radians.size(); ++i) factors.push_back(before.radians[i] / after.radians[i]);
    Write("rope_freqs.weight", {std::ssize(factors)}, factors);
  } else if (const auto* longrope = std::get_if<LongRopeScaling>(&config_.rope.scaling)) {
    const bool is_long = config_.max_positions > longrope->original_positions;
    writer_.AddInt(scaling_key("original_context_length"), static_cast<uint32_t>(longrope->original_positions));
    writer_.AddFloat(scaling_key("attn_factor"),
                     static_cast<float>(is_long ? longrope->long_magnitude : longrope->short_magnitude));
    for (const auto& [name, list] : {std::pair("rope_factors_long.weight", &longrope->long_factors),
                                     {"rope_factors_short.weight", &longrope->short_factors}}) {
      Write(name, {std::ssize(*list)}, std::vector<float>(list->begin(), list->end()));
    }
  }
}

void GgufConverter::AddRouterMetadata() {
  const MoeConfig& moe = config_.moe;
  const int64_t shared = moe.shared_intermediate_size;
  if (!Is("deepseek2") && !Is("glm4moe")) {
    if (shared > 0) writer_.AddInt(Key("expert_shared_feed_forward_length"), static_cast<uint32_t>(shared));
    return;
  }
  uint32_t dense = 0;
  while (!config_.layers[dense].is_moe) ++dense;
  writer_.AddInt(Key("leading_dense_block_count"), dense);
  writer_.AddInt(Key("expert_shared_count"), static_cast<uint32_t>(shared / moe.intermediate_size));
  writer_.AddFloat(Key("expert_weights_scale"), moe.weight_scale);
  writer_.AddBool(Key("expert_weights_norm"), moe.renormalize);
  writer_.AddInt(Key("expert_gating_func"), moe.scoring == kernels::RouterScoring::kSigmoid ? 2 : 1);
  if (moe.num_groups > 1) {
    writer_.AddInt(Key("expert_group_count"), static_cast<uint32_t>(moe.num_groups));
    writer_.AddInt(Key("expert_group_used_count"), static_cast<uint32_t>(moe.top_groups));
  }
}

void GgufConverter::AddLayer(int32_t layer) {
  const TensorNames& names = config_.names;
  const int64_t hidden = config_.hidden_size;
  AddNorm(Block(layer, "attn_norm"), Name(names.attention_norm, layer), hidden);
  if (config_.attention.is_latent()) {
    AddLatentAttention(layer);
  } else {
    AddAttention(layer);
  }
  const std::string o_proj = Name(names.o_proj, layer);
  Add(Block(layer, "attn_output"), o_proj, hidden, config_.attention.num_heads * config_.attention.v_head_dim);
  if (config_.attention.output_bias) AddBias(Block(layer, "attn_output"), o_proj, hidden);
  const bool post_norm = Is("gpt-oss") || Is("glm4moe");
  AddNorm(Block(layer, post_norm ? "post_attention_norm" : "ffn_norm"), Name(names.ffn_norm, layer), hidden);
  if (!config_.layers[layer].is_moe) {
    return AddFeedForward(layer, Name(names.dense_gate, layer), Name(names.dense_up, layer),
                          Name(names.dense_down, layer), config_.intermediate_size, "", config_.dense_bias);
  }
  AddRouter(layer);
  if (const int64_t shared = config_.moe.shared_intermediate_size; shared > 0) {
    AddFeedForward(layer, Name(names.shared_gate, layer), Name(names.shared_up, layer), Name(names.shared_down, layer),
                   shared, "_shexp", false);
    if (config_.moe.shared_gate) {
      Write(Block(layer, "ffn_gate_inp_shexp.weight"), {hidden},
            Read(Name(names.shared_expert_gate, layer), {1, hidden}));
    }
  }
  AddExperts(layer);
}

void GgufConverter::AddAttention(int32_t layer) {
  const TensorNames& names = config_.names;
  const AttentionConfig& attention = config_.attention;
  const int64_t hidden = config_.hidden_size, dim = attention.k_head_dim;
  const int64_t q_rows = attention.num_heads * dim, kv_rows = attention.num_kv_heads * dim;
  Add(Block(layer, "attn_q"), Name(names.q_proj, layer), q_rows, hidden, dim);
  Add(Block(layer, "attn_k"), Name(names.k_proj, layer), kv_rows, hidden, dim);
  Add(Block(layer, "attn_v"), Name(names.v_proj, layer), kv_rows, hidden);
  if (attention.qkv_bias) {
    AddBias(Block(layer, "attn_q"), Name(names.q_proj, layer), q_rows, dim);
    AddBias(Block(layer, "attn_k"), Name(names.k_proj, layer), kv_rows, dim);
    AddBias(Block(layer, "attn_v"), Name(names.v_proj, layer), kv_rows);
  }
  if (attention.qk_norm) {
    Add(Block(layer, "attn_q_norm"), Name(names.q_norm, layer), 0, attention.qk_norm_full_width ? q_rows : dim);
    Add(Block(layer, "attn_k_norm"), Name(names.k_norm, layer), 0, attention.qk_norm_full_width ? kv_rows : dim);
  }
  if (attention.sinks) Add(Block(layer, "attn_sinks"), Name(names.sinks, layer), 0, attention.num_heads);
}

void GgufConverter::AddLatentAttention(int32_t layer) {
  const TensorNames& names = config_.names;
  const AttentionConfig& attention = config_.attention;
  const LatentAttentionConfig& latent = attention.latent;
  const int64_t hidden = config_.hidden_size, heads = attention.num_heads, rank = latent.kv_lora_rank;
  const int64_t q_rows = heads * attention.k_head_dim;
  if (latent.q_lora_rank > 0) {
    Add(Block(layer, "attn_q_a"), Name(names.q_a_proj, layer), latent.q_lora_rank, hidden);
    Add(Block(layer, "attn_q_a_norm"), Name(names.q_a_norm, layer), 0, latent.q_lora_rank);
    Add(Block(layer, "attn_q_b"), Name(names.q_b_proj, layer), q_rows, latent.q_lora_rank);
  } else {
    Add(Block(layer, "attn_q"), Name(names.q_proj, layer), q_rows, hidden);
  }
  Add(Block(layer, "attn_kv_a_mqa"), Name(names.kv_a_proj, layer), latent.cached_dim(), hidden);
  Add(Block(layer, "attn_kv_a_norm"), Name(names.kv_a_norm, layer), 0, rank);
  const int64_t nope = latent.nope_head_dim, v = attention.v_head_dim, rows = nope + v;
  const std::string kv_b = Name(names.kv_b_proj, layer);
  if (options_.whole_kv_b) return Add(Block(layer, "attn_kv_b"), kv_b, heads * rows, rank);
  const std::vector<float> values = Read(kv_b, {heads * rows, rank});
  const std::vector<float> keys = Rows(values, heads, rows, rank, 0, 1, nope);
  Write(Block(layer, "attn_k_b.weight"), {heads, rank, nope}, Transpose(keys, heads, nope, rank));
  Write(Block(layer, "attn_v_b.weight"), {heads, v, rank}, Rows(values, heads, rows, rank, nope, 1, v));
}

void GgufConverter::AddRouter(int32_t layer) {
  const MoeConfig& moe = config_.moe;
  const std::string name = Name(config_.names.router, layer);
  Add(Block(layer, "ffn_gate_inp"), name, moe.num_experts, config_.hidden_size);
  if (moe.router_bias) AddBias(Block(layer, "ffn_gate_inp"), name, moe.num_experts);
  if (moe.correction_bias) {
    Write(Block(layer, "exp_probs_b.bias"), {moe.num_experts},
          Read(Name(config_.names.correction_bias, layer), {moe.num_experts}));
  }
}

void GgufConverter::AddExperts(int32_t layer) {
  const TensorNames& names = config_.names;
  const int64_t experts = config_.moe.num_experts, inner = config_.moe.intermediate_size, hidden = config_.hidden_size;
  const bool transposed = config_.expert_layout == ExpertLayout::kTransposed;
  const auto write = [&](const char* name, int64_t rows, int64_t columns, const std::vector<float>& values) {
    Write(Block(layer, fmt::format("ffn_{}_exps.weight", name)), {experts, rows, columns}, values);
  };
  if (config_.expert_layout == ExpertLayout::kSeparate) {
    const auto stack = [&](const std::string& pattern, int64_t rows, int64_t columns) {
      std::vector<float> all;
      for (int32_t expert = 0; expert < experts; ++expert) {
        const std::vector<float> one = Read(Name(pattern, layer, expert), {rows, columns});
        all.insert(all.end(), one.begin(), one.end());
      }
      return all;
    };
    write("gate", inner, hidden, stack(names.expert_gate, inner, hidden));
    write("up", inner, hidden, stack(names.expert_up, inner, hidden));
    return write("down", hidden, inner, stack(names.expert_down, hidden, inner));
  }
  const auto stack = [&](const std::string& pattern, int64_t rows, int64_t columns) {
    if (!transposed) return Read(Name(pattern, layer), {experts, rows, columns});
    return Transpose(Read(Name(pattern, layer), {experts, columns, rows}), experts, columns, rows);
  };
  const std::vector<float> fused = stack(names.expert_gate, 2 * inner, hidden);
  const int64_t up_first = transposed ? 1 : inner, step = transposed ? 2 : 1;
  write("gate", inner, hidden, Rows(fused, experts, 2 * inner, hidden, 0, step, inner));
  write("up", inner, hidden, Rows(fused, experts, 2 * inner, hidden, up_first, step, inner));
  write("down", hidden, inner, stack(names.expert_down, hidden, inner));
  if (!config_.moe.expert_bias) return;
  const std::vector<float> bias = Read(Name(names.expert_gate, layer) + "_bias", {experts, 2 * inner});
  Write(Block(layer, "ffn_gate_exps.bias"), {experts, inner}, Rows(bias, experts, 2 * inner, 1, 0, step, inner));
  Write(Block(layer, "ffn_up_exps.bias"), {experts, inner}, Rows(bias, experts, 2 * inner, 1, up_first, step, inner));
  Write(Block(layer, "ffn_down_exps.bias"), {experts, hidden},
        Read(Name(names.expert_down, layer) + "_bias", {experts, hidden}));
}

void GgufConverter::AddFeedForward(int32_t layer, const std::string& gate, const std::string& up,
                                   const std::string& down, int64_t inner, std::string_view suffix, bool bias) {
  const int64_t hidden = config_.hidden_size;
  const auto block = [&](const char* name) { return Block(layer, fmt::format("ffn_{}{}", name, suffix)); };
  if (up.empty()) {
    const std::vector<float> fused = Read(gate, {2 * inner, hidden});
    Write(block("gate") + ".weight", {inner, hidden}, Rows(fused, 1, 2 * inner, hidden, 0, 1, inner));
    Write(block("up") + ".weight", {inner, hidden}, Rows(fused, 1, 2 * inner, hidden, inner, 1, inner));
  } else {
    Add(block("gate"), gate, inner, hidden);
    Add(block("up"), up, inner, hidden);
  }
  Add(block("down"), down, hidden, inner);
  if (!bias) return;
  AddBias(block("gate"), gate, inner);
  AddBias(block("up"), up, inner);
  AddBias(block("down"), down, hidden);
}

std::vector<float> GgufConverter::Read(const std::string& name, std::initializer_list<int64_t> shape) {
  const auto view = checkpoint_->Get(name, shape);
  MOED_CHECK(view.ok(), "{}", view.status().ToString());
  std::vector<float> values(view->num_elements());
  ConvertToFloat(view->data, view->dtype, view->num_elements(), values.data());
  return values;
}

void GgufConverter::Write(const std::string& name, const std::vector<int64_t>& shape,
                          const std::vector<float>& values) {
  writer_.AddTensor(name, shape, /*type=*/0,
                    {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)});
}

void GgufConverter::Add(const std::string& name, const std::string& source, int64_t rows, int64_t columns,
                        int64_t head_dim) {
  std::vector<float> values = rows == 0 ? Read(source, {columns}) : Read(source, {rows, columns});
  if (head_dim > 0 && interleaves_heads()) values = Interleave(values, columns, head_dim);
  Write(name + ".weight", rows == 0 ? std::vector{columns} : std::vector{rows, columns}, values);
}

void GgufConverter::AddNorm(const std::string& name, const std::string& source, int64_t size) {
  Add(name, source, 0, size);
  if (config_.norm == NormKind::kLayer) AddBias(name, source, size);
}

void GgufConverter::AddBias(const std::string& name, const std::string& source, int64_t size, int64_t head_dim) {
  std::vector<float> values = Read(source.substr(0, source.size() - 6) + "bias", {size});  // for "weight"
  if (head_dim > 0 && interleaves_heads()) values = Interleave(values, 1, head_dim);
  Write(name + ".bias", {size}, values);
}

}  // namespace moed::testing
