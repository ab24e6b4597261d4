// The engine's way on a GPU, with the device's memory, streams and kernels emulated (tests/support/simt).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/moe_engine.h"
#include "engine/score.h"
#include "tensor/cuda_devices.h"
#include "tests/support/seeded_checkpoint.h"
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

TEST_F(CudaEngineTest, TheCacheTakesWhatTheUtilizationLeaves) {
  MoeEngineOptions options = Options();
  options.gpu_memory_utilization = 0.5;
  const auto engine = Load(options);
  ASSERT_NE(engine, nullptr);
  const size_t half = simt::GetMachine().memory_bytes / 2;
  EXPECT_LE(simt::DeviceBytesInUse(), half);
  EXPECT_GE(simt::DeviceBytesInUse(), half - static_cast<size_t>(engine->info().cache_groups[0].bytes_per_block));
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
      status = LoadError(Options());
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
