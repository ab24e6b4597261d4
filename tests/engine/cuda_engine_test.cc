// The engine's way on a GPU, with the device's memory, streams and kernels emulated (tests/support/simt).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>
#include <vector>

#include "engine/moe_engine.h"
#include "engine/score.h"
#include "engine/step_graphs.h"
#include "scheduler/policy.h"
#include "scheduler/scheduler.h"
#include "tensor/cuda_devices.h"
#include "tests/support/seeded_checkpoint.h"
#include "tests/support/serve_all.h"
#include "tests/support/simt/runtime.h"
#include "tests/support/simt/scheduler.h"
#include "tests/support/temp_dir.h"

namespace moed {
namespace {

using ::testing::HasSubstr;

constexpr Device kCuda{DeviceType::kCuda, 0};
const std::filesystem::path kModel = "tests/golden/seeded/olmoe";

class CudaEngineTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto manifest = testing::ReadSeededManifest(kModel / "tensors.txt");
    ASSERT_TRUE(manifest.ok()) << manifest.status();
    std::filesystem::copy_file(kModel / "config.json", dir_.File("config.json"));
    const absl::Status written = testing::WriteSeededWeights(*manifest, dir_.path());
    ASSERT_TRUE(written.ok()) << written;
  }

  void TearDown() override {
    simt::GetMachine() = simt::Machine();
    EXPECT_EQ(simt::TakeError(), "");
    EXPECT_EQ(simt::DeviceBytesInUse(), 0u);
    EXPECT_EQ(simt::PinnedBytesInUse(), 0u);
  }

  MoeEngineOptions Options(Device device = kCuda) const {
    MoeEngineOptions options;
    options.model_dir = dir_.path();
    options.device = device;
    options.dtype = DType::kF32;
    options.num_threads = 1;
    options.max_num_seqs = 2;
    options.max_num_batched_tokens = 8;
    options.max_model_len = 64;
    return options;
  }

  std::unique_ptr<MoeEngine> Load(const MoeEngineOptions& options) const {
    auto engine = MoeEngine::Load(options);
    EXPECT_TRUE(engine.ok()) << engine.status();
    return engine.ok() ? *std::move(engine) : nullptr;
  }

  absl::Status LoadError(const MoeEngineOptions& options) const { return MoeEngine::Load(options).status(); }

  testing::TempDir dir_;
};

// Tokens [first, first + ids.size()) of a sequence in slot 0 whose blocks are 0, 1, …; the logits of the last `rows`.
StepPlan PlanOf(const EngineInfo& info, int32_t first, const std::vector<int32_t>& ids, int32_t rows) {
  StepPlan plan;
  plan.token_ids = ids;
  const auto count = static_cast<int32_t>(ids.size());
  for (int32_t t = 0; t < count; ++t) plan.positions.push_back(first + t);
  plan.query_starts = {0, count};
  plan.slots = {0};
  for (const CacheGroupInfo& group : info.cache_groups) {
    BlockTables& tables = plan.block_tables.emplace_back();
    const int32_t blocks = (first + count + group.block_size - 1) / group.block_size;
    tables.starts = {0, blocks};
    for (int32_t b = 0; b < blocks; ++b) tables.ids.push_back(b);
  }
  for (int32_t t = count - rows; t < count; ++t) plan.logits_rows.push_back({t, 0, false, true});
  if (first == 0) plan.slot_inits.push_back({.slot = 0, .params = {}, .seed = 0, .prompt_ids = {}, .output_ids = {}});
  return plan;
}

absl::StatusOr<StepResult> RunStep(Engine& engine, const StepPlan& plan) {
  const auto ticket = engine.Submit(plan);
  EXPECT_TRUE(ticket.ok()) << ticket.status();
  return engine.Collect(*ticket);
}

const std::vector<int32_t> kPrompt = {3, 1, 4, 1, 5};

// The prompt and `steps` - 1 tokens after it, sampled with `params`.
std::vector<RowResult> Generate(Engine& engine, const SamplingParams& params, int steps) {
  std::vector<RowResult> rows;
  for (int step = 0; step < steps; ++step) {
    const auto first = step == 0 ? 0 : static_cast<int32_t>(kPrompt.size()) + step - 1;
    StepPlan plan = PlanOf(engine.info(), first, step == 0 ? kPrompt : std::vector{kPendingToken}, 1);
    plan.logits_rows[0] = {.token = plan.num_tokens() - 1, .sequence = 0};
    if (step == 0) plan.slot_inits[0] = {.params = params, .seed = 7, .prompt_ids = kPrompt, .output_ids = {}};
    auto result = RunStep(engine, plan);
    EXPECT_TRUE(result.ok()) << result.status();
    if (!result.ok()) break;
    EXPECT_TRUE(result->rows.at(0).status.ok()) << result->rows[0].status;
    rows.push_back(std::move(result->rows[0]));
  }
  return rows;
}

double RelativeError(const std::vector<float>& actual, const std::vector<float>& expected) {
  double difference = 0.0, reference = 0.0;
  for (size_t i = 0; i < expected.size(); ++i) {
    difference += std::pow(static_cast<double>(actual[i]) - expected[i], 2);
    reference += std::pow(expected[i], 2);
  }
  return std::sqrt(difference / reference);
}

TEST_F(CudaEngineTest, ComputesWhatTheCpuDoes) {
  const auto cpu = Load(Options(Device{})), cuda = Load(Options());
  ASSERT_NE(cuda, nullptr);
  const int64_t launches = simt::NumLaunches();
  for (const auto& [first, ids] : {std::pair{0, kPrompt}, {5, std::vector{9}}, {6, std::vector{2, 6, 5}}}) {
    const auto expected = RunStep(*cpu, PlanOf(cpu->info(), first, ids, 1));
    const auto actual = RunStep(*cuda, PlanOf(cuda->info(), first, ids, 1));
    ASSERT_TRUE(actual.ok()) << actual.status();
    EXPECT_LE(RelativeError(actual->rows[0].logits, expected->rows[0].logits), 1e-5);
    EXPECT_EQ(actual->expert_loads, expected->expert_loads);
  }
  EXPECT_GT(simt::NumLaunches(), launches);
}

TEST_F(CudaEngineTest, AStepIsOneCopyInAndTwoOutAndAllocatesNothing) {
  const auto engine = Load(Options());
  ASSERT_NE(engine, nullptr);
  const std::vector<int32_t> ids = {7, 8, 9, 10, 11, 12, 13, 14};
  ASSERT_TRUE(RunStep(*engine, PlanOf(engine->info(), 0, ids, 1)).ok());
  const int64_t copies = simt::NumCopies();
  const size_t bytes = simt::DeviceBytesInUse(), pinned = simt::PinnedBytesInUse();
  ASSERT_TRUE(RunStep(*engine, PlanOf(engine->info(), 8, ids, 1)).ok());
  EXPECT_EQ(simt::NumCopies() - copies, 3);
  EXPECT_EQ(simt::DeviceBytesInUse(), bytes);
  EXPECT_EQ(simt::PinnedBytesInUse(), pinned);
}

TEST_F(CudaEngineTest, TheDeviceSamplesWhatTheHostWouldAndOnlyTokensComeBack) {
  const auto cpu = Load(Options(Device{})), cuda = Load(Options());
  ASSERT_NE(cuda, nullptr);
  std::vector<SamplingParams> all(3);
  all[0].temperature = 0.8f;
  all[0].top_k = 20;
  all[0].top_p = 0.9f;
  all[0].logprobs = 3;
  all[1].repetition_penalty = 1.5f;
  all[1].presence_penalty = 0.5f;
  all[1].frequency_penalty = 0.25f;
  all[1].logit_bias = {{17, 2.0f}, {3, -5.0f}};
  all[1].logprobs = 0;
  all[2].temperature = 0.0f;
  all[2].min_tokens = 2;
  for (size_t i = 0; i < all.size(); ++i) {
    SCOPED_TRACE("parameters " + std::to_string(i));
    constexpr int kSteps = 3;
    if (all[i].min_tokens > 0) {
      SamplingParams without = all[i];
      without.min_tokens = 0;
      all[i].stop_token_ids = Generate(*cpu, without, kSteps)[1].tokens;
    }
    const std::vector<RowResult> expected = Generate(*cpu, all[i], kSteps);
    const int64_t bytes = simt::BytesToHost();
    const std::vector<RowResult> actual = Generate(*cuda, all[i], kSteps);
    // Of each layer where each expert's tokens begin; of the row what a graph has room for.
    const int64_t of_step = 3 * (7 + 1) * 4 + 4 * (2 + 2 * SamplingParams::kMaxLogprobs);
    EXPECT_LE(simt::BytesToHost() - bytes, kSteps * of_step);
    EXPECT_LT(of_step, 4 * cuda->info().vocab_size) << "or it could be the logits";
    ASSERT_EQ(actual.size(), expected.size());
    for (int step = 0; step < kSteps; ++step) {
      EXPECT_EQ(actual[step].tokens, expected[step].tokens) << "step " << step;
      ASSERT_EQ(actual[step].logprobs.size(), expected[step].logprobs.size());
      if (all[i].logprobs < 0) continue;
      const TokenLogprobs &own = actual[step].logprobs[0], &cpus = expected[step].logprobs[0];
      EXPECT_EQ(own.chosen.id, cpus.chosen.id);
      EXPECT_NEAR(own.chosen.logprob, cpus.chosen.logprob, 1e-4);
      ASSERT_EQ(own.top.size(), static_cast<size_t>(all[i].logprobs));
      for (size_t t = 0; t < own.top.size(); ++t) EXPECT_EQ(own.top[t].id, cpus.top[t].id);
    }
  }
}

TEST_F(CudaEngineTest, WhatTheDeviceCannotSampleTheHostDoes) {
  const auto cpu = Load(Options(Device{})), cuda = Load(Options());
  ASSERT_NE(cuda, nullptr);
  // Two rows of one sequence, and logits that are wanted: both rows are sampled one after the other.
  StepPlan plan = PlanOf(cpu->info(), 0, kPrompt, 2);
  for (LogitsRow& row : plan.logits_rows) row.sample = true;
  plan.logits_rows[1].return_logits = false;
  const auto expected = RunStep(*cpu, plan), actual = RunStep(*cuda, plan);
  ASSERT_TRUE(actual.ok()) << actual.status();
  for (const int row : {0, 1}) EXPECT_EQ(actual->rows[row].tokens, expected->rows[row].tokens);
  EXPECT_LE(RelativeError(actual->rows[0].logits, expected->rows[0].logits), 1e-5);
}

// Three requests of different lengths, prompts and parameters, two of which run at a time.
std::map<SequenceId, test::Served> ServeSome(Engine& engine) {
  auto scheduler = Scheduler::Create({.max_num_seqs = 2, .max_num_batched_tokens = 8}, engine.info(), MakeFcfsPolicy());
  EXPECT_TRUE(scheduler.ok()) << scheduler.status();
  std::vector<Request> requests(3);
  for (size_t i = 0; i < requests.size(); ++i) {
    Request& request = requests[i];
    request.id = i + 1;
    for (size_t t = 0; t < 3 + 2 * i; ++t) request.prompt_ids.push_back(static_cast<int32_t>(7 * t + i));
    request.params.max_tokens = static_cast<int32_t>(5 - i);
    request.params.ignore_eos = true;
    request.params.seed = i;
    request.params.repetition_penalty = i == 1 ? 1.3f : 1.0f;
    request.params.logprobs = i == 2 ? 2 : -1;
  }
  return test::ServeAll(engine, **scheduler, requests);
}

TEST_F(CudaEngineTest, GraphsGiveTheSameAsLaunches) {
  MoeEngineOptions options = Options();
  options.enforce_eager = true;
  std::map<SequenceId, test::Served> expected;
  {
    const auto eager = Load(options);
    ASSERT_NE(eager, nullptr);
    const int64_t graphs = simt::NumGraphLaunches();
    expected = ServeSome(*eager);
    EXPECT_EQ(simt::NumGraphLaunches(), graphs);
    EXPECT_EQ(eager->memory_plan().graphs, 0u);
  }
  EXPECT_EQ(expected.at(1).tokens.size(), 5u);
  const auto engine = Load(Options());
  ASSERT_NE(engine, nullptr);
  const size_t bytes = simt::DeviceBytesInUse();
  // Twice: graphs are recorded, then found.
  for (int round = 0; round < 2; ++round) {
    const int64_t graphs = simt::NumGraphLaunches();
    EXPECT_EQ(ServeSome(*engine), expected);
    EXPECT_GE(simt::NumGraphLaunches() - graphs, 5);
    EXPECT_GT(simt::DeviceBytesInUse(), bytes);
    EXPECT_LE(simt::DeviceBytesInUse(), bytes + engine->memory_plan().graphs);
  }
}

TEST_F(CudaEngineTest, WhereNothingCanBeRecordedKernelsAreLaunched) {
  std::map<SequenceId, test::Served> expected;
  {
    MoeEngineOptions options = Options();
    options.enforce_eager = true;
    const auto eager = Load(options);
    ASSERT_NE(eager, nullptr);
    expected = ServeSome(*eager);
  }
  // That it cannot shows when the first step is to be recorded, or at the load already.
  for (const bool at_load : {false, true}) {
    simt::GetMachine().can_capture = !at_load;
    const auto engine = Load(Options());
    ASSERT_NE(engine, nullptr);
    simt::GetMachine().can_capture = false;
    const int64_t graphs = simt::NumGraphLaunches();
    EXPECT_EQ(ServeSome(*engine), expected);
    EXPECT_EQ(simt::NumGraphLaunches(), graphs);
  }
}

// Heads of 64, which the tensor cores' attention takes.
constexpr char kSmallModel[] = R"({
  "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": 203, "hidden_size": 64,
  "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 64,
  "max_position_embeddings": 128, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 128,
  "norm_topk_prob": true, "mlp_only_layers": [1], "decoder_sparse_step": 1, "tie_word_embeddings": false,
  "initializer_range": 0.25, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "eos_token_id": 0
})";

// A request by itself, or beside three others, with prompts in chunks of at most `chunk` tokens.
test::Served ServeSubject(Engine& engine, bool in_company, int32_t chunk) {
  const SchedulerOptions options = {.max_num_seqs = 4, .max_num_batched_tokens = 128, .max_prefill_chunk = chunk};
  auto scheduler = Scheduler::Create(options, engine.info(), MakeFcfsPolicy());
  EXPECT_TRUE(scheduler.ok()) << scheduler.status();
  std::vector<Request> requests;
  for (const int32_t length : {37, 1, 34, 21}) {
    Request& request = requests.emplace_back();
    request.id = requests.size();
    for (int32_t t = 0; t < length; ++t) request.prompt_ids.push_back((t * t * 7 + length) % 203);
    request.params.max_tokens = 3;
    request.params.seed = request.id;
    request.params.ignore_eos = true;
    request.params.logprobs = 0;
    if (!in_company) break;
  }
  return test::ServeAll(engine, **scheduler, requests).at(1);
}

TEST_F(CudaEngineTest, ResultsDoNotDependOnCompanyWhereThatIsAskedFor) {
  const testing::TempDir dir;
  dir.Write("config.json", kSmallModel);
  const auto int8 = WeightPolicy::Uniform(DType::kBF16, kernels::WeightFormat::Int8()).rules;
  struct Variant {
    const char* name;
    DType dtype, kv_dtype;
    std::vector<WeightPolicy::Rule> rules;
  };
  for (const Variant& variant :
       {Variant{"fp32", DType::kF32, DType::kF32, {}}, Variant{"bf16", DType::kBF16, DType::kBF16, {}},
        Variant{"int8", DType::kBF16, DType::kI8, int8}}) {
    SCOPED_TRACE(variant.name);
    MoeEngineOptions options = Options();
    options.model_dir = dir.path();
    options.load_format = LoadFormat::kDummy;
    options.dtype = variant.dtype;
    options.kv_cache_dtype = variant.kv_dtype;
    options.weight_rules = variant.rules;
    options.max_num_seqs = 4;
    options.max_num_batched_tokens = 128;
    options.max_model_len = 0;
    for (const bool invariant : {true, false}) {
      options.batch_invariant = invariant;
      const auto engine = Load(options);
      ASSERT_NE(engine, nullptr);
      const test::Served alone = ServeSubject(*engine, /*in_company=*/false, /*chunk=*/0);
      ASSERT_EQ(alone.logprobs.size(), 3u);
      bool same = true;
      for (const auto& [in_company, chunk] : {std::pair{true, 0}, {false, 1}, {true, 13}}) {
        same = same && ServeSubject(*engine, in_company, chunk) == alone;
      }
      EXPECT_EQ(same, invariant);
    }
  }
}

// One request by itself, with a prompt that is made from `seed`.
test::Served ServeOne(Engine& engine, Scheduler& scheduler, SequenceId id, int32_t seed) {
  Request request;
  request.id = id;
  for (int32_t t = 0; t < 37; ++t) request.prompt_ids.push_back((t * t * 7 + seed) % 203);
  request.params.max_tokens = 3;
  request.params.seed = 1;
  request.params.ignore_eos = true;
  request.params.logprobs = 0;
  return test::ServeAll(engine, scheduler, {request}).at(id);
}

TEST_F(CudaEngineTest, WhatTheHostTierKeptGivesTheSameToTheBit) {
  const testing::TempDir dir;
  dir.Write("config.json", kSmallModel);
  for (const auto& [dtype, kv_dtype] : {std::pair{DType::kF32, DType::kF32}, {DType::kBF16, DType::kI8}}) {
    SCOPED_TRACE(DTypeName(kv_dtype));
    MoeEngineOptions options = Options();
    options.model_dir = dir.path();
    options.load_format = LoadFormat::kDummy;
    options.dtype = dtype;
    options.kv_cache_dtype = kv_dtype;
    options.batch_invariant = true;
    options.max_num_batched_tokens = 16;
    options.max_model_len = 0;
    const auto sizing = Load(options);
    ASSERT_NE(sizing, nullptr);
    const uint64_t block_bytes = 16 * sizing->memory_plan().kv_bytes_per_token;
    options.kv_cache_bytes = 4 * block_bytes;  // one prompt and a bit
    options.kv_host_bytes = 20 * block_bytes + 1;
    const auto engine = Load(options);
    ASSERT_NE(engine, nullptr);
    EXPECT_EQ(engine->memory_plan().kv_host, 20 * block_bytes);
    EXPECT_EQ(engine->info().cache_groups[0].num_host_blocks, 20);
    EXPECT_GE(simt::PinnedBytesInUse(), 20 * block_bytes);
    auto scheduler =
        Scheduler::Create({.max_num_seqs = 2, .max_num_batched_tokens = 16}, engine->info(), MakeFcfsPolicy());
    ASSERT_TRUE(scheduler.ok()) << scheduler.status();
    std::vector<test::Served> first;
    for (int32_t seed = 0; seed < 4; ++seed) first.push_back(ServeOne(*engine, **scheduler, 1 + seed, seed));
    EXPECT_EQ((*scheduler)->stats().restored_tokens, 0);
    for (int32_t seed = 0; seed < 4; ++seed) {
      const test::Served again = ServeOne(*engine, **scheduler, 11 + seed, seed);
      EXPECT_EQ(again, first[seed]) << "prompt " << seed;
      EXPECT_EQ(again.stats.cached_tokens, 32);
    }
    EXPECT_GE((*scheduler)->stats().restored_tokens, 3 * 32);
  }
}

TEST_F(CudaEngineTest, AHostTierThatCannotBeIsTold) {
  MoeEngineOptions options = Options();
  options.kv_host_bytes = 1;
  EXPECT_THAT(Message(LoadError(options)), HasSubstr("kv_host_memory is 1 B; one block of 16 positions takes"));
  options.kv_host_bytes = uint64_t{1} << 50;
  EXPECT_TRUE(absl::IsResourceExhausted(LoadError(options)));
  options.kv_host_bytes = uint64_t{1} << 20;
  options.device = Device{};
  EXPECT_THAT(Message(LoadError(options)), HasSubstr("kv_host_memory is 1.0 MiB; it must be 0"));
  options.device = kCuda;
  const auto engine = Load(options);
  ASSERT_NE(engine, nullptr);
  const auto scheduler =
      Scheduler::Create({.max_num_seqs = 2, .max_num_batched_tokens = 8, .enable_prefix_caching = false},
                        engine->info(), MakeFcfsPolicy());
  EXPECT_THAT(Message(scheduler.status()), HasSubstr("enable_prefix_caching is off"));
}

// Steps that have a graph: one token and one sampled row a sequence, in arrays of the graph's size.
TEST(StepGraphsTest, KeysGoBySequencesAndContext) {
  const StepGraphs graphs(/*max_context=*/1000, /*vocab_size=*/100, /*block_size=*/16);
  const auto decode = [](std::vector<int32_t> positions) {
    StepPlan plan;
    for (int32_t s = 0; s < std::ssize(positions); ++s) {
      plan.token_ids.push_back(kPendingToken);
      plan.query_starts.push_back(s);
      plan.slots.push_back(s);
      plan.logits_rows.push_back({.token = s, .sequence = s});
    }
    plan.query_starts.push_back(plan.num_sequences());
    plan.positions = std::move(positions);
    plan.block_tables.resize(1);
    return plan;
  };
  std::vector<SamplerSlot> slots(300);
  EXPECT_EQ(graphs.KeyOf(decode({3}), slots), (StepGraphKey{1, 256}));
  EXPECT_EQ(graphs.KeyOf(decode({3, 255, 9}), slots), (StepGraphKey{3, 256}));
  EXPECT_EQ(graphs.KeyOf(decode({256, 2}), slots), (StepGraphKey{2, 512}));
  EXPECT_EQ(graphs.KeyOf(decode({999}), slots), (StepGraphKey{1, 1000}));
  EXPECT_EQ(graphs.KeyOf(decode(std::vector<int32_t>(257, 1)), slots), std::nullopt) << "too many sequences";

  StepPlan plan = decode({3, 4});
  plan.block_tables[0].ids.resize(2 * 16);
  EXPECT_TRUE(graphs.KeyOf(plan, slots).has_value());
  plan.block_tables[0].ids.resize(2 * 16 + 1);
  EXPECT_FALSE(graphs.KeyOf(plan, slots).has_value()) << "more blocks than there is room for";

  plan = decode({3, 4});
  plan.logits_rows[1].return_logits = true;
  EXPECT_FALSE(graphs.KeyOf(plan, slots).has_value());
  plan = decode({3, 4});
  plan.logits_rows.pop_back();
  EXPECT_FALSE(graphs.KeyOf(plan, slots).has_value()) << "a sequence without a row";
  plan = decode({3, 4});
  plan.token_ids.push_back(1);
  EXPECT_FALSE(graphs.KeyOf(plan, slots).has_value()) << "a prompt";

  SamplingParams params;
  params.repetition_penalty = 2.0f;
  std::vector<int32_t> prompt(2 * StepGraphs::kAdjustmentsPerSequence + 1);
  std::iota(prompt.begin(), prompt.end(), 0);
  slots[1] = SamplerSlot(SlotInit{.params = params, .prompt_ids = prompt, .output_ids = {}});
  EXPECT_FALSE(graphs.KeyOf(decode({3, 4}), slots).has_value()) << "more penalties than there is room for";
}

TEST_F(CudaEngineTest, TheCacheTakesWhatTheUtilizationLeaves) {
  MoeEngineOptions options = Options();
  options.gpu_memory_utilization = 0.5;
  const auto engine = Load(options);
  ASSERT_NE(engine, nullptr);
  const size_t half = simt::GetMachine().memory_bytes / 2;
  const size_t in_use = simt::DeviceBytesInUse() + engine->memory_plan().graphs;
  EXPECT_GT(engine->memory_plan().graphs, 0u);
  EXPECT_LE(in_use, half);
  EXPECT_GE(in_use, half - static_cast<size_t>(engine->info().cache_groups[0].bytes_per_block));
}

TEST_F(CudaEngineTest, TooLittleMemoryForTheModelIsTold) {
  simt::GetMachine().memory_bytes = size_t{64} << 10;
  const absl::Status status = LoadError(Options());
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_THAT(Message(status), HasSubstr("cuda:0 has no"));
}

TEST_F(CudaEngineTest, TooLittleMemoryForTheCacheIsTold) {
  MoeEngineOptions options = Options();
  options.gpu_memory_utilization = 1e-6;
  const absl::Status status = LoadError(options);
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_THAT(Message(status), HasSubstr("gpu_memory_utilization"));
}

TEST_F(CudaEngineTest, WhereverMemoryEndsDuringTheLoadAllIsGivenBack) {
  for (int64_t* until_failure :
       {&simt::GetMachine().allocations_until_failure, &simt::GetMachine().pinned_until_failure}) {
    absl::Status status;
    for (int64_t allocations = 0; allocations < 100; ++allocations) {
      *until_failure = allocations;
      MoeEngineOptions options = Options();
      options.kv_host_bytes = uint64_t{1} << 20;
      status = LoadError(options);
      if (status.ok()) break;
      EXPECT_TRUE(absl::IsResourceExhausted(status)) << "allocation " << allocations << ": " << status;
      EXPECT_EQ(simt::DeviceBytesInUse(), 0u);
      EXPECT_EQ(simt::PinnedBytesInUse(), 0u);
    }
    EXPECT_TRUE(status.ok()) << status;
    *until_failure = -1;
  }
}

TEST_F(CudaEngineTest, AStepWithoutMemoryFailsAloneAndTheNextIsRight) {
  // So many words that the logits of all tokens, which no server asks for, are more than the largest foreseen step.
  std::ifstream file(kModel / "config.json");
  nlohmann::json config = nlohmann::json::parse(file);
  config["vocab_size"] = 8192;
  const testing::TempDir dir;
  dir.Write("config.json", config.dump());
  MoeEngineOptions options = Options();
  options.model_dir = dir.path();
  options.load_format = LoadFormat::kDummy;
  options.device = Device{};
  const auto cpu = Load(options);
  const auto expected = RunStep(*cpu, PlanOf(cpu->info(), 0, kPrompt, 1));
  const StepPlan large = PlanOf(cpu->info(), 0, std::vector<int32_t>(8, 1), 8);
  options.device = kCuda;
  for (int64_t* until_failure :
       {&simt::GetMachine().allocations_until_failure, &simt::GetMachine().pinned_until_failure}) {
    const auto engine = Load(options);
    ASSERT_NE(engine, nullptr);
    *until_failure = 0;
    const auto failed = RunStep(*engine, large);
    EXPECT_TRUE(absl::IsResourceExhausted(failed.status())) << failed.status();
    *until_failure = -1;
    const auto actual = RunStep(*engine, PlanOf(engine->info(), 0, kPrompt, 1));
    ASSERT_TRUE(actual.ok()) << actual.status();
    EXPECT_LE(RelativeError(actual->rows[0].logits, expected->rows[0].logits), 1e-5);
    EXPECT_TRUE(RunStep(*engine, large).ok()) << "with memory it goes";
  }
}

TEST_F(CudaEngineTest, AFaultOnTheDeviceIsAnErrorOfTheStep) {
  const auto engine = Load(Options());
  ASSERT_NE(engine, nullptr);
  simt::GetMachine().has_fault = true;
  const auto failed = RunStep(*engine, PlanOf(engine->info(), 0, kPrompt, 1));
  EXPECT_EQ(failed.status().code(), absl::StatusCode::kInternal) << failed.status();
  EXPECT_THAT(Message(failed.status()), HasSubstr("illegal memory access"));
}

TEST_F(CudaEngineTest, AnyDeviceOfTheMachineMayBeNamed) {
  simt::GetMachine().num_devices = 2;
  EXPECT_NE(Load(Options({DeviceType::kCuda, 1})), nullptr);
  EXPECT_TRUE(absl::IsNotFound(LoadError(Options({DeviceType::kCuda, 2}))));
}

TEST_F(CudaEngineTest, ADriverThatIsMissingOrOldIsNamed) {
  const auto message = [](int driver_version, int num_devices) {
    simt::GetMachine().driver_version = driver_version;
    simt::GetMachine().num_devices = num_devices;
    const auto devices = ListCudaDevices();
    EXPECT_TRUE(absl::IsFailedPrecondition(devices.status())) << devices.status();
    return std::string(Message(devices.status()));
  };
  EXPECT_THAT(message(0, 1), HasSubstr("no NVIDIA driver"));
  EXPECT_THAT(message(12040, 1), HasSubstr("the NVIDIA driver is for CUDA 12.4; this build needs CUDA 13."));
  EXPECT_THAT(message(13000, 0), HasSubstr("no GPU"));
  // Nothing named: the CPU does it.
  MoeEngineOptions options = Options();
  options.device = std::nullopt;
  const auto engine = Load(options);
  ASSERT_NE(engine, nullptr);
  EXPECT_EQ(engine->exec_context().device, Device{});
}

}  // namespace
}  // namespace moed
