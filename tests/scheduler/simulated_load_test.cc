// The scheduler at the pace of a simulator: nothing is computed, tokens come from a counter.
#include <gtest/gtest.h>

#include <ctime>
#include <random>

#include "scheduler/scheduler.h"

namespace moed {
namespace {

class SimulatedLoadTest : public testing::TestWithParam<int32_t> {};  // blocks of the host tier

// Twice as many requests wait as can run; a quarter of the prompts begin with one of a few common prefixes.
TEST_P(SimulatedLoadTest, PlansForManyRequests) {
  constexpr int kNumRequests = 100'000;
  EngineInfo info;
  info.vocab_size = 32'000;
  info.max_context = 2048;
  info.max_slots = 64;
  info.max_tokens_per_step = 2048;
  info.cache_groups = {{.block_size = 16, .num_blocks = 2000, .num_host_blocks = GetParam()}};
  SchedulerOptions options;
  options.max_num_seqs = 64;
  options.max_num_batched_tokens = 2048;
  auto created = Scheduler::Create(options, info, MakeFcfsPolicy());
  ASSERT_TRUE(created.ok()) << created.status();
  Scheduler& scheduler = **created;

  std::mt19937 random(1);
  const auto draw = [&](int low, int high) { return low + static_cast<int>(random() % (high - low + 1)); };
  const std::clock_t begin = std::clock();  // processor time: the machine may have other work
  absl::Time now = absl::UnixEpoch();
  int added = 0;
  int ended = 0;
  int64_t steps = 0;
  int64_t tokens = 0;
  while (ended < kNumRequests) {
    while (added < kNumRequests && scheduler.stats().waiting < 128) {
      Request request;
      request.id = ++added;
      request.prompt_ids.assign(draw(1, 400), draw(0, 3) == 0 ? draw(0, 7) : added % info.vocab_size);
      request.params.max_tokens = draw(1, 30);
      request.arrival = now;
      if (draw(0, 19) == 0) request.deadline = now + absl::Milliseconds(draw(1, 1000));
      ASSERT_TRUE(scheduler.Add(std::move(request)).ok());
    }
    const StepPlan plan = scheduler.Schedule(now);
    now += absl::Milliseconds(10);
    if (!plan.empty()) {
      ++steps;
      tokens += plan.num_tokens();
      StepResult result;
      result.step = plan.step;
      result.rows.resize(plan.logits_rows.size());
      for (RowResult& row : result.rows) row.tokens = {static_cast<int32_t>(steps % info.vocab_size)};
      scheduler.Apply(result, now);
    }
    for (const SequenceUpdate& update : scheduler.TakeUpdates()) ended += update.finish != FinishReason::kNone;
  }
  const double seconds = static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
  const SchedulerStats stats = scheduler.stats();
  printf("%d requests in %.2f s: %.0f requests/s, %.0f steps/s, %.1f M tokens/s; %ld preemptions, %.0f%% cached\n",
         kNumRequests, seconds, kNumRequests / seconds, steps / seconds, tokens / seconds / 1e6,
         static_cast<long>(stats.preemptions), 100.0 * stats.cached_tokens / stats.prompt_tokens);
  EXPECT_EQ(stats.running, 0);
  EXPECT_EQ(stats.waiting, 0);
  EXPECT_EQ(stats.free_blocks, stats.total_blocks);
}

INSTANTIATE_TEST_SUITE_P(HostBlocks, SimulatedLoadTest, testing::Values(0, 8000), testing::PrintToStringParamName());

}  // namespace
}  // namespace moed
