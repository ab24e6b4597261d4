// An engine without a model: it "computes" by storing tokens in the blocks that the plan names, and draws the next
// token as a function of all the tokens that it reads back from them. So a wrong block table, position or token shows
// in the output.
#ifndef MOED_TESTS_SUPPORT_FAKE_ENGINE_H_
#define MOED_TESTS_SUPPORT_FAKE_ENGINE_H_

#include <absl/time/clock.h>
#include <absl/time/time.h>

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "base/logging.h"
#include "base/status.h"
#include "engine/engine.h"

namespace moed {

struct FakeEngineOptions {
  EngineInfo info = {.model_name = "fake",
                     .vocab_size = 1000,
                     .max_context = 256,
                     .max_slots = 8,
                     .max_tokens_per_step = 64,
                     .max_steps_in_flight = 1,
                     .eos_token_ids = {},
                     .cache_groups = {{.block_size = 4, .num_blocks = 128, .bytes_per_block = 64}}};
  // The token after `context` (all tokens of the sequence). Default: FakeNextToken.
  std::function<int32_t(std::span<const int32_t> context)> next_token;
  // How long each step takes.
  absl::Duration step_time = absl::ZeroDuration();
  // Asked before each step; an error makes Collect fail with it.
  std::function<absl::Status(const StepPlan& plan)> fail;
};

// FNV-1a over the context.
inline int32_t FakeNextToken(std::span<const int32_t> context, int32_t vocab_size) {
  uint64_t hash = 14695981039346656037u;
  for (int32_t token : context) hash = (hash ^ static_cast<uint32_t>(token)) * 1099511628211u;
  return static_cast<int32_t>(hash % static_cast<uint64_t>(vocab_size));
}

// Engine's contract on threads: one at a time. num_steps() may be read by any.
class FakeEngine : public Engine {
 public:
  explicit FakeEngine(FakeEngineOptions options) : options_(std::move(options)) {
    if (!options_.next_token) {
      options_.next_token = [vocab = options_.info.vocab_size](std::span<const int32_t> context) {
        return FakeNextToken(context, vocab);
      };
    }
    const CacheGroupInfo& group = options_.info.cache_groups.at(0);
    cache_.assign(static_cast<size_t>(group.num_blocks) * group.block_size, -1);
    host_cache_.assign(static_cast<size_t>(group.num_host_blocks) * group.block_size, -1);
    slots_.resize(options_.info.max_slots);
  }

  const EngineInfo& info() const override { return options_.info; }
  int64_t num_steps() const { return num_steps_.load(); }

  absl::StatusOr<Ticket> Submit(const StepPlan& plan) override {
    MOED_CHECK(static_cast<int32_t>(in_flight_.size()) < options_.info.max_steps_in_flight);
    MOED_CHECK(plan.num_tokens() <= options_.info.max_tokens_per_step);
    absl::StatusOr<StepResult> result;
    if (absl::Status failure = options_.fail ? options_.fail(plan) : absl::OkStatus(); !failure.ok()) {
      result = failure;
      step_failed_ = true;
    } else {
      result = Compute(plan);
    }
    in_flight_.push_back({++last_ticket_, absl::Now() + options_.step_time, std::move(result)});
    ++num_steps_;
    return last_ticket_;
  }

  absl::StatusOr<StepResult> Collect(Ticket ticket) override {
    MOED_CHECK(!in_flight_.empty() && in_flight_.front().ticket == ticket);
    InFlight step = std::move(in_flight_.front());
    in_flight_.pop_front();
    absl::SleepFor(step.done - absl::Now());
    return std::move(step.result);
  }

 private:
  struct InFlight {
    Ticket ticket;
    absl::Time done;
    absl::StatusOr<StepResult> result;
  };
  struct Slot {
    SamplingParams params;
    int32_t last_token = -1;
  };

  int32_t& Cell(const StepPlan& plan, int32_t sequence, int32_t position) {
    const int32_t block_size = options_.info.cache_groups[0].block_size;
    const BlockTables& tables = plan.block_tables.at(0);
    const int32_t entry = tables.starts.at(sequence) + position / block_size;
    MOED_CHECK(entry < tables.starts.at(sequence + 1), "sequence {} has no block for position {}", sequence, position);
    return cache_.at(static_cast<size_t>(tables.ids.at(entry)) * block_size + position % block_size);
  }

  StepResult Compute(const StepPlan& plan) {
    for (const BlockCopy& copy : plan.block_copies) CopyBlock(copy);
    for (const SlotInit& init : plan.slot_inits) {
      slots_.at(init.slot) = {.params = init.params,
                              .last_token = init.output_ids.empty() ? -1 : init.output_ids.back()};
    }
    for (int32_t s = 0; s < plan.num_sequences(); ++s) {
      for (int32_t t = plan.query_starts.at(s); t < plan.query_starts.at(s + 1); ++t) {
        const int32_t given = plan.token_ids.at(t);
        const int32_t token = given == kPendingToken ? slots_.at(plan.slots.at(s)).last_token : given;
        // Unknown only to a step that was planned before another failed: its result is not used.
        MOED_CHECK((token >= 0 || step_failed_) && token < options_.info.vocab_size, "token {}", token);
        Cell(plan, s, plan.positions.at(t)) = token;
      }
    }
    for (const BlockTransfer& transfer : plan.transfers) Transfer(transfer);
    StepResult result{.step = plan.step};
    for (const LogitsRow& row : plan.logits_rows) result.rows.push_back(Sample(plan, row));
    return result;
  }

  RowResult Sample(const StepPlan& plan, const LogitsRow& row) {
    std::vector<int32_t> context;
    for (int32_t position = 0; position <= plan.positions.at(row.token); ++position) {
      context.push_back(Cell(plan, row.sequence, position));
    }
    RowResult result;
    if (!row.sample) return result;
    Slot& slot = slots_.at(plan.slots.at(row.sequence));
    slot.last_token = options_.next_token(context);
    result.tokens = {slot.last_token};
    if (slot.params.logprobs >= 0) {
      TokenLogprobs logprobs{.chosen = {.id = slot.last_token, .logprob = -0.5f}, .top = {}};
      for (int32_t n = 0; n < slot.params.logprobs; ++n) {
        logprobs.top.push_back({.id = (slot.last_token + n) % options_.info.vocab_size, .logprob = -0.5f - n});
      }
      result.logprobs = {logprobs};
    }
    return result;
  }

  void CopyBlock(const BlockCopy& copy) {
    const int32_t block_size = options_.info.cache_groups[0].block_size;
    for (int32_t i = 0; i < block_size; ++i) {
      cache_.at(static_cast<size_t>(copy.destination) * block_size + i) =
          cache_.at(static_cast<size_t>(copy.source) * block_size + i);
    }
  }

  void Transfer(const BlockTransfer& transfer) {
    const int32_t block_size = options_.info.cache_groups[0].block_size;
    for (int32_t i = 0; i < block_size; ++i) {
      int32_t& here = cache_.at(static_cast<size_t>(transfer.block) * block_size + i);
      int32_t& there = host_cache_.at(static_cast<size_t>(transfer.host_block) * block_size + i);
      transfer.to_host ? there = here : here = there;
    }
  }

  FakeEngineOptions options_;
  std::vector<int32_t> cache_;       // [num_blocks, block_size]
  std::vector<int32_t> host_cache_;  // [num_host_blocks, block_size]
  std::vector<Slot> slots_;
  std::deque<InFlight> in_flight_;
  Ticket last_ticket_ = 0;
  bool step_failed_ = false;  // ever
  std::atomic<int64_t> num_steps_{0};
};

}  // namespace moed

#endif  // MOED_TESTS_SUPPORT_FAKE_ENGINE_H_
