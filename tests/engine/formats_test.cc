// The formats of weights through the whole engine: quantised checkpoints against transformers with the weights that the
// reference dequantised (tests/golden/make_format_golden.py), and GGUF against safetensors.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "checkpoint/config_reader.h"
#include "checkpoint/safetensors_file.h"
#include "engine/moe_engine.h"
#include "engine/score.h"
#include "model/family.h"
#include "model/open_model.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/seeded_checkpoint.h"
#include "tests/support/temp_dir.h"

namespace moed {
namespace {

using testing::GgufWriter;
using testing::TempDir;

std::vector<float> Logits(const std::string& model, const std::vector<int32_t>& ids, bool as_stored = false) {
  MoeEngineOptions options;
  options.device = Device{};
  options.model_dir = model;
  options.dtype = DType::kF32;
  options.weights_as_stored = as_stored;
  options.num_threads = 2;
  options.max_num_seqs = 1;
  const auto engine = MoeEngine::Load(options);
  EXPECT_TRUE(engine.ok()) << engine.status();
  if (!engine.ok()) return {};
  std::vector<float> logits(ids.size() * (*engine)->info().vocab_size);
  const std::vector<std::vector<int32_t>> prompts = {ids};
  const absl::Status status = ScorePrompts(**engine, prompts, 0, [&](size_t, size_t index, std::span<const float> row) {
    std::copy(row.begin(), row.end(), logits.begin() + index * row.size());
  });
  EXPECT_TRUE(status.ok()) << status;
  return logits;
}

class QuantisedTest : public ::testing::TestWithParam<const char*> {};

// The worst error of each row over the largest logit of all.
std::vector<float> RowErrors(const std::string& format, std::string_view golden_logits, bool as_stored) {
  const std::string folder = "tests/golden/formats/" + format;
  const auto golden = SafetensorsFile::Open(folder + "/golden.safetensors");
  EXPECT_TRUE(golden.ok()) << golden.status();
  const TensorView ids = *(*golden)->Get("ids"), expected = *(*golden)->Get(golden_logits);
  const std::vector<float> actual = Logits(format.starts_with("gguf_") ? folder + "/model.gguf" : folder,
                                           {ids.As<int32_t>(), ids.As<int32_t>() + ids.dim(0)}, as_stored);
  EXPECT_EQ(std::ssize(actual), expected.num_elements());
  float largest = 0.0f;
  for (int64_t i = 0; i < expected.num_elements(); ++i) largest = std::max(largest, std::abs(expected.As<float>()[i]));
  EXPECT_GT(largest, 0.5f);
  std::vector<float> errors(expected.dim(0));
  for (int64_t i = 0; i < std::ssize(actual); ++i) {
    float& worst = errors[i / expected.dim(1)];
    worst = std::max(worst, std::abs(actual[i] - expected.As<float>()[i]) / largest);
  }
  std::sort(errors.begin(), errors.end());
  std::printf("%s: worst error %.2e of the largest logit, median of the rows %.2e\n", format.c_str(), errors.back(),
              errors[errors.size() / 2]);
  return errors;
}

TEST_P(QuantisedTest, LogitsAreThoseOfTheDequantisedWeights) {
  // fp32 rounding of two programs; the bar for formats is 1e-3.
  EXPECT_LE(RowErrors(GetParam(), "logits", /*as_stored=*/false).back(), 1e-5f);
}

INSTANTIATE_TEST_SUITE_P(Formats, QuantisedTest,
                         ::testing::Values("awq", "gptq_v1_act_order", "gptq_v2_int8", "compressed_w8a16",
                                           "compressed_w4a16", "compressed_w8a8", "compressed_fp8", "fp8",
                                           "gguf_mixtral"),
                         [](const auto& format) { return std::string(format.param); });

class RoundedTest : public ::testing::TestWithParam<const char*> {};

// A value that two programs put on different sides of a boundary is off by a whole step of 8 bits, so single rows may
// be worse than the rest.
TEST_P(RoundedTest, ActivationsAreQuantisedAsTheCheckpointSays) {
  const std::vector<float> errors = RowErrors(GetParam(), "logits_rounded", /*as_stored=*/true);
  EXPECT_LE(errors[errors.size() * 3 / 4], 1e-5f);
  EXPECT_LE(errors.back(), 5e-3f);
  // Floats are something else.
  EXPECT_GT(RowErrors(GetParam(), "logits_rounded", /*as_stored=*/false).front(), 1e-4f);
}

INSTANTIATE_TEST_SUITE_P(Formats, RoundedTest, ::testing::Values("compressed_w8a8", "compressed_fp8", "fp8"),
                         [](const auto& format) { return std::string(format.param); });

// ---- A folder of safetensors as a GGUF file in F32 ----

class GgufConverter {
 public:
  GgufConverter(const std::string& folder, std::string arch)
      : checkpoint_(*OpenModel(folder)), config_(*ReadModelConfig(*checkpoint_)), arch_(std::move(arch)) {}

  std::string Convert() {
    AddMetadata();
    const TensorNames& names = config_.names;
    const int64_t hidden = config_.hidden_size;
    Add("token_embd", {names.embedding}, config_.vocab_size, hidden);
    if (!config_.tied_embeddings) Add("output", {names.lm_head}, config_.vocab_size, hidden);
    Add("output_norm", {names.final_norm}, 0, hidden);
    for (int32_t layer = 0; layer < config_.num_layers(); ++layer) AddLayer(layer);
    return writer_.Bytes();
  }

 private:
  std::string Key(std::string_view rest) const { return fmt::format("{}.{}", arch_, rest); }

  void AddMetadata() {
    writer_.AddString("general.architecture", arch_);
    const std::pair<const char*, int32_t> integers[] = {
        {"context_length", config_.max_positions},
        {"embedding_length", config_.hidden_size},
        {"block_count", config_.num_layers()},
        {"feed_forward_length", config_.intermediate_size},
        {"attention.head_count", config_.attention.num_heads},
        {"attention.head_count_kv", config_.attention.num_kv_heads},
        {"attention.key_length", config_.attention.k_head_dim},
        {"expert_count", config_.moe.num_experts},
        {"expert_used_count", config_.moe.top_k},
        {"expert_feed_forward_length", config_.moe.intermediate_size},
        {"expert_shared_feed_forward_length", config_.moe.shared_intermediate_size}};
    for (const auto& [key, value] : integers) {
      if (value > 0) writer_.AddInt(Key(key), static_cast<uint32_t>(value));
    }
    if (const auto* linear = std::get_if<LinearScaling>(&config_.rope.scaling)) {
      writer_.AddString(Key("rope.scaling.type"), "linear");
      writer_.AddFloat(Key("rope.scaling.factor"), static_cast<float>(linear->factor));
    }
    writer_.AddFloat(Key("rope.freq_base"), static_cast<float>(config_.rope.theta));
    writer_.AddFloat(Key("attention.layer_norm_rms_epsilon"), config_.norm_eps);
  }

  void AddLayer(int32_t layer) {
    const TensorNames& names = config_.names;
    const AttentionConfig& attention = config_.attention;
    const int64_t hidden = config_.hidden_size, dim = attention.k_head_dim;
    const auto of = [&](const std::string& pattern, int32_t expert = 0) {
      return fmt::format(fmt::runtime(pattern), layer, expert);
    };
    const auto block = [&](const char* name) { return fmt::format("blk.{}.{}", layer, name); };
    const int64_t q_rows = attention.num_heads * dim, kv_rows = attention.num_kv_heads * dim;
    Add(block("attn_norm"), {of(names.attention_norm)}, 0, hidden);
    Add(block("attn_q"), {of(names.q_proj)}, q_rows, hidden, dim);
    Add(block("attn_k"), {of(names.k_proj)}, kv_rows, hidden, dim);
    Add(block("attn_v"), {of(names.v_proj)}, kv_rows, hidden);
    Add(block("attn_output"), {of(names.o_proj)}, hidden, q_rows);
    if (attention.qkv_bias) {
      AddBias(block("attn_q"), of(names.q_proj), q_rows, dim);
      AddBias(block("attn_k"), of(names.k_proj), kv_rows, dim);
      AddBias(block("attn_v"), of(names.v_proj), kv_rows);
    }
    if (attention.output_bias) AddBias(block("attn_output"), of(names.o_proj), hidden);
    if (attention.qk_norm) {
      Add(block("attn_q_norm"), {of(names.q_norm)}, 0, attention.qk_norm_full_width ? q_rows : dim);
      Add(block("attn_k_norm"), {of(names.k_norm)}, 0, attention.qk_norm_full_width ? kv_rows : dim);
    }
    Add(block("ffn_norm"), {of(names.ffn_norm)}, 0, hidden);
    const bool is_moe = config_.layers[layer].is_moe;
    const int64_t inner = is_moe ? config_.moe.intermediate_size : config_.intermediate_size;
    if (!is_moe) {
      Add(block("ffn_gate"), {of(names.dense_gate)}, inner, hidden);
      Add(block("ffn_up"), {of(names.dense_up)}, inner, hidden);
      Add(block("ffn_down"), {of(names.dense_down)}, hidden, inner);
      if (config_.dense_bias) {
        AddBias(block("ffn_gate"), of(names.dense_gate), inner);
        AddBias(block("ffn_up"), of(names.dense_up), inner);
        AddBias(block("ffn_down"), of(names.dense_down), hidden);
      }
      return;
    }
    Add(block("ffn_gate_inp"), {of(names.router)}, config_.moe.num_experts, hidden);
    if (const int64_t shared = config_.moe.shared_intermediate_size; shared > 0) {
      Add(block("ffn_gate_shexp"), {of(names.shared_gate)}, shared, hidden);
      Add(block("ffn_up_shexp"), {of(names.shared_up)}, shared, hidden);
      Add(block("ffn_down_shexp"), {of(names.shared_down)}, hidden, shared);
      Add(block("ffn_gate_inp_shexp"), {of(names.shared_expert_gate)}, 1, hidden);
    }
    const auto experts = [&](const std::string& pattern) {
      std::vector<std::string> all;
      for (int32_t expert = 0; expert < config_.moe.num_experts; ++expert) all.push_back(of(pattern, expert));
      return all;
    };
    Add(block("ffn_gate_exps"), experts(names.expert_gate), inner, hidden);
    Add(block("ffn_up_exps"), experts(names.expert_up), inner, hidden);
    Add(block("ffn_down_exps"), experts(names.expert_down), hidden, inner);
  }

  // The tensors `sources`, [rows, columns] or vectors where rows is 0, one behind the other; heads of head_dim rows are
  // interleaved where the architecture has them so.
  void Add(const std::string& name, const std::vector<std::string>& sources, int64_t rows, int64_t columns,
           int64_t head_dim = 0) {
    std::vector<float> values;
    for (const std::string& source : sources) {
      const auto view = rows == 0 ? checkpoint_->Get(source, {columns}) : checkpoint_->Get(source, {rows, columns});
      ASSERT_TRUE(view.ok()) << view.status();
      const size_t begin = values.size();
      values.resize(begin + view->num_elements());
      ConvertToFloat(view->data, view->dtype, view->num_elements(), values.data() + begin);
    }
    if (head_dim > 0 && arch_ == "llama") values = Interleave(values, columns, head_dim);
    std::vector<int64_t> shape = rows <= 1 ? std::vector{columns} : std::vector{rows, columns};
    if (sources.size() > 1) shape.insert(shape.begin(), std::ssize(sources));
    writer_.AddTensor(name + ".weight", shape, /*type=*/0,
                      {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)});
  }

  void AddBias(const std::string& name, std::string source, int64_t size, int64_t head_dim = 0) {
    source.replace(source.size() - 6, 6, "bias");  // for "weight"
    const auto view = checkpoint_->Get(source, {size});
    ASSERT_TRUE(view.ok()) << view.status();
    std::vector<float> values(size);
    ConvertToFloat(view->data, view->dtype, size, values.data());
    if (head_dim > 0 && arch_ == "llama") values = Interleave(values, 1, head_dim);
    writer_.AddTensor(name + ".bias", {size}, /*type=*/0,
                      {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)});
  }

  static std::vector<float> Interleave(const std::vector<float>& values, int64_t columns, int64_t head_dim) {
    std::vector<float> result(values.size());
    const int64_t rows = std::ssize(values) / columns;
    for (int64_t row = 0; row < rows; ++row) {
      // x_j and x_{j + d/2}, which turn together, come to lie beside each other.
      const int64_t j = row % head_dim;
      const int64_t to = row - j + (j < head_dim / 2 ? 2 * j : 2 * (j - head_dim / 2) + 1);
      std::copy_n(values.begin() + row * columns, columns, result.begin() + to * columns);
    }
    return result;
  }

  std::unique_ptr<Checkpoint> checkpoint_;
  ModelConfig config_;
  std::string arch_;
  GgufWriter writer_;
};

TEST(Gguf, LogitsAreThoseOfSafetensorsToTheBit) {
  const std::pair<const char*, const char*> models[] = {{"tests/golden/mixtral_plain", "llama"},
                                                        {"tests/golden/mixtral_tied", "llama"},
                                                        {"tests/golden/qwen3_moe_sharded", "qwen3moe"},
                                                        {"tests/golden/qwen3_moe_odd", "qwen3moe"},
                                                        {"models/demo", "qwen3moe"}};
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < 40; ++i) ids.push_back((i * i * 7 + 3) % 1000);
  for (const auto& [folder, arch] : models) {
    const TempDir dir;
    const std::string path = dir.Write("model.gguf", GgufConverter(folder, arch).Convert());
    const std::vector<float> expected = Logits(folder, ids), actual = Logits(path, ids);
    ASSERT_FALSE(expected.empty());
    EXPECT_EQ(actual, expected) << folder;
  }
}

TEST(Gguf, LogitsOfOtherFamiliesAreThoseOfSafetensorsToTheBit) {
  const std::pair<const char*, const char*> models[] = {
      {"llama_biased", "llama"}, {"qwen2", "qwen2"}, {"qwen2_moe", "qwen2moe"}, {"qwen3", "qwen3"}, {"olmoe", "olmoe"}};
  for (const auto& [name, arch] : models) {
    const TempDir dir;
    const std::string golden = fmt::format("tests/golden/seeded/{}", name);
    std::filesystem::copy_file(golden + "/config.json", dir.File("config.json"));
    const auto manifest = testing::ReadSeededManifest(golden + "/tensors.txt");
    ASSERT_TRUE(manifest.ok()) << manifest.status();
    ASSERT_TRUE(testing::WriteSeededWeights(*manifest, dir.path()).ok());
    const std::string path = dir.Write("model.gguf", GgufConverter(dir.path(), arch).Convert());
    std::vector<int32_t> ids;
    for (int32_t i = 0; i < 20; ++i) ids.push_back(i * 5 + 3);
    const std::vector<float> expected = Logits(dir.path(), ids), actual = Logits(path, ids);
    ASSERT_FALSE(expected.empty());
    EXPECT_EQ(actual, expected) << name;
  }
}

TEST(Gguf, NamesWhatIsWrongWithAModel) {
  const TempDir dir;
  const auto error = [&](const GgufWriter& writer) {
    return std::string(Message(OpenModel(dir.Write("model.gguf", writer.Bytes())).status()));
  };
  GgufWriter none, unknown, empty;
  EXPECT_THAT(error(none), ::testing::HasSubstr("metadata \"general.architecture\" is missing"));
  unknown.AddString("general.architecture", "qwen3moo");
  EXPECT_THAT(error(unknown),
              ::testing::HasSubstr("\"qwen3moo\", which is not known; the nearest that is: \"qwen3moe\""));
  empty.AddString("general.architecture", "qwen3moe");
  EXPECT_THAT(error(empty), ::testing::HasSubstr("there is no tensor \"token_embd.weight\""));
  const auto format = OpenModel(dir.File("model.gguf"), {.load_format = LoadFormat::kSafetensors, .dummy_seed = 0});
  EXPECT_THAT(std::string(Message(format.status())), ::testing::HasSubstr("load_format must be auto or gguf"));
  const auto folder = OpenModel(dir.path(), {.load_format = LoadFormat::kGguf, .dummy_seed = 0});
  EXPECT_THAT(std::string(Message(folder.status())), ::testing::HasSubstr("the model must be a .gguf file"));
  EXPECT_TRUE(absl::IsNotFound(OpenModel(dir.File("none.gguf")).status()));
}

}  // namespace
}  // namespace moed
