// The formats of weights through the whole engine: quantised checkpoints against transformers with the weights that the
// reference dequantised (tests/golden/make_format_golden.py), and GGUF against safetensors.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "checkpoint/config_reader.h"
#include "checkpoint/safetensors_file.h"
#include "engine/moe_engine.h"
#include "engine/score.h"
#include "model/family.h"
#include "model/open_model.h"
#include "tests/support/gguf_converter.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/seeded_checkpoint.h"
#include "tests/support/temp_dir.h"
#include "tests/support/test_device.h"

namespace moed {
namespace {

using testing::GgufConverter;
using testing::GgufWriter;
using testing::TempDir;

std::vector<float> Logits(const std::string& model, const std::vector<int32_t>& ids, bool as_stored = false) {
  MoeEngineOptions options;
  options.device = test::DeviceUnderTest();
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
std::vector<float> RowErrors(const std::string& format, bool rounded, bool as_stored) {
  const std::string folder = "tests/golden/formats/" + format;
  const auto golden = SafetensorsFile::Open(folder + "/golden.safetensors");
  EXPECT_TRUE(golden.ok()) << golden.status();
  const TensorView ids = *(*golden)->Get(rounded ? "ids_rounded" : "ids");
  const TensorView expected = *(*golden)->Get(rounded ? "logits_rounded" : "logits");
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
  EXPECT_LE(RowErrors(GetParam(), /*rounded=*/false, /*as_stored=*/false).back(), 1e-5f);
}

INSTANTIATE_TEST_SUITE_P(Formats, QuantisedTest,
                         ::testing::Values("awq", "gptq_v1_act_order", "gptq_v2_int8", "compressed_w8a16",
                                           "compressed_w4a16", "compressed_w8a8", "compressed_fp8", "fp8",
                                           "gguf_mixtral"),
                         [](const auto& format) { return std::string(format.param); });

class RoundedTest : public ::testing::TestWithParam<const char*> {};

// The prompts are such that no value lies near a boundary between two steps of 8 bits, where two programs may round it
// to different sides.
TEST_P(RoundedTest, ActivationsAreQuantisedAsTheCheckpointSays) {
  EXPECT_LE(RowErrors(GetParam(), /*rounded=*/true, /*as_stored=*/true).back(), 1e-5f);
  // Floats are something else.
  EXPECT_GT(RowErrors(GetParam(), /*rounded=*/true, /*as_stored=*/false).front(), 1e-4f);
}

INSTANTIATE_TEST_SUITE_P(Formats, RoundedTest, ::testing::Values("compressed_w8a8", "compressed_fp8", "fp8"),
                         [](const auto& format) { return std::string(format.param); });

TEST(Gguf, LogitsAreThoseOfSafetensorsToTheBit) {
  const std::pair<const char*, const char*> models[] = {{"tests/golden/mixtral_plain", "llama"},
                                                        {"tests/golden/mixtral_tied", "llama"},
                                                        {"tests/golden/qwen3_moe_sharded", "qwen3moe"},
                                                        {"tests/golden/qwen3_moe_odd", "qwen3moe"},
                                                        {"models/demo", "qwen3moe"}};
  std::vector<int32_t> ids(40);
  for (int32_t i = 0; i < 40; ++i) ids[i] = (i * i * 7 + 3) % 1000;
  for (const auto& [folder, arch] : models) {
    const TempDir dir;
    const std::string path = dir.Write("model.gguf", GgufConverter(folder, arch).Convert());
    const std::vector<float> expected = Logits(folder, ids), actual = Logits(path, ids);
    ASSERT_FALSE(expected.empty());
    EXPECT_EQ(actual, expected) << folder;
  }
}

struct GgufFamily {
  const char *golden, *arch;
  float tolerance = 0.0f;  // of the largest logit
  bool whole_kv_b = false;
  // Fields of config.json that GGUF has no place for, as the published models have them.
  const char* published = "{}";
};

class GgufFamilyTest : public ::testing::TestWithParam<GgufFamily> {};

TEST_P(GgufFamilyTest, LogitsAreThoseOfSafetensors) {
  const auto& [name, arch, tolerance, whole_kv_b, published] = GetParam();
  const TempDir dir;
  const std::string golden = fmt::format("tests/golden/seeded/{}", name);
  std::ifstream file(golden + "/config.json");
  nlohmann::json config = nlohmann::json::parse(file);
  config.update(nlohmann::json::parse(published));
  dir.Write("config.json", config.dump());
  const auto manifest = testing::ReadSeededManifest(golden + "/tensors.txt");
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  ASSERT_TRUE(testing::WriteSeededWeights(*manifest, dir.path()).ok());
  const std::string path =
      dir.Write("model.gguf", GgufConverter(dir.path(), arch, {.whole_kv_b = whole_kv_b}).Convert());
  std::vector<int32_t> ids(40);
  for (int32_t i = 0; i < 40; ++i) ids[i] = i * 5 + 3;
  const std::vector<float> expected = Logits(dir.path(), ids), actual = Logits(path, ids);
  ASSERT_FALSE(expected.empty());
  ASSERT_EQ(actual.size(), expected.size());
  float largest = 0.0f, worst = 0.0f;
  for (size_t i = 0; i < expected.size(); ++i) {
    largest = std::max(largest, std::abs(expected[i]));
    worst = std::max(worst, std::abs(actual[i] - expected[i]));
  }
  EXPECT_LE(worst, tolerance * largest) << worst / largest;
}

INSTANTIATE_TEST_SUITE_P(
    Families, GgufFamilyTest,
    ::testing::Values(GgufFamily{"llama_biased", "llama"}, GgufFamily{"qwen2", "qwen2"},
                      GgufFamily{"qwen2_moe", "qwen2moe"}, GgufFamily{"qwen3", "qwen3"}, GgufFamily{"olmoe", "olmoe"},
                      GgufFamily{"deepseek_v2_lite", "deepseek2"}, GgufFamily{"deepseek_v3", "deepseek2"},
                      GgufFamily{"kimi_k2", "deepseek2", 0.0f, /*whole_kv_b=*/true}, GgufFamily{"glm4_moe", "glm4moe"},
                      GgufFamily{"glm4_moe_air", "glm4moe"},
                      GgufFamily{"gpt_oss", "gpt-oss", 0.0f, false, R"({"swiglu_limit": 7.0})"},
                      GgufFamily{"granitemoe_biased", "granitemoe"}, GgufFamily{"granitemoeshared", "granitemoe"},
                      GgufFamily{"mixtral_window", "llama"},
                      GgufFamily{"phimoe_plain", "phimoe", 0.0f, false, R"({"router_jitter_noise": 0.01})"},
                      // Metadata and factors of RoPE are rounded to fp32 in a GGUF file.
                      GgufFamily{"llama", "llama", 1e-5f},
                      GgufFamily{"phimoe", "phimoe", 1e-5f, false, R"({"router_jitter_noise": 0.01})"}),
    [](const auto& family) { return std::string(family.param.golden); });

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
