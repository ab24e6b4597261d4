#include "tests/support/stories_model.h"

#include <array>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "checkpoint/mapped_file.h"
#include "checkpoint/safetensors_writer.h"

namespace moed::testing {
namespace {

// The header of llama2.c's first format: seven integers. A positive vocab_size says that the classifier is the
// embedding.
struct Llama2cConfig {
  int32_t dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len;
  int64_t head_dim() const { return dim / n_heads; }
  int64_t kv_dim() const { return head_dim() * n_kv_heads; }
};

// The weights, each with all layers one after the other, in the order of the file.
struct Llama2cWeights {
  std::span<const float> embedding;       // [vocab, dim]
  std::span<const float> attention_norm;  // [layers, dim]
  std::span<const float> wq;              // [layers, dim, dim]
  std::span<const float> wk, wv;          // [layers, kv_dim, dim]
  std::span<const float> wo;              // [layers, dim, dim]
  std::span<const float> ffn_norm;        // [layers, dim]
  std::span<const float> w1;              // [layers, hidden, dim]
  std::span<const float> w2;              // [layers, dim, hidden]
  std::span<const float> w3;              // [layers, hidden, dim]
  std::span<const float> final_norm;      // [dim]
};

absl::StatusOr<std::pair<Llama2cConfig, Llama2cWeights>> ReadLlama2c(const MappedFile& file) {
  Llama2cConfig config;
  if (file.size() < sizeof(config)) return InvalidArgument("{}: too short", file.path());
  std::memcpy(&config, file.data(), sizeof(config));
  if (config.dim <= 0 || config.n_heads <= 0 || config.vocab_size <= 0) {
    return InvalidArgument("{}: not llama2.c's format with a shared classifier", file.path());
  }
  const float* next = reinterpret_cast<const float*>(file.data() + sizeof(config));
  const float* end = next + (file.size() - sizeof(config)) / sizeof(float);
  bool complete = true;
  const auto Take = [&](int64_t count) -> std::span<const float> {
    if (end - next < count) {
      complete = false;
      return {};
    }
    return {std::exchange(next, next + count), static_cast<size_t>(count)};
  };
  const int64_t layers = config.n_layers, dim = config.dim, hidden = config.hidden_dim;
  Llama2cWeights weights;
  weights.embedding = Take(config.vocab_size * dim);
  weights.attention_norm = Take(layers * dim);
  weights.wq = Take(layers * dim * dim);
  weights.wk = Take(layers * config.kv_dim() * dim);
  weights.wv = Take(layers * config.kv_dim() * dim);
  weights.wo = Take(layers * dim * dim);
  weights.ffn_norm = Take(layers * dim);
  weights.w1 = Take(layers * hidden * dim);
  weights.w2 = Take(layers * dim * hidden);
  weights.w3 = Take(layers * hidden * dim);
  weights.final_norm = Take(dim);
  if (!complete) return InvalidArgument("{}: too short", file.path());
  return std::pair(config, weights);
}

// llama2.c rotates the pairs (2j, 2j+1) of a head, Mixtral the pairs (j, j + head_dim/2): the rows of Q and K move so
// that each pair meets the same angle. Scores are sums over a head, so nothing else changes.
std::vector<float> HalvesFromPairs(std::span<const float> weight, int64_t head_dim, int64_t dim) {
  std::vector<float> moved(weight.size());
  const int64_t rows = static_cast<int64_t>(weight.size()) / dim;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t head = row / head_dim, j = row % head_dim;
    const int64_t from = head * head_dim + (j < head_dim / 2 ? 2 * j : 2 * (j - head_dim / 2) + 1);
    std::memcpy(&moved[row * dim], &weight[from * dim], dim * sizeof(float));
  }
  return moved;
}

absl::Status WriteFile(const std::string& path, std::string_view contents) {
  std::ofstream file(path, std::ios::binary);
  file.write(contents.data(), static_cast<std::streamsize>(contents.size()));
  file.close();
  return file ? absl::OkStatus() : Internal("{}: cannot be written", path);
}

absl::Status WriteConfig(const Llama2cConfig& config, const StoriesOptions& options, const std::string& out) {
  const nlohmann::json json = {
      {"architectures", {"MixtralForCausalLM"}},
      {"model_type", "mixtral"},
      {"hidden_act", "silu"},
      {"hidden_size", config.dim},
      {"intermediate_size", config.hidden_dim},
      {"num_hidden_layers", config.n_layers},
      {"num_attention_heads", config.n_heads},
      {"num_key_value_heads", config.n_kv_heads},
      {"num_local_experts", options.num_experts},
      {"num_experts_per_tok", options.experts_per_token},
      {"vocab_size", config.vocab_size},
      {"max_position_embeddings", config.seq_len},
      {"rms_norm_eps", 1e-5},
      {"rope_theta", 10000.0},
      {"sliding_window", nullptr},
      {"tie_word_embeddings", true},
      {"bos_token_id", 1},
      {"eos_token_id", 2},
      {"torch_dtype", "float32"},
  };
  MOED_RETURN_IF_ERROR(WriteFile(out + "/config.json", json.dump(2)));
  const nlohmann::json tokenizer = {
      {"tokenizer_class", "LlamaTokenizer"},
      {"add_bos_token", true},
      {"add_eos_token", false},
      {"bos_token", "<s>"},
      {"eos_token", "</s>"},
      {"unk_token", "<unk>"},
      {"legacy", true},
  };
  return WriteFile(out + "/tokenizer_config.json", tokenizer.dump(2));
}

absl::Status WriteWeights(const Llama2cConfig& config, const Llama2cWeights& weights, const StoriesOptions& options,
                          const std::string& path) {
  const int64_t dim = config.dim, hidden = config.hidden_dim, kv_dim = config.kv_dim();
  std::vector<std::pair<std::string, TensorView>> tensors;
  const auto Add = [&tensors](std::string name, const float* data, std::initializer_list<int64_t> shape) {
    tensors.emplace_back(std::move(name), TensorView::Of(data, shape));
  };
  const std::vector<float> wq = HalvesFromPairs(weights.wq, config.head_dim(), dim);
  const std::vector<float> wk = HalvesFromPairs(weights.wk, config.head_dim(), dim);
  std::vector<float> router(config.n_layers * options.num_experts * dim);
  std::mt19937_64 random(options.seed);
  std::normal_distribution<float> normal;
  for (float& value : router) value = normal(random);

  Add("model.embed_tokens.weight", weights.embedding.data(), {config.vocab_size, dim});
  Add("model.norm.weight", weights.final_norm.data(), {dim});
  for (int64_t layer = 0; layer < config.n_layers; ++layer) {
    const std::string prefix = fmt::format("model.layers.{}.", layer);
    Add(prefix + "input_layernorm.weight", &weights.attention_norm[layer * dim], {dim});
    Add(prefix + "post_attention_layernorm.weight", &weights.ffn_norm[layer * dim], {dim});
    Add(prefix + "self_attn.q_proj.weight", &wq[layer * dim * dim], {dim, dim});
    Add(prefix + "self_attn.k_proj.weight", &wk[layer * kv_dim * dim], {kv_dim, dim});
    Add(prefix + "self_attn.v_proj.weight", &weights.wv[layer * kv_dim * dim], {kv_dim, dim});
    Add(prefix + "self_attn.o_proj.weight", &weights.wo[layer * dim * dim], {dim, dim});
    Add(prefix + "block_sparse_moe.gate.weight", &router[layer * options.num_experts * dim],
        {options.num_experts, dim});
    for (int expert = 0; expert < options.num_experts; ++expert) {
      const std::string name = fmt::format("{}block_sparse_moe.experts.{}.", prefix, expert);
      Add(name + "w1.weight", &weights.w1[layer * hidden * dim], {hidden, dim});
      Add(name + "w2.weight", &weights.w2[layer * dim * hidden], {dim, hidden});
      Add(name + "w3.weight", &weights.w3[layer * hidden * dim], {hidden, dim});
    }
  }
  return WriteSafetensors(path, tensors, {{"format", "pt"}});
}

// The little of protobuf's wire format that a tokenizer.model needs (sentencepiece_model.proto).
class ProtoWriter {
 public:
  void Varint(int field, uint64_t value) {
    Raw(static_cast<uint64_t>(field) << 3);
    Raw(value);
  }
  void Float(int field, float value) {
    Raw(static_cast<uint64_t>(field) << 3 | 5);
    char bytes[sizeof(value)];
    std::memcpy(bytes, &value, sizeof(value));
    text_.append(bytes, sizeof(bytes));
  }
  void Bytes(int field, std::string_view value) {
    Raw(static_cast<uint64_t>(field) << 3 | 2);
    Raw(value.size());
    text_ += value;
  }
  const std::string& text() const { return text_; }

 private:
  void Raw(uint64_t value) {
    for (; value >= 0x80; value >>= 7) text_ += static_cast<char>(value | 0x80);
    text_ += static_cast<char>(value);
  }
  std::string text_;
};

// llama2.c's tokenizer (longest length, then score, length and text of each piece) back to the SentencePiece model that
// it was made from: there, spaces are written U+2581 and the first 259 pieces have types of their own.
absl::Status WriteTokenizer(const MappedFile& file, int32_t vocab_size, const std::string& path) {
  enum PieceType { kNormal = 1, kUnknown = 2, kControl = 3, kByte = 6 };
  constexpr int kFirstByte = 3, kFirstNormal = kFirstByte + 256;
  constexpr std::array<std::string_view, kFirstByte> kSpecial = {"<unk>", "<s>", "</s>"};
  std::string_view rest = file.contents();
  if (rest.size() < sizeof(int32_t)) return InvalidArgument("{}: too short", file.path());
  rest.remove_prefix(sizeof(int32_t));
  ProtoWriter model;
  for (int id = 0; id < vocab_size; ++id) {
    float score;
    int32_t length;
    if (rest.size() < sizeof(score) + sizeof(length)) return InvalidArgument("{}: too short", file.path());
    std::memcpy(&score, rest.data(), sizeof(score));
    std::memcpy(&length, rest.data() + sizeof(score), sizeof(length));
    rest.remove_prefix(sizeof(score) + sizeof(length));
    if (length < 0 || rest.size() < static_cast<size_t>(length)) return InvalidArgument("{}: too short", file.path());
    std::string text;
    for (const char c : rest.substr(0, length)) {
      if (c == ' ') {
        text += "\u2581";
      } else {
        text += c;
      }
    }
    rest.remove_prefix(length);
    const PieceType type = id == 0 ? kUnknown : id < kFirstByte ? kControl : id < kFirstNormal ? kByte : kNormal;
    ProtoWriter piece;
    piece.Bytes(1, id < kFirstByte ? kSpecial[id] : std::string_view(text));
    piece.Float(2, score);
    piece.Varint(3, type);
    model.Bytes(1, piece.text());
  }
  ProtoWriter trainer;
  trainer.Varint(3, 2);   // model_type: BPE
  trainer.Varint(35, 1);  // byte_fallback
  model.Bytes(2, trainer.text());
  ProtoWriter normalizer;
  normalizer.Bytes(1, "identity");
  normalizer.Varint(3, 1);  // add_dummy_prefix
  normalizer.Varint(4, 0);  // remove_extra_whitespaces
  normalizer.Varint(5, 1);  // escape_whitespaces
  model.Bytes(3, normalizer.text());
  return WriteFile(path, model.text());
}

}  // namespace

std::optional<std::string> StoriesFolder() {
  const char* data = std::getenv("MOED_TEST_DATA");
  if (data == nullptr) return std::nullopt;
  return std::string(data) + "/model/stories260K";
}

absl::Status WriteStoriesModel(const std::string& stories, const std::string& out, const StoriesOptions& options) {
  MOED_ASSIGN_OR_RETURN(const MappedFile model, MappedFile::Open(stories + "/stories260K.bin"));
  MOED_ASSIGN_OR_RETURN(const MappedFile tokenizer, MappedFile::Open(stories + "/tok512.bin"));
  MOED_ASSIGN_OR_RETURN(const auto parts, ReadLlama2c(model));
  const auto& [config, weights] = parts;
  MOED_RETURN_IF_ERROR(WriteConfig(config, options, out));
  MOED_RETURN_IF_ERROR(WriteTokenizer(tokenizer, config.vocab_size, out + "/tokenizer.model"));
  return WriteWeights(config, weights, options, out + "/model.safetensors");
}

}  // namespace moed::testing
