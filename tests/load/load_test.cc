// Many clients at once over gRPC, with the lengths of a production trace, some of whom cancel or run past their
// deadlines: everyone else gets the right tokens, and in the end nothing is held.
#include <absl/time/clock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <malloc.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "engine/moe_engine.h"
#include "moed/v1/inference.grpc.pb.h"
#include "scheduler/policy.h"
#include "service/authenticator.h"
#include "service/server.h"
#include "serving/model_registry.h"
#include "tests/support/connect.h"
#include "tests/support/serve_all.h"
#include "tests/support/stories_model.h"
#include "tokenizer/tokenizer.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int kRequests = 96, kClients = 16, kKinds = 8;
constexpr bool kSanitized = true;
#else
constexpr int kRequests = 1000, kClients = 64, kKinds = 40;
constexpr bool kSanitized = false;
#endif

namespace moed {
namespace {

constexpr int32_t kMaxPrompt = 384, kMaxOutput = 120;  // of a context of 512
constexpr int32_t kVocab = 512;

// From the second round on, however many there are.
constexpr int64_t kAllocatedGrowth = int64_t{1} << 20, kResidentGrowth = int64_t{2} << 20;

// Prompt and output lengths of the trace of conversations, from row `skip` on.
std::vector<std::pair<int32_t, int32_t>> TraceLengths(const std::string& data, int count) {
  std::ifstream file(std::filesystem::path(data) / "traces/AzureLLMInferenceTrace_conv.csv");
  std::string line;
  std::getline(file, line);
  std::vector<std::pair<int32_t, int32_t>> lengths;
  while (static_cast<int>(lengths.size()) < count && std::getline(file, line)) {
    const size_t first = line.find(','), second = line.find(',', first + 1);
    lengths.emplace_back(std::stoi(line.substr(first + 1)), std::stoi(line.substr(second + 1)));
  }
  EXPECT_EQ(static_cast<int>(lengths.size()), count);
  return lengths;
}

// Kinds of requests, each sent many times: half of them greedy.
std::vector<Request> MakeKinds(const std::string& data) {
  std::mt19937 random(7);
  std::vector<Request> kinds;
  for (const auto& [prompt, output] : TraceLengths(data, kKinds)) {
    Request& kind = kinds.emplace_back();
    kind.id = kinds.size();
    kind.prompt_ids.push_back(1);  // <s>
    const int32_t length = std::min(prompt, kMaxPrompt);
    while (static_cast<int32_t>(kind.prompt_ids.size()) < length)
      kind.prompt_ids.push_back(3 + random() % (kVocab - 3));
    kind.params.max_tokens = std::clamp(output, 1, kMaxOutput);
    kind.params.ignore_eos = true;
    kind.params.temperature = kinds.size() % 2 == 0 ? 0.0f : 0.9f;
    kind.params.seed = kinds.size();
  }
  return kinds;
}

enum class Fate { kComplete, kCancel, kDeadline };

struct Outcome {
  std::vector<int32_t> tokens;
  grpc::Status status;
};

Outcome Call(v1::InferenceService::Stub& stub, const Request& kind, Fate fate, int moment_ms) {
  v1::GenerateRequest request;
  request.mutable_token_ids()->mutable_ids()->Add(kind.prompt_ids.begin(), kind.prompt_ids.end());
  v1::SamplingParams& sampling = *request.mutable_sampling();
  sampling.set_max_tokens(kind.params.max_tokens);
  sampling.set_ignore_eos(true);
  sampling.set_temperature(kind.params.temperature);
  sampling.set_seed(*kind.params.seed);

  grpc::ClientContext context;
  const auto moment = std::chrono::system_clock::now() + std::chrono::milliseconds(moment_ms);
  if (fate == Fate::kDeadline) context.set_deadline(moment);
  auto reader = stub.GenerateStream(&context, request);
  std::thread canceller;
  if (fate == Fate::kCancel) {
    canceller = std::thread([&] {
      std::this_thread::sleep_until(moment);
      context.TryCancel();
    });
  }
  Outcome outcome;
  v1::GenerateStreamResponse response;
  while (reader->Read(&response)) {
    outcome.tokens.insert(outcome.tokens.end(), response.token_ids().begin(), response.token_ids().end());
  }
  outcome.status = reader->Finish();
  if (canceller.joinable()) canceller.join();
  return outcome;
}

bool IsPrefix(const std::vector<int32_t>& part, const std::vector<int32_t>& whole) {
  return part.size() <= whole.size() && std::equal(part.begin(), part.end(), whole.begin());
}

struct Memory {
  int64_t allocated = 0;  // what the program holds, to the byte
  int64_t resident = 0;   // what the system has given for it, with holes between what is held
};

Memory MemoryNow() {
  malloc_trim(0);
  Memory memory;
  const struct mallinfo2 heap = mallinfo2();
  memory.allocated = static_cast<int64_t>(heap.uordblks + heap.hblkhd);
  std::ifstream file("/proc/self/statm");
  int64_t size = 0, resident = 0;
  file >> size >> resident;
  memory.resident = resident * sysconf(_SC_PAGESIZE);
  return memory;
}

double MiB(int64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

// More than three for a long load.
uint32_t NumRounds() {
  const char* rounds = std::getenv("MOED_LOAD_ROUNDS");
  return rounds == nullptr ? 3 : std::max(3, std::atoi(rounds));
}

class LoadTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto stories = testing::StoriesFolder();
    if (!stories) GTEST_SKIP() << "MOED_TEST_DATA is not set";
    dir_ = std::filesystem::path(::testing::TempDir()) / "load_test";
    std::filesystem::create_directories(dir_);
    ASSERT_TRUE(testing::WriteStoriesModel(*stories, dir_, {.num_experts = 8, .experts_per_token = 2}).ok());
    kinds_ = MakeKinds(std::getenv("MOED_TEST_DATA"));
    ComputeExpected();
    StartServer();
  }

  void TearDown() override {
    if (server_) server_->Shutdown(absl::Now() + absl::Seconds(5));
  }

  std::unique_ptr<MoeEngine> LoadEngine(uint64_t kv_bytes) const {
    MoeEngineOptions options;
    options.device = Device{};
    options.model_dir = dir_;
    options.num_threads = 2;
    options.max_num_seqs = 32;
    options.kv_cache_bytes = kv_bytes;
    auto engine = MoeEngine::Load(options);
    EXPECT_TRUE(engine.ok()) << engine.status();
    return std::move(engine).value();
  }

  // Every kind alone.
  void ComputeExpected() {
    auto engine = LoadEngine(0);
    for (const Request& kind : kinds_) {
      auto scheduler = Scheduler::Create({.max_num_seqs = 32}, engine->info(), MakeFcfsPolicy());
      expected_.push_back(test::ServeAll(*engine, **scheduler, {kind}).at(kind.id).tokens);
      ASSERT_EQ(static_cast<int32_t>(expected_.back().size()), kind.params.max_tokens);
    }
  }

  void StartServer() {
    auto tokenizer = Tokenizer::Load(dir_);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    std::shared_ptr<const Tokenizer> shared = std::move(tokenizer).value();
    ServingOptions options;
    options.scheduler.max_num_seqs = 32;
    options.log_requests = false;
    // 5 layers of 4 KV heads of 8, K and V, fp32: room for about ten whole contexts, so that blocks run out.
    auto loop = ServingLoop::Create(options, LoadEngine(uint64_t{5} * 4 * 16 * 4 * 5000), MakeFcfsPolicy(), shared);
    ASSERT_TRUE(loop.ok()) << loop.status();
    model_ = std::make_shared<ServedModel>("stories", shared, nullptr, std::move(loop).value());
    registry_.SetReady(model_);
    ServerOptions server_options;
    server_options.port = 0;
    // On a machine that is busy with other things clients are slow to answer, and not dead.
    server_options.keepalive_time = absl::Minutes(10);
    auto server = Server::Start(server_options, registry_, authenticator_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = std::move(server).value();
    server_->SetReady(true);
  }

  // All requests once, from kClients threads with a connection each.
  void Round(uint32_t seed) {
    std::atomic<int> next{0}, completed{0}, cut_short{0};
    std::vector<std::thread> clients;
    clients.reserve(kClients);
    for (int c = 0; c < kClients; ++c) {
      clients.emplace_back([&] {
        auto stub = v1::InferenceService::NewStub(testing::Connect(server_->address()));
        for (int i = next++; i < kRequests; i = next++) {
          std::mt19937 random(seed * kRequests + i);
          const Fate fate = i % 10 == 3 ? Fate::kCancel : i % 20 == 7 ? Fate::kDeadline : Fate::kComplete;
          const int kind = static_cast<int>(random() % kKinds);
          const Outcome outcome = Call(*stub, kinds_[kind], fate, static_cast<int>(random() % 1500));
          EXPECT_TRUE(IsPrefix(outcome.tokens, expected_[kind])) << "request " << i;
          if (outcome.status.ok()) {
            EXPECT_EQ(outcome.tokens, expected_[kind]) << "request " << i;
            ++completed;
            continue;
          }
          ++cut_short;
          const auto code = outcome.status.error_code();
          const auto right = fate == Fate::kCancel     ? grpc::StatusCode::CANCELLED
                             : fate == Fate::kDeadline ? grpc::StatusCode::DEADLINE_EXCEEDED
                                                       : grpc::StatusCode::OK;
          EXPECT_EQ(code, right) << "request " << i << ": " << outcome.status.error_message();
        }
      });
    }
    for (std::thread& client : clients) client.join();
    EXPECT_EQ(completed + cut_short, kRequests);
    EXPECT_GE(completed, kRequests * 85 / 100);
    EXPECT_GT(cut_short, 0);
    ExpectNothingHeld();
  }

  void ExpectNothingHeld() {
    // A cancel reaches the loop a moment after the client has seen it.
    const absl::Time limit = absl::Now() + absl::Seconds(10);
    ServingStats stats = model_->loop().stats();
    while ((stats.open_requests > 0 || stats.scheduler.running > 0) && absl::Now() < limit) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      stats = model_->loop().stats();
    }
    EXPECT_EQ(stats.open_requests, 0);
    EXPECT_EQ(stats.scheduler.running, 0);
    EXPECT_EQ(stats.scheduler.waiting, 0);
    EXPECT_EQ(stats.scheduler.free_blocks, stats.scheduler.total_blocks);
  }

  std::filesystem::path dir_;
  std::vector<Request> kinds_;
  std::vector<std::vector<int32_t>> expected_;
  ModelRegistry registry_;
  OpenAuthenticator authenticator_;
  std::shared_ptr<const ServedModel> model_;
  std::unique_ptr<Server> server_;
};

TEST_F(LoadTest, EveryRequestGetsItsTokensAndNothingIsHeld) {
  Memory second;
  for (uint32_t round = 1; round <= NumRounds(); ++round) {
    const absl::Time start = absl::Now();
    Round(round);
    const Memory memory = MemoryNow();
    const ServingStats stats = model_->loop().stats();
    std::printf(
        "round %u: %d requests in %.1f s, %lld preemptions so far, %lld of %lld prompt tokens cached, "
        "%.2f MiB allocated, %.1f MiB resident\n",
        round, kRequests, absl::ToDoubleSeconds(absl::Now() - start),
        static_cast<long long>(stats.scheduler.preemptions), static_cast<long long>(stats.scheduler.cached_tokens),
        static_cast<long long>(stats.scheduler.prompt_tokens), MiB(memory.allocated), MiB(memory.resident));
    std::fflush(stdout);
    if (round == 2) second = memory;
    // The sanitizers' own allocators count otherwise.
    if (round > 2 && !kSanitized) {
      EXPECT_LT(memory.allocated - second.allocated, kAllocatedGrowth) << "in round " << round;
      EXPECT_LT(memory.resident - second.resident, kResidentGrowth) << "in round " << round;
    }
  }
  if (!kSanitized) {
    EXPECT_GT(model_->loop().stats().scheduler.preemptions, 0);
  }
}

}  // namespace
}  // namespace moed
