// Formats chosen on a text, and integers made for it: what is written keeps to the bits, loads as it was tried, and
// predicts better than formats and integers that know nothing of the text.
#include "engine/auto_quantize.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "engine/moe_engine.h"
#include "model/open_model.h"
#include "model/quantize_model.h"
#include "tests/support/seeded_checkpoint.h"
#include "tests/support/temp_dir.h"
#include "tokenizer/tokenizer.h"

namespace moed {
namespace {

using kernels::WeightFormat;
using ::testing::HasSubstr;
using testing::TempDir;

constexpr char kDemo[] = "models/demo";

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

// Windows [first, first + count) of 128 tokens of the demo model's card, from where its continuations begin: prose and
// verse in its two languages.
std::vector<std::vector<int32_t>> CardWindows(size_t first, size_t count) {
  const auto tokenizer = Tokenizer::Load(kDemo);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  std::string text = ReadFile(std::string(kDemo) + "/README.md");
  text = text.substr(text.find("begin samples"));
  const auto ids = (*tokenizer)->Encode(text, EncodeOptions());
  EXPECT_TRUE(ids.ok()) << ids.status();
  auto windows = TokenWindows(*ids, 128);
  EXPECT_GE(windows.size(), first + count);
  return {windows.begin() + static_cast<std::ptrdiff_t>(first),
          windows.begin() + static_cast<std::ptrdiff_t>(first + count)};
}

absl::StatusOr<std::unique_ptr<MoeEngine>> Load(const std::string& model, bool as_stored, int num_threads = 2,
                                                std::vector<WeightPolicy::Rule> rules = {}) {
  MoeEngineOptions options;
  options.model_dir = model;
  options.weights_as_stored = as_stored;
  options.weight_rules = std::move(rules);
  options.num_threads = num_threads;
  options.max_num_seqs = 1;
  options.device = Device{};
  return MoeEngine::Load(options);
}

// An open model that runs on some windows.
struct Model {
  explicit Model(const std::string& path, std::vector<std::vector<int32_t>> windows, int num_threads = 2) {
    auto opened = OpenModel(path);
    EXPECT_TRUE(opened.ok()) << opened.status();
    checkpoint = *std::move(opened);
    auto loaded = Load(path, false, num_threads);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    engine = *std::move(loaded);
    auto created = Calibration::Create(engine.get(), std::move(windows));
    EXPECT_TRUE(created.ok()) << created.status();
    calibration = *std::move(created);
  }

  void Write(const std::vector<WeightPolicy::Rule>& rules, InputStatisticsSource* statistics, const std::string& out) {
    ThreadPool threads(2);
    const auto report = QuantizeModel(*checkpoint, out, {.rules = rules, .statistics = statistics}, &threads);
    ASSERT_TRUE(report.ok()) << report.status();
  }

  // Of the model in a folder, from this one.
  double DivergenceOf(const std::string& model) {
    const auto other = Load(model, true);
    EXPECT_TRUE(other.ok()) << other.status();
    const auto divergence = calibration->DivergenceOf(**other);
    EXPECT_TRUE(divergence.ok()) << divergence.status();
    return *divergence;
  }

  std::unique_ptr<Checkpoint> checkpoint;
  std::unique_ptr<MoeEngine> engine;
  std::unique_ptr<Calibration> calibration;
};

TEST(Calibration, AModelDoesNotDivergeFromItself) {
  Model model(kDemo, CardWindows(0, 2));
  EXPECT_EQ(model.DivergenceOf(kDemo), 0);
}

TEST(Calibration, MakesBetterIntegers) {
  const TempDir dir;
  Model model(kDemo, CardWindows(0, 16)), held_out(kDemo, CardWindows(16, 4));
  const auto rules = IntegerRules(WeightFormat::Int4());
  model.Write(rules, nullptr, dir.File("plain"));
  model.Write(rules, model.calibration.get(), dir.File("calibrated"));
  const double plain = held_out.DivergenceOf(dir.File("plain"));
  const double calibrated = held_out.DivergenceOf(dir.File("calibrated"));
  EXPECT_LT(calibrated, 0.8 * plain) << plain;
  EXPECT_GT(calibrated, 0);
}

TEST(ChooseFormats, KeepsToTheBitsAndBeatsOneFormat) {
  const TempDir dir;
  Model model(kDemo, CardWindows(0, 6)), held_out(kDemo, CardWindows(8, 4));
  int calls = 0;
  ChooseFormatsOptions options{.bits_per_weight = 4.6,
                               .formats = {WeightFormat::Int8(), WeightFormat::Int4(), WeightFormat::Int4(32)}};
  options.progress = [&](double fraction, std::string_view) {
    ++calls;
    EXPECT_GE(fraction, 0);
    EXPECT_LT(fraction, 1);
  };
  const auto chosen = ChooseFormats(model.calibration.get(), *model.checkpoint, options);
  ASSERT_TRUE(chosen.ok()) << chosen.status();
  EXPECT_EQ(chosen->parts.size(), 13);  // attention and experts of 6 layers, and the tied head
  EXPECT_EQ(calls, 13 * 3);
  EXPECT_LE(chosen->bits_per_weight, 4.6);
  EXPECT_GT(chosen->bits_per_weight, 4.4);  // the bits are used, as far as the parts' sizes let them
  for (const PartFormats& part : chosen->parts) {
    EXPECT_EQ(part.tried[0].divergence, 0);
    // Fewer bits cost more. Activations are rounded with either, and where that changes who is routed where, 8 bits are
    // not much better.
    EXPECT_LT(part.tried[1].divergence, part.tried[2].divergence);
    EXPECT_LT(part.tried[2].bytes, part.tried[1].bytes);
  }

  model.Write(chosen->rules, model.calibration.get(), dir.File("chosen"));
  const auto rules = ReadWeightRules(dir.File("chosen") + "/weight_policy.yaml");
  ASSERT_TRUE(rules.ok()) << rules.status();
  ASSERT_EQ(rules->size(), chosen->rules.size());
  for (size_t i = 0; i < rules->size(); ++i) {
    EXPECT_EQ((*rules)[i].parts, chosen->rules[i].parts);
    EXPECT_EQ((*rules)[i].format, chosen->rules[i].format);
    EXPECT_EQ((*rules)[i].first_layer, chosen->rules[i].first_layer);
    EXPECT_EQ((*rules)[i].last_layer, chosen->rules[i].last_layer);
  }
  // The bits are those of the written model in memory, but for routers of 8 outputs in panels of 32.
  const auto loaded = Load(dir.File("chosen"), true);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const double bits = 8.0 * static_cast<double>((*loaded)->memory_plan().weights - 6 * 24 * 192 * sizeof(float));
  EXPECT_NEAR(bits / static_cast<double>(CountParameters((*loaded)->model_config()).total), chosen->bits_per_weight,
              1e-3);
  EXPECT_EQ((*loaded)->memory_plan().weights, Load(kDemo, false, 2, chosen->rules).value()->memory_plan().weights);

  const WeightPolicy uniform = WeightPolicy::Uniform(DType::kBF16, WeightFormat::Int4());
  model.Write(uniform.rules, nullptr, dir.File("uniform"));
  EXPECT_LT(held_out.DivergenceOf(dir.File("chosen")), 0.8 * held_out.DivergenceOf(dir.File("uniform")));
}

TEST(ChooseFormats, IsTheSameForAnyNumberOfThreadsAndLayersAtOnce) {
  std::vector<std::string> written;
  for (const int num_threads : {1, 2}) {
    const TempDir dir;
    Model model(kDemo, CardWindows(0, 2), num_threads);
    if (num_threads == 2) {
      auto one_layer = Calibration::Create(model.engine.get(), CardWindows(0, 2), {.max_moment_bytes = 1});
      ASSERT_TRUE(one_layer.ok());
      model.calibration = *std::move(one_layer);
    }
    ChooseFormatsOptions options{.bits_per_weight = 4.5, .formats = {WeightFormat::Int8(), WeightFormat::Int4()}};
    const auto chosen = ChooseFormats(model.calibration.get(), *model.checkpoint, options);
    ASSERT_TRUE(chosen.ok()) << chosen.status();
    model.Write(chosen->rules, model.calibration.get(), dir.File("out"));
    written.push_back(ReadFile(dir.File("out") + "/model.safetensors"));
  }
  EXPECT_TRUE(written[0] == written[1]);
}

TEST(ChooseFormats, SaysHowManyBitsAreNeeded) {
  Model model(kDemo, CardWindows(0, 1));
  const auto chosen = ChooseFormats(model.calibration.get(), *model.checkpoint,
                                    {.bits_per_weight = 4.0, .formats = {WeightFormat::Int4()}});
  EXPECT_THAT(Message(chosen.status()), HasSubstr("bits_per_weight is 4; in the smallest of the formats this model "
                                                  "takes 4."));
}

TEST(ChooseFormats, CanBeStopped) {
  Model model(kDemo, CardWindows(0, 1));
  int asked = 0;
  auto calibration =
      Calibration::Create(model.engine.get(), CardWindows(0, 1), {.cancelled = [&] { return ++asked > 3; }});
  ASSERT_TRUE(calibration.ok());
  EXPECT_TRUE(absl::IsCancelled(ChooseFormats(calibration->get(), *model.checkpoint, {}).status()));
}

// Stacks of experts, latent attention, shared experts, dense layers, an embedding of its own.
class ChooseFormatsFamilyTest : public ::testing::TestWithParam<const char*> {};

TEST_P(ChooseFormatsFamilyTest, ChoosesAndWrites) {
  const TempDir dir;
  const std::string golden = std::string("tests/golden/seeded/") + GetParam();
  std::filesystem::copy_file(golden + "/config.json", dir.File("config.json"));
  const auto manifest = testing::ReadSeededManifest(golden + "/tensors.txt");
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  ASSERT_TRUE(testing::WriteSeededWeights(*manifest, dir.path()).ok());
  std::vector<std::vector<int32_t>> windows(3);
  for (int32_t i = 0; i < 90; ++i) windows[i / 30].push_back((i * i * 7 + 3) % 100);
  Model model(dir.path(), windows);
  const auto chosen =
      ChooseFormats(model.calibration.get(), *model.checkpoint,
                    {.bits_per_weight = 14, .formats = {WeightFormat::Int8(16), WeightFormat::Int4(16)}});
  ASSERT_TRUE(chosen.ok()) << chosen.status();
  EXPECT_LE(chosen->bits_per_weight, 14);
  for (const PartFormats& part : chosen->parts) {
    for (size_t i = 1; i < part.tried.size(); ++i) EXPECT_GT(part.tried[i].divergence, 0) << part.layer;
  }
  model.Write(chosen->rules, model.calibration.get(), dir.File("out"));
  const double divergence = model.DivergenceOf(dir.File("out"));
  EXPECT_GT(divergence, 0.2 * chosen->divergence);
  EXPECT_LT(divergence, 5 * chosen->divergence);
}

INSTANTIATE_TEST_SUITE_P(Families, ChooseFormatsFamilyTest,
                         ::testing::Values("granitemoeshared", "deepseek_v3", "qwen2_moe_mixed", "llama_biased"),
                         [](const auto& family) { return std::string(family.param); });

}  // namespace
}  // namespace moed
