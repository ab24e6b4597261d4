// Against transformers: the checkpoints of tests/golden and the demo model, their logits and their greedy
// continuations. What the files hold is described in tests/golden/README.md.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "checkpoint/safetensors_file.h"
#include "engine/moe_engine.h"
#include "engine/score.h"
#include "scheduler/policy.h"
#include "scheduler/scheduler.h"
#include "tests/support/serve_all.h"
#include "tests/support/test_device.h"

namespace moed {
namespace {

const std::filesystem::path kGoldenDir = "tests/golden";

std::vector<std::string> GoldenNames() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(kGoldenDir)) {
    if (std::filesystem::exists(entry.path() / "golden.safetensors")) names.push_back(entry.path().filename());
  }
  std::sort(names.begin(), names.end());
  return names;
}

// The demo model ships elsewhere; its golden holds the expectations alone.
std::filesystem::path ModelDir(const std::string& name) {
  return name == "demo" ? std::filesystem::path("models/demo") : kGoldenDir / name;
}

struct GoldenPrompt {
  std::vector<int32_t> ids;
  std::vector<int32_t> rows;     // tokens whose logits are kept
  std::vector<float> logits;     // [rows, vocab], fp32
  std::vector<int32_t> experts;  // [moe layers, tokens, top_k], by rising number, of the fp32 run
  std::vector<int32_t> greedy;   // the continuation; empty where there is none
};

struct Golden {
  std::vector<GoldenPrompt> prompts;
  float bf16_error = 0.0f;  // of transformers' own bf16 run, relative to its fp32 run
};

template <typename T>
std::vector<T> Values(SafetensorsFile& file, const std::string& name) {
  const auto view = file.Get(name);
  EXPECT_TRUE(view.ok()) << view.status();
  return std::vector<T>(view->As<T>(), view->As<T>() + view->num_elements());
}

Golden ReadGolden(const std::string& name) {
  auto file = SafetensorsFile::Open(kGoldenDir / name / "golden.safetensors");
  EXPECT_TRUE(file.ok()) << file.status();
  Golden golden;
  golden.bf16_error = Values<float>(**file, "bf16_error").at(0);
  for (int i = 0; (*file)->Find("prompts." + std::to_string(i) + ".ids") != nullptr; ++i) {
    const std::string prefix = "prompts." + std::to_string(i) + ".";
    GoldenPrompt& prompt = golden.prompts.emplace_back();
    prompt.ids = Values<int32_t>(**file, prefix + "ids");
    prompt.rows = Values<int32_t>(**file, prefix + "rows");
    prompt.logits = Values<float>(**file, prefix + "logits");
    prompt.experts = Values<int32_t>(**file, prefix + "experts");
    if ((*file)->Find(prefix + "greedy") != nullptr) prompt.greedy = Values<int32_t>(**file, prefix + "greedy");
  }
  EXPECT_FALSE(golden.prompts.empty());
  return golden;
}

std::unique_ptr<MoeEngine> LoadEngine(const std::string& name, DType dtype) {
  MoeEngineOptions options;
  options.device = test::DeviceUnderTest();
  options.model_dir = ModelDir(name);
  options.dtype = dtype;
  options.num_threads = 2;
  options.max_num_seqs = 8;
  auto engine = MoeEngine::Load(options);
  EXPECT_TRUE(engine.ok()) << engine.status();
  return engine.ok() ? std::move(engine).value() : nullptr;
}

// [prompts][tokens * vocab]
std::vector<std::vector<float>> AllLogits(Engine& engine, const Golden& golden, int32_t chunk) {
  std::vector<std::vector<int32_t>> prompts;
  std::vector<std::vector<float>> logits;
  for (const GoldenPrompt& prompt : golden.prompts) {
    prompts.push_back(prompt.ids);
    logits.emplace_back(prompt.ids.size() * engine.info().vocab_size);
  }
  const absl::Status status =
      ScorePrompts(engine, prompts, chunk, [&](size_t prompt, size_t index, std::span<const float> row) {
        std::copy(row.begin(), row.end(), logits[prompt].begin() + index * row.size());
      });
  EXPECT_TRUE(status.ok()) << status;
  return logits;
}

class GoldenTest : public testing::TestWithParam<std::string> {};

TEST_P(GoldenTest, Fp32LogitsAreThoseOfTransformers) {
  const Golden golden = ReadGolden(GetParam());
  auto engine = LoadEngine(GetParam(), DType::kF32);
  ASSERT_NE(engine, nullptr);
  const int64_t vocab = engine->info().vocab_size;
  for (int32_t chunk : {0, 5}) {
    const auto logits = AllLogits(*engine, golden, chunk);
    double worst = 0.0;
    for (size_t p = 0; p < golden.prompts.size(); ++p) {
      const GoldenPrompt& prompt = golden.prompts[p];
      float largest = 0.0f;
      for (float value : prompt.logits) largest = std::max(largest, std::abs(value));
      for (size_t r = 0; r < prompt.rows.size(); ++r) {
        const float* actual = logits[p].data() + prompt.rows[r] * vocab;
        const float* expected = prompt.logits.data() + r * vocab;
        for (int64_t i = 0; i < vocab; ++i) {
          const double error = std::abs(actual[i] - expected[i]) / largest;
          ASSERT_LE(error, 1e-4) << "prompt " << p << ", token " << prompt.rows[r] << ", logit " << i << ": "
                                 << actual[i] << " for " << expected[i];
          worst = std::max(worst, error);
        }
      }
    }
    std::printf("%s, chunk %d: worst error %.2e of the largest logit\n", GetParam().c_str(), chunk, worst);
  }
}

TEST_P(GoldenTest, GreedyTokensAreThoseOfTransformers) {
  const Golden golden = ReadGolden(GetParam());
  auto engine = LoadEngine(GetParam(), DType::kF32);
  ASSERT_NE(engine, nullptr);
  auto scheduler = Scheduler::Create({.max_num_seqs = 8}, engine->info(), MakeFcfsPolicy());
  ASSERT_TRUE(scheduler.ok()) << scheduler.status();
  std::vector<Request> requests;
  for (size_t p = 0; p < golden.prompts.size(); ++p) {
    if (golden.prompts[p].greedy.empty()) continue;
    Request& request = requests.emplace_back();
    request.id = p;
    request.prompt_ids = golden.prompts[p].ids;
    request.params.temperature = 0.0f;
    request.params.max_tokens = static_cast<int32_t>(golden.prompts[p].greedy.size());
  }
  ASSERT_FALSE(requests.empty());
  for (const auto& [id, served] : test::ServeAll(*engine, **scheduler, requests)) {
    EXPECT_EQ(served.tokens, golden.prompts[id].greedy) << "prompt " << id;
  }
}

// Runs one prompt token by token, so that the expert loads of a step are the choices of one token.
struct Trace {
  std::vector<float> logits;                               // [tokens, vocab]
  std::vector<std::vector<std::vector<int32_t>>> choices;  // [tokens][moe layers][top_k], rising
};

Trace RunTokenByToken(Engine& engine, const std::vector<int32_t>& ids) {
  Trace trace;
  for (size_t t = 0; t < ids.size(); ++t) {
    StepPlan plan;
    plan.token_ids = {ids[t]};
    plan.positions = {static_cast<int32_t>(t)};
    plan.query_starts = {0, 1};
    plan.slots = {0};
    plan.logits_rows = {{.token = 0, .sequence = 0, .sample = false, .return_logits = true}};
    for (const CacheGroupInfo& group : engine.info().cache_groups) {
      BlockTables& tables = plan.block_tables.emplace_back();
      const int32_t blocks = static_cast<int32_t>(t) / group.block_size + 1;
      for (int32_t b = 0; b < blocks; ++b) tables.ids.push_back(b);
      tables.starts = {0, blocks};
    }
    const auto ticket = engine.Submit(plan);
    EXPECT_TRUE(ticket.ok()) << ticket.status();
    const auto result = engine.Collect(*ticket);
    trace.logits.insert(trace.logits.end(), result->rows[0].logits.begin(), result->rows[0].logits.end());
    auto& layers = trace.choices.emplace_back();
    for (const std::vector<int32_t>& loads : result->expert_loads) {
      auto& chosen = layers.emplace_back();
      for (size_t e = 0; e < loads.size(); ++e) {
        if (loads[e] > 0) chosen.push_back(static_cast<int32_t>(e));
      }
    }
  }
  return trace;
}

double SquaredNorm(std::span<const float> values) {
  double sum = 0.0;
  for (float value : values) sum += static_cast<double>(value) * value;
  return sum;
}

TEST_P(GoldenTest, Bf16ErrorIsInTheOrderOfTransformersOwn) {
  const Golden golden = ReadGolden(GetParam());
  auto engine = LoadEngine(GetParam(), DType::kBF16);
  ASSERT_NE(engine, nullptr);
  const int64_t vocab = engine->info().vocab_size;
  const size_t top_k = engine->model_config().moe.top_k;
  double difference = 0.0, reference = 0.0, worst_where_agreed = 0.0;
  int agreeing = 0;
  for (const GoldenPrompt& prompt : golden.prompts) {
    const Trace trace = RunTokenByToken(*engine, prompt.ids);
    // A row depends on the choices of all tokens up to it.
    size_t agreed = 0;
    for (bool same = true; agreed < prompt.ids.size(); ++agreed) {
      for (size_t layer = 0; layer < trace.choices[agreed].size(); ++layer) {
        const int32_t* expected = prompt.experts.data() + (layer * prompt.ids.size() + agreed) * top_k;
        same = same && std::equal(trace.choices[agreed][layer].begin(), trace.choices[agreed][layer].end(), expected,
                                  expected + top_k);
      }
      if (!same) break;
    }
    for (size_t r = 0; r < prompt.rows.size(); ++r) {
      const std::span<const float> expected(prompt.logits.data() + r * vocab, vocab);
      std::vector<float> error(vocab);
      for (int64_t i = 0; i < vocab; ++i) error[i] = trace.logits[prompt.rows[r] * vocab + i] - expected[i];
      const double error_norm = SquaredNorm(error), norm = SquaredNorm(expected);
      difference += error_norm;
      reference += norm;
      if (prompt.rows[r] < static_cast<int32_t>(agreed)) {
        ++agreeing;
        worst_where_agreed = std::max(worst_where_agreed, std::sqrt(error_norm / norm));
      }
    }
  }
  const double error = std::sqrt(difference / reference);
  std::printf("%s: bf16 error %.4f (transformers' own %.4f); worst of %d rows with the same experts %.4f\n",
              GetParam().c_str(), error, golden.bf16_error, agreeing, worst_where_agreed);
  EXPECT_LE(error, 1.5 * golden.bf16_error);
  EXPECT_GT(agreeing, 0);
  EXPECT_LE(worst_where_agreed, 3e-2);
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, GoldenTest, testing::ValuesIn(GoldenNames()),
                         [](const auto& golden) { return golden.param; });

}  // namespace
}  // namespace moed
