// moed quantize: what it writes loads as what --quantization makes of the original, to the bit.
#include "model/quantize_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "checkpoint/safetensors_file.h"
#include "engine/moe_engine.h"
#include "engine/score.h"
#include "model/open_model.h"
#include "tests/support/seeded_checkpoint.h"
#include "tests/support/temp_dir.h"

namespace moed {
namespace {

using kernels::WeightFormat;
using ::testing::HasSubstr;
using testing::TempDir;

struct Loaded {
  std::vector<float> logits;
  uint64_t weight_bytes = 0;
};

Loaded Load(const std::string& model, const std::vector<WeightPolicy::Rule>& rules, bool as_stored) {
  MoeEngineOptions options;
  options.model_dir = model;
  options.weight_rules = rules;
  options.weights_as_stored = as_stored;
  options.num_threads = 2;
  options.max_num_seqs = 1;
  const auto engine = MoeEngine::Load(options);
  EXPECT_TRUE(engine.ok()) << engine.status();
  Loaded loaded;
  if (!engine.ok()) return loaded;
  loaded.weight_bytes = (*engine)->memory_plan().weights;
  std::vector<std::vector<int32_t>> prompts(1);
  for (int32_t i = 0; i < 24; ++i) prompts[0].push_back((i * i * 7 + 3) % std::min(1000, (*engine)->info().vocab_size));
  const absl::Status status = ScorePrompts(**engine, prompts, 0, [&](size_t, size_t, std::span<const float> row) {
    loaded.logits.insert(loaded.logits.end(), row.begin(), row.end());
  });
  EXPECT_TRUE(status.ok()) << status;
  return loaded;
}

absl::StatusOr<QuantizeReport> Quantize(const std::string& model, const std::string& out,
                                        const std::vector<WeightPolicy::Rule>& rules,
                                        uint64_t max_file_bytes = uint64_t{5} << 30) {
  MOED_ASSIGN_OR_RETURN(const auto checkpoint, OpenModel(model));
  ThreadPool threads(2);
  QuantizeOptions options;
  options.rules = rules;
  options.max_file_bytes = max_file_bytes;
  return QuantizeModel(*checkpoint, out, options, &threads);
}

void ExpectLoadsAsMade(const std::string& model, const std::vector<WeightPolicy::Rule>& rules) {
  const TempDir dir;
  const std::string out = dir.File("out");
  const auto report = Quantize(model, out, rules);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_LT(report->bytes_after, report->bytes_before);
  for (const QuantizedPart& part : report->parts) {
    EXPECT_GT(part.relative_error, 1e-4);
    EXPECT_LT(part.relative_error, part.format.type == WeightFormat::Type::kInt4 ? 0.12 : 0.012);
  }
  const Loaded expected = Load(model, rules, /*as_stored=*/false), actual = Load(out, {}, /*as_stored=*/true);
  ASSERT_FALSE(expected.logits.empty());
  EXPECT_EQ(actual.logits, expected.logits);
  EXPECT_EQ(actual.weight_bytes, expected.weight_bytes);
}

TEST(QuantizeModel, LoadsAsMadeWhileLoading) {
  ExpectLoadsAsMade("models/demo", IntegerRules(WeightFormat::Int8()));
  ExpectLoadsAsMade("models/demo", IntegerRules(WeightFormat::Int4(32)));
}

TEST(QuantizeModel, PartsAndLayersMayDiffer) {
  ExpectLoadsAsMade(
      "models/demo",
      {{.parts = {WeightPart::kExperts}, .first_layer = 1, .last_layer = 2, .format = WeightFormat::Int8(64)},
       {.parts = {WeightPart::kExperts}, .format = WeightFormat::Int4(32)}});
}

class FamilyTest : public ::testing::TestWithParam<const char*> {};

TEST_P(FamilyTest, LoadsAsMadeWhileLoading) {
  const TempDir dir;
  const std::string golden = std::string("tests/golden/seeded/") + GetParam();
  std::filesystem::copy_file(golden + "/config.json", dir.File("config.json"));
  const auto manifest = testing::ReadSeededManifest(golden + "/tensors.txt");
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  ASSERT_TRUE(testing::WriteSeededWeights(*manifest, dir.path()).ok());
  ExpectLoadsAsMade(dir.path(), IntegerRules(WeightFormat::Int8(16)));
}

// Experts as stacks, latent attention, shared experts, dense layers.
INSTANTIATE_TEST_SUITE_P(Families, FamilyTest,
                         ::testing::Values("granitemoeshared", "deepseek_v3", "qwen2_moe_mixed", "llama_biased"),
                         [](const auto& family) { return std::string(family.param); });

// Weights in FP8 or GPTQ become integers too, and what no rule names becomes plain.
TEST(QuantizeModel, TakesQuantisedCheckpoints) {
  for (const char* format : {"fp8", "gptq_v1_act_order"}) {
    const std::vector<WeightPolicy::Rule> rules = {{.parts = {WeightPart::kExperts}, .format = WeightFormat::Int8(32)}};
    const std::string model = std::string("tests/golden/formats/") + format;
    const TempDir dir;
    const auto report = Quantize(model, dir.File("out"), rules);
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(Load(dir.File("out"), {}, true).logits, Load(model, rules, false).logits) << format;
  }
}

TEST(QuantizeModel, CutsFilesAndCopiesWhatIsBesideThem) {
  const TempDir dir;
  const std::string whole = dir.File("whole"), cut = dir.File("cut");
  const auto rules = IntegerRules(WeightFormat::Int8());
  ASSERT_TRUE(Quantize("models/demo", whole, rules).ok());
  ASSERT_TRUE(Quantize("models/demo", cut, rules, 2'000'000).ok());
  EXPECT_TRUE(std::filesystem::exists(cut + "/model.safetensors.index.json"));
  EXPECT_FALSE(std::filesystem::exists(cut + "/model.safetensors"));
  EXPECT_FALSE(std::filesystem::exists(cut + ".partial"));
  for (const char* file : {"tokenizer.json", "generation_config.json"}) {
    EXPECT_EQ(std::filesystem::exists(std::string("models/demo/") + file), std::filesystem::exists(cut + "/" + file));
  }
  EXPECT_EQ(Load(cut, {}, true).logits, Load(whole, {}, true).logits);
}

TEST(QuantizeModel, LeavesNothingBehindWhenItFails) {
  const TempDir dir;
  const auto rules = IntegerRules(WeightFormat::Int8());
  const auto error = [&](const std::string& out, const std::vector<WeightPolicy::Rule>& with) {
    return std::string(Message(Quantize("models/demo", dir.File(out), with).status()));
  };
  std::filesystem::create_directory(dir.File("taken"));
  EXPECT_THAT(error("taken", rules), HasSubstr("taken: is there already"));
  std::filesystem::create_directory(dir.File("half.partial"));
  EXPECT_THAT(error("half", rules), HasSubstr("half.partial: is there already, left by a run"));
  EXPECT_THAT(error("no/where", rules), HasSubstr("there is no folder"));
  EXPECT_THAT(error("none", {}), HasSubstr("no rule makes a weight of this model an integer"));

  const auto checkpoint = OpenModel("models/demo");
  ASSERT_TRUE(checkpoint.ok());
  ThreadPool threads(1);
  QuantizeOptions options;
  options.rules = rules;
  int tensors = 0;
  options.cancelled = [&] { return ++tensors > 5; };
  EXPECT_TRUE(absl::IsCancelled(QuantizeModel(**checkpoint, dir.File("stopped"), options, &threads).status()));
  EXPECT_FALSE(std::filesystem::exists(dir.File("stopped")));
  EXPECT_FALSE(std::filesystem::exists(dir.File("stopped.partial")));
}

}  // namespace
}  // namespace moed
