// Requests through a scheduler and an engine to their ends, without threads, for tests that look at tokens.
#ifndef TESTS_SUPPORT_SERVE_ALL_H_
#define TESTS_SUPPORT_SERVE_ALL_H_

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "scheduler/scheduler.h"

namespace moed::test {

struct Served {
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;  // of the tokens, where asked for
  FinishReason finish = FinishReason::kNone;
  SequenceStats stats;

  friend bool operator==(const Served& a, const Served& b) {
    return a.tokens == b.tokens && a.logprobs == b.logprobs && a.finish == b.finish;
  }
};

// Serves `requests`, all there from the start, and checks that nothing is held at the end. By id.
inline std::map<SequenceId, Served> ServeAll(Engine& engine, Scheduler& scheduler, std::vector<Request> requests) {
  std::map<SequenceId, Served> served;
  absl::Time now = absl::UnixEpoch();
  for (Request& request : requests) {
    request.arrival = now;
    served[request.id];
    const absl::Status added = scheduler.Add(std::move(request));
    EXPECT_TRUE(added.ok()) << added;
  }
  for (int idle = 0; scheduler.HasWork() && idle < 10;) {
    now += absl::Milliseconds(1);
    const StepPlan plan = scheduler.Schedule(now);
    idle = plan.empty() ? idle + 1 : 0;
    if (!plan.empty()) {
      // What goes to the engine has been bytes once, as it is between ranks.
      const auto ticket = engine.Submit(*ParsePlan(SerializePlan(plan)));
      EXPECT_TRUE(ticket.ok()) << ticket.status();
      if (!ticket.ok()) return served;
      const auto result = engine.Collect(*ticket);
      EXPECT_TRUE(result.ok()) << result.status();
      scheduler.Apply(*result, now);
    }
    for (const SequenceUpdate& update : scheduler.TakeUpdates()) {
      Served& one = served[update.id];
      one.tokens.insert(one.tokens.end(), update.tokens.begin(), update.tokens.end());
      for (const TokenLogprobs& logprobs : update.logprobs) one.logprobs.push_back(logprobs.chosen.logprob);
      if (update.finish != FinishReason::kNone) {
        one.finish = update.finish;
        one.stats = update.stats;
      }
    }
  }
  const SchedulerStats stats = scheduler.stats();
  EXPECT_EQ(stats.running, 0);
  EXPECT_EQ(stats.waiting, 0);
  EXPECT_EQ(stats.free_blocks, stats.total_blocks);
  return served;
}

}  // namespace moed::test

#endif  // TESTS_SUPPORT_SERVE_ALL_H_
