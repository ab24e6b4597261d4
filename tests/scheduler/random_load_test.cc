// Random loads on small pools: whatever happens to the others, a request's output is what it would be alone, and in
// the end nothing is held by anybody.
#include <absl/time/time.h>
#include <gtest/gtest.h>

#include <random>
#include <unordered_map>

#include "scheduler/scheduler.h"
#include "tests/scheduler/strict_engine.h"

namespace moed {
namespace {

struct LoadCase {
  const char* name;
  int32_t depth = 1;
  int32_t chunk = 0;
  int32_t budget = 32;
  int32_t num_seqs = 6;
  std::vector<CacheGroupInfo> groups = {{.block_size = 4, .num_blocks = 40}};
  bool prefix_caching = true;
  int num_requests = 400;
  // One in so many; 0: none.
  int cancel = 10;
  int deadline = 20;
  int pause = 5;
  int failure = 0;
};

void PrintTo(const LoadCase& load, std::ostream* os) { *os << load.name; }

class RandomLoad {
 public:
  RandomLoad(const LoadCase& load, uint64_t seed) : load_(load), random_(seed), info_(Info(load)), engine_(info_) {
    SchedulerOptions options;
    options.max_num_seqs = load.num_seqs;
    options.max_num_batched_tokens = load.budget;
    options.max_prefill_chunk = load.chunk;
    options.max_queue = 20;
    options.enable_prefix_caching = load.prefix_caching;
    auto scheduler = Scheduler::Create(options, info_, MakeFcfsPolicy());
    MOED_CHECK(scheduler.ok(), "{}", Message(scheduler.status()));
    scheduler_ = std::move(*scheduler);
    for (int i = 0; i < 4; ++i) prefixes_.push_back(RandomTokens(Draw(5, 40)));
  }

  void Run() {
    int idle = 0;
    while (added_ < load_.num_requests || !live_.empty()) {
      now_ += absl::Milliseconds(Draw(1, 10));
      Disturb();
      while (engine_.num_outstanding() < load_.depth) {
        StepPlan plan = scheduler_->Schedule(now_);
        if (plan.empty()) break;
        CheckBudget(plan);
        engine_.Submit(std::move(plan));
        if (OneIn(4)) break;
        if (OneIn(3)) Disturb();
      }
      TakeUpdates();
      const bool works = engine_.num_outstanding() > 0;
      if (works) {
        OneIn(load_.failure) ? FailStep() : scheduler_->Apply(engine_.Collect(), now_);
        TakeUpdates();
      }
      idle = works ? 0 : idle + 1;
      ASSERT_LT(idle, 10'000) << "nothing moves any more, with " << live_.size() << " requests left";
    }
    // A step that was in flight when its last sequence was cancelled.
    while (engine_.num_outstanding() > 0) scheduler_->Apply(engine_.Collect(), now_);
    TakeUpdates();
    EXPECT_FALSE(scheduler_->HasWork());
    EXPECT_EQ(scheduler_->NextDeadline(), absl::InfiniteFuture());
    const SchedulerStats stats = scheduler_->stats();
    EXPECT_EQ(stats.running, 0);
    EXPECT_EQ(stats.waiting, 0);
    EXPECT_EQ(stats.free_blocks, stats.total_blocks);
    EXPECT_TRUE(scheduler_->Schedule(now_).empty());
  }

  SchedulerStats stats() const { return scheduler_->stats(); }
  int completed() const { return completed_; }

 private:
  struct Live {
    std::vector<int32_t> expected;
    std::vector<int32_t> output;
    absl::Time deadline;
    bool cancelled = false;
    bool paused = false;
  };

  static EngineInfo Info(const LoadCase& load) {
    EngineInfo info;
    info.vocab_size = 50;
    info.max_context = 120;
    info.max_slots = load.num_seqs;
    info.max_tokens_per_step = load.budget;
    info.max_steps_in_flight = load.depth;
    info.cache_groups = load.groups;
    return info;
  }

  int Draw(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }
  bool OneIn(int n) { return n > 0 && Draw(1, n) == 1; }
  std::vector<int32_t> RandomTokens(int count) {
    std::vector<int32_t> tokens(count);
    for (int32_t& token : tokens) token = Draw(0, info_.vocab_size - 1);
    return tokens;
  }

  // Things happen between any two calls.
  void Disturb() {
    for (int n = Draw(0, 2); n > 0 && added_ < load_.num_requests; --n) AddOne();
    for (auto& [id, live] : live_) {
      if (OneIn(load_.cancel * 40)) {
        live.cancelled = true;
        scheduler_->Finish(id, FinishReason::kCancelled);
      } else if (OneIn(load_.pause * (live.paused ? 2 : 20))) {
        live.paused = !live.paused;
        scheduler_->SetPaused(id, live.paused);
      }
    }
  }

  void AddOne() {
    Request request;
    request.id = 100 + added_;
    request.tenant = OneIn(2) ? "a" : "b";
    if (!OneIn(3)) request.prompt_ids = prefixes_[Draw(0, 3)];
    for (const int32_t token : RandomTokens(Draw(1, 30))) request.prompt_ids.push_back(token);
    request.params.seed = Draw(0, 3);
    request.params.max_tokens = OneIn(10) ? 1000 : Draw(1, 30);
    request.params.min_tokens = std::min(request.params.max_tokens, Draw(0, 5));
    if (OneIn(2)) request.params.stop_token_ids = RandomTokens(2);
    request.arrival = now_;
    if (OneIn(load_.deadline)) request.deadline = now_ + absl::Milliseconds(Draw(0, 300));
    Live live;
    live.expected = OutputAlone(request.prompt_ids, request.params, MaxPositions(), info_.vocab_size);
    live.deadline = request.deadline;
    const SequenceId id = request.id;
    const absl::Status status = scheduler_->Add(std::move(request));
    if (!status.ok()) {
      ASSERT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
      return;
    }
    ++added_;
    live_.emplace(id, std::move(live));
  }

  int32_t MaxPositions() const {
    int32_t limit = info_.max_context;
    for (const CacheGroupInfo& group : info_.cache_groups) {
      if (group.window == 0) limit = std::min(limit, group.num_blocks * group.block_size);
    }
    return limit;
  }

  void CheckBudget(const StepPlan& plan) const {
    ASSERT_LE(plan.num_tokens(), load_.budget);
    for (int32_t s = 0; load_.chunk > 0 && s < plan.num_sequences(); ++s) {
      ASSERT_LE(plan.query_starts[s + 1] - plan.query_starts[s], load_.chunk);
    }
  }

  void FailStep() {
    engine_.Fail();
    failed_ = true;
    scheduler_->ApplyFailure(Internal("a step failed"), now_);
  }

  void TakeUpdates() {
    for (const SequenceUpdate& update : scheduler_->TakeUpdates()) {
      const auto it = live_.find(update.id);
      ASSERT_NE(it, live_.end()) << "news of a request that has ended";
      Live& live = it->second;
      live.output.insert(live.output.end(), update.tokens.begin(), update.tokens.end());
      ASSERT_LE(live.output.size(), live.expected.size());
      ASSERT_TRUE(std::equal(live.output.begin(), live.output.end(), live.expected.begin())) << "request " << update.id;
      if (update.finish == FinishReason::kNone) continue;
      CheckEnd(update, live);
      live_.erase(it);
    }
  }

  void CheckEnd(const SequenceUpdate& update, const Live& live) {
    EXPECT_EQ(update.stats.completion_tokens, std::ssize(live.output));
    EXPECT_LE(update.stats.arrival, update.stats.finished);
    EXPECT_LT(update.stats.cached_tokens, update.stats.prompt_tokens);
    switch (update.finish) {
      case FinishReason::kStop:
      case FinishReason::kLength:
        EXPECT_EQ(live.output, live.expected);
        ++completed_;
        break;
      case FinishReason::kCancelled:
        EXPECT_TRUE(live.cancelled);
        break;
      case FinishReason::kDeadline:
        EXPECT_LE(live.deadline, now_);
        break;
      default:
        EXPECT_TRUE(failed_);
        EXPECT_EQ(update.error.code(), absl::StatusCode::kInternal);
    }
  }

  const LoadCase load_;
  std::mt19937_64 random_;
  const EngineInfo info_;
  StrictEngine engine_;
  std::unique_ptr<Scheduler> scheduler_;
  std::vector<std::vector<int32_t>> prefixes_;
  absl::Time now_ = absl::UnixEpoch();
  std::unordered_map<SequenceId, Live> live_;
  int added_ = 0;
  int completed_ = 0;
  bool failed_ = false;
};

class RandomLoadTest : public testing::TestWithParam<LoadCase> {};

TEST_P(RandomLoadTest, EveryOutputIsWhatItIsAlone) {
  const LoadCase& load = GetParam();
  SchedulerStats total;
  int completed = 0;
  const uint64_t fresh = std::random_device()();
  for (uint64_t seed : {uint64_t{1}, uint64_t{2}, fresh}) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    RandomLoad run(load, seed);
    run.Run();
    if (HasFatalFailure()) return;
    const SchedulerStats stats = run.stats();
    total.preemptions += stats.preemptions;
    total.prompt_tokens += stats.prompt_tokens;
    total.cached_tokens += stats.cached_tokens;
    total.restored_tokens += stats.restored_tokens;
    total.generated_tokens += stats.generated_tokens;
    completed += run.completed();
  }
  printf("%s: %d of %d completed, %ld tokens, %ld preemptions, %ld of %ld prompt tokens from the cache, %ld restored\n",
         load.name, completed, 3 * load.num_requests, static_cast<long>(total.generated_tokens),
         static_cast<long>(total.preemptions), static_cast<long>(total.cached_tokens),
         static_cast<long>(total.prompt_tokens), static_cast<long>(total.restored_tokens));
  EXPECT_GT(completed, load.num_requests);
  EXPECT_GT(total.preemptions, 0) << "this load was to run out of blocks";
  EXPECT_EQ(total.restored_tokens > 0, load.groups[0].num_host_blocks > 0);
  if (load.prefix_caching) {
    EXPECT_GT(total.cached_tokens, 0);
  } else {
    EXPECT_EQ(total.cached_tokens, 0);
  }
}

std::vector<CacheGroupInfo> WithHost(std::vector<CacheGroupInfo> groups, int32_t num_host_blocks) {
  for (CacheGroupInfo& group : groups) group.num_host_blocks = num_host_blocks;
  return groups;
}

const std::vector<CacheGroupInfo> kPlain = {{.block_size = 4, .num_blocks = 40}};
const std::vector<CacheGroupInfo> kTiny = {{.block_size = 4, .num_blocks = 20}};
const std::vector<CacheGroupInfo> kHybrid = {{.block_size = 4, .num_blocks = 36},
                                             {.block_size = 4, .num_blocks = 24, .window = 10}};
const std::vector<CacheGroupInfo> kUneven = {{.block_size = 8, .num_blocks = 20},
                                             {.block_size = 4, .num_blocks = 26, .window = 9}};
const std::vector<CacheGroupInfo> kWindow = {{.block_size = 4, .num_blocks = 14, .window = 11}};

INSTANTIATE_TEST_SUITE_P(
    Loads, RandomLoadTest,
    testing::Values(LoadCase{.name = "Plain"}, LoadCase{.name = "ChunksOf1", .chunk = 1},
                    LoadCase{.name = "ChunksOf7", .chunk = 7},
                    LoadCase{.name = "ChunksOf64", .chunk = 64, .budget = 128},
                    LoadCase{.name = "SmallestBudget", .budget = 6}, LoadCase{.name = "TinyPool", .groups = kTiny},
                    LoadCase{.name = "NoPrefixCache", .groups = kTiny, .prefix_caching = false},
                    LoadCase{.name = "PausesOnly", .cancel = 0, .deadline = 0, .pause = 1},
                    LoadCase{.name = "Hybrid", .groups = kHybrid}, LoadCase{.name = "UnevenBlocks", .groups = kUneven},
                    LoadCase{.name = "WindowOnly", .groups = kWindow}, LoadCase{.name = "Failures", .failure = 50},
                    LoadCase{.name = "Depth2", .depth = 2}, LoadCase{.name = "Depth2ChunksOf1", .depth = 2, .chunk = 1},
                    LoadCase{.name = "Depth2ChunksOf7", .depth = 2, .chunk = 7},
                    LoadCase{.name = "Depth2ChunksOf64", .depth = 2, .chunk = 64, .budget = 128},
                    LoadCase{.name = "Depth2TinyPool", .depth = 2, .groups = kTiny},
                    LoadCase{.name = "Depth2NoPrefixCache", .depth = 2, .groups = kTiny, .prefix_caching = false},
                    LoadCase{.name = "Depth2PausesOnly", .depth = 2, .cancel = 0, .deadline = 0, .pause = 1},
                    LoadCase{.name = "Depth2Hybrid", .depth = 2, .groups = kHybrid},
                    LoadCase{.name = "Depth2UnevenBlocks", .depth = 2, .groups = kUneven},
                    LoadCase{.name = "Depth2WindowOnly", .depth = 2, .groups = kWindow},
                    LoadCase{.name = "Depth2Failures", .depth = 2, .failure = 50},
                    LoadCase{.name = "Depth3", .depth = 3}, LoadCase{.name = "Host", .groups = WithHost(kPlain, 100)},
                    LoadCase{.name = "SmallHost", .groups = WithHost(kPlain, 9)},
                    LoadCase{.name = "TinyPoolHost", .groups = WithHost(kTiny, 60)},
                    LoadCase{.name = "HostChunksOf7", .chunk = 7, .groups = WithHost(kPlain, 100)},
                    LoadCase{.name = "HybridHost", .groups = WithHost(kHybrid, 50)},
                    LoadCase{.name = "UnevenBlocksHost", .groups = WithHost(kUneven, 40)},
                    LoadCase{.name = "WindowOnlyHost", .groups = WithHost(kWindow, 40)},
                    LoadCase{.name = "WindowOnlyHostChunksOf1", .chunk = 1, .groups = WithHost(kWindow, 40)},
                    LoadCase{.name = "HostFailures", .groups = WithHost(kPlain, 100), .failure = 20},
                    LoadCase{.name = "Depth2Host", .depth = 2, .groups = WithHost(kPlain, 60)},
                    LoadCase{.name = "Depth2HybridHost", .depth = 2, .groups = WithHost(kHybrid, 30)},
                    LoadCase{.name = "Depth2HostFailures", .depth = 2, .groups = WithHost(kPlain, 30), .failure = 20},
                    LoadCase{.name = "Depth3Host", .depth = 3, .groups = WithHost(kTiny, 30)}),
    [](const auto& load) { return std::string(load.param.name); });

}  // namespace
}  // namespace moed
