// Against transformers, every family: the checkpoints of tests/golden/seeded, written here from their seeds and loaded
// as any other. What the files hold is described in tests/golden/README.md.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/safetensors_file.h"
#include "engine/moe_engine.h"
#include "engine/score.h"
#include "scheduler/policy.h"
#include "scheduler/scheduler.h"
#include "tests/support/seeded_checkpoint.h"
#include "tests/support/serve_all.h"
#include "tests/support/temp_dir.h"
#include "tests/support/test_device.h"

namespace moed {
namespace {

using test::ServeAll;
using test::Served;

const std::filesystem::path kSeededDir = "tests/golden/seeded";
constexpr double kTolerance = 1e-4;  // of the largest logit of the row
constexpr SequenceId kSubject = 1;

std::vector<std::string> GoldenNames() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(kSeededDir)) {
    if (entry.is_directory()) names.push_back(entry.path().filename());
  }
  std::sort(names.begin(), names.end());
  return names;
}

struct Golden {
  std::vector<int32_t> ids;      // the prompt
  std::vector<int32_t> greedy;   // its continuation
  std::vector<int32_t> rows;     // tokens whose logits are kept, the last one among them
  std::vector<int32_t> columns;  // which logits of them
  std::vector<float> logits;     // [rows, columns], fp32
  std::vector<float> largest;    // [rows]: the largest magnitude of all logits of the row
  std::vector<float> last;       // [vocab]: of the last token all
  float bf16_error = 0.0f;       // of transformers' own bf16 run, relative to its fp32 run
  int32_t max_model_len = 0;
};

template <typename T>
std::vector<T> Values(SafetensorsFile& file, const std::string& name) {
  const auto view = file.Get(name);
  EXPECT_TRUE(view.ok()) << view.status();
  return std::vector<T>(view->As<T>(), view->As<T>() + view->num_elements());
}

Golden ReadGolden(const std::string& name) {
  const auto file = SafetensorsFile::Open(kSeededDir / name / "golden.safetensors");
  EXPECT_TRUE(file.ok()) << file.status();
  return Golden{.ids = Values<int32_t>(**file, "ids"),
                .greedy = Values<int32_t>(**file, "greedy"),
                .rows = Values<int32_t>(**file, "rows"),
                .columns = Values<int32_t>(**file, "columns"),
                .logits = Values<float>(**file, "logits"),
                .largest = Values<float>(**file, "largest"),
                .last = Values<float>(**file, "last"),
                .bf16_error = Values<float>(**file, "bf16_error").at(0),
                .max_model_len = std::stoi((*file)->metadata().at("max_model_len"))};
}

class SeededGoldenTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    golden_ = ReadGolden(GetParam());
    auto manifest = testing::ReadSeededManifest(kSeededDir / GetParam() / "tensors.txt");
    ASSERT_TRUE(manifest.ok()) << manifest.status();
    manifest_ = *std::move(manifest);
    std::ifstream config(kSeededDir / GetParam() / "config.json");
    config_ = nlohmann::json::parse(config);
  }

  std::unique_ptr<MoeEngine> LoadEngine(DType dtype, Device device = test::DeviceUnderTest()) {
    dir_.Write("config.json", config_.dump());
    const absl::Status written = testing::WriteSeededWeights(manifest_, dir_.path());
    EXPECT_TRUE(written.ok()) << written;
    MoeEngineOptions options;
    options.device = device;
    options.model_dir = dir_.path();
    options.dtype = dtype;
    options.num_threads = 2;
    options.max_num_seqs = 8;
    options.max_model_len = golden_.max_model_len;
    auto engine = MoeEngine::Load(options);
    EXPECT_TRUE(engine.ok()) << engine.status();
    return engine.ok() ? *std::move(engine) : nullptr;
  }

  // The worst of the kept logits, relative to the largest of its row.
  double WorstError(Engine& engine) const {
    double worst = 0.0;
    const auto compare = [&](float actual, float expected, float largest) {
      const double error = std::abs(actual - expected) / largest;
      // Not std::max, which would pass over a NaN.
      if (!(error <= worst)) worst = error;
    };
    const auto sink = [&](size_t, size_t index, std::span<const float> row) {
      const auto kept = std::find(golden_.rows.begin(), golden_.rows.end(), static_cast<int32_t>(index));
      if (kept == golden_.rows.end()) return;
      const size_t r = kept - golden_.rows.begin();
      for (size_t c = 0; c < golden_.columns.size(); ++c) {
        compare(row[golden_.columns[c]], golden_.logits[r * golden_.columns.size() + c], golden_.largest[r]);
      }
      if (index + 1 < golden_.ids.size()) return;
      for (size_t i = 0; i < row.size(); ++i) compare(row[i], golden_.last[i], golden_.largest[r]);
    };
    const std::vector<int32_t> prompts[] = {golden_.ids};
    const absl::Status scored = ScorePrompts(engine, prompts, /*chunk=*/0, sink);
    EXPECT_TRUE(scored.ok()) << scored;
    return worst;
  }

  // All logits of the prompt, a row a token.
  std::vector<std::vector<float>> PromptLogits(Engine& engine) const {
    std::vector<std::vector<float>> rows;
    const std::vector<int32_t> prompts[] = {golden_.ids};
    const absl::Status scored =
        ScorePrompts(engine, prompts, /*chunk=*/0,
                     [&](size_t, size_t, std::span<const float> row) { rows.emplace_back(row.begin(), row.end()); });
    EXPECT_TRUE(scored.ok()) << scored;
    return rows;
  }

  Request Subject(SequenceId id = kSubject) const {
    Request request;
    request.id = id;
    request.prompt_ids = golden_.ids;
    request.params.temperature = 0.0f;
    request.params.ignore_eos = true;
    request.params.max_tokens = static_cast<int32_t>(golden_.greedy.size());
    return request;
  }

  std::vector<Request> WithStrangers(int32_t vocab_size) const {
    std::mt19937 random(7);
    std::vector<Request> requests = {Subject()};
    for (SequenceId id = 100; id < 107; ++id) {
      Request& stranger = requests.emplace_back();
      stranger.id = id;
      const int length = 1 + static_cast<int>(random() % 90);
      for (int t = 0; t < length; ++t) stranger.prompt_ids.push_back(static_cast<int32_t>(random() % vocab_size));
      stranger.params.max_tokens = 1 + static_cast<int32_t>(random() % 30);
      stranger.params.ignore_eos = true;
      stranger.params.seed = id;
    }
    std::rotate(requests.begin(), requests.begin() + 1, requests.begin() + 4);
    return requests;
  }

  static std::unique_ptr<Scheduler> NewScheduler(const Engine& engine, int32_t chunk) {
    auto scheduler =
        Scheduler::Create({.max_num_seqs = 8, .max_prefill_chunk = chunk}, engine.info(), MakeFcfsPolicy());
    EXPECT_TRUE(scheduler.ok()) << scheduler.status();
    return *std::move(scheduler);
  }

  Golden golden_;
  testing::SeededManifest manifest_;
  nlohmann::json config_;
  testing::TempDir dir_;
};

TEST_P(SeededGoldenTest, Fp32LogitsAreThoseOfTransformers) {
  const auto engine = LoadEngine(DType::kF32);
  ASSERT_NE(engine, nullptr);
  const double worst = WorstError(*engine);
  std::printf("%s: worst error %.1e of the largest logit\n", GetParam().c_str(), worst);
  EXPECT_LE(worst, kTolerance);
}

TEST_P(SeededGoldenTest, GreedyTokensAreThoseOfTransformersInAnyCompany) {
  const auto engine = LoadEngine(DType::kF32);
  ASSERT_NE(engine, nullptr);
  for (int32_t chunk : {0, 1, 7, 64}) {
    const auto scheduler = NewScheduler(*engine, chunk);
    const std::vector<Request> requests =
        chunk == 1 ? std::vector{Subject()} : WithStrangers(engine->info().vocab_size);
    EXPECT_EQ(ServeAll(*engine, *scheduler, requests).at(kSubject).tokens, golden_.greedy) << "chunks of " << chunk;
    const Served warm = ServeAll(*engine, *scheduler, {Subject(2)}).at(2);
    EXPECT_EQ(warm.tokens, golden_.greedy) << "from the prefix cache, chunks of " << chunk;
    EXPECT_GT(warm.stats.cached_tokens, 0);
  }
}

// The error of all rows together, as transformers' own was taken. A token that goes to another expert than in fp32 is
// off by far more than what rounding makes of the others, and chance decides whether there is one more of them here or
// there: the two rows that are off most do not count, and the median row says what rounding does by itself. The CPU in
// fp32, which the test above compares with transformers, stands for what is right.
TEST_P(SeededGoldenTest, Bf16ErrorIsInTheOrderOfTransformersOwn) {
  constexpr int kChance = 2;
  const auto exact = LoadEngine(DType::kF32, Device{}), engine = LoadEngine(DType::kBF16);
  ASSERT_TRUE(exact != nullptr && engine != nullptr);
  const std::vector<std::vector<float>> expected = PromptLogits(*exact), actual = PromptLogits(*engine);
  ASSERT_EQ(actual.size(), golden_.ids.size());
  std::vector<double> squares, of_rows;
  double reference = 0.0;
  for (size_t r = 0; r < expected.size(); ++r) {
    double row_square = 0.0, row_reference = 0.0;
    for (size_t i = 0; i < expected[r].size(); ++i) {
      row_square += std::pow(static_cast<double>(actual[r][i]) - expected[r][i], 2);
      row_reference += std::pow(static_cast<double>(expected[r][i]), 2);
    }
    squares.push_back(row_square);
    of_rows.push_back(std::sqrt(row_square / row_reference));
    reference += row_reference;
  }
  std::sort(squares.begin(), squares.end());
  std::sort(of_rows.begin(), of_rows.end());
  const auto error_of = [&](int left_out) {
    return std::sqrt(std::accumulate(squares.begin(), squares.end() - left_out, 0.0) / reference);
  };
  const double error = error_of(kChance), median = of_rows[of_rows.size() / 2];
  std::printf("%s: bf16 error %.4f (transformers' own %.4f), without %d rows %.4f, of the median row %.4f\n",
              GetParam().c_str(), error_of(0), golden_.bf16_error, kChance, error, median);
  EXPECT_LE(error, 1.5 * golden_.bf16_error);
  EXPECT_LE(median, golden_.bf16_error);
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, SeededGoldenTest, ::testing::ValuesIn(GoldenNames()),
                         [](const auto& golden) { return golden.param; });

// That the comparison above can fail: what a wrong reader of this family would do shows in the logits.
class PlantedErrorTest : public SeededGoldenTest {
 protected:
  double WorstErrorNow() {
    const auto engine = LoadEngine(DType::kF32);
    return engine == nullptr ? 0.0 : WorstError(*engine);
  }

  void Rename(const std::string& tensor, const std::string& to) {
    for (testing::SeededTensor& each : manifest_.tensors) {
      if (each.name == tensor) each.name = to;
    }
  }
};

TEST_P(PlantedErrorTest, Epsilon) {
  config_["rms_norm_eps"] = 1e-3;
  EXPECT_GT(WorstErrorNow(), kTolerance);
}

TEST_P(PlantedErrorTest, RopeTheta) {
  config_["rope_parameters"]["rope_theta"] = 9.9e3;
  EXPECT_GT(WorstErrorNow(), kTolerance);
}

TEST_P(PlantedErrorTest, Window) {
  config_["sliding_window"] = 22;
  EXPECT_GT(WorstErrorNow(), kTolerance);
}

TEST_P(PlantedErrorTest, SomeOtherWeights) {
  for (testing::SeededTensor& tensor : manifest_.tensors) {
    if (tensor.name == "model.layers.2.input_layernorm.weight") tensor.scale += 8;
  }
  EXPECT_GT(WorstErrorNow(), kTolerance);
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, PlantedErrorTest, ::testing::Values("mixtral_window"),
                         [](const auto& golden) { return golden.param; });

}  // namespace
}  // namespace moed
