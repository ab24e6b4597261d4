// Which tokens are computed in the next step. Pure bookkeeping: no device call, no clock of its own, no thread.
#ifndef MOED_SCHEDULER_SCHEDULER_H_
#define MOED_SCHEDULER_SCHEDULER_H_

#include <absl/time/time.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "base/status.h"
#include "engine/engine.h"
#include "request/sequence.h"
#include "scheduler/policy.h"

namespace moed {

struct SchedulerOptions {
  // Sequences that run at once; more wait. The engine's max_slots is the upper bound. (--max-num-seqs)
  int32_t max_num_seqs = 64;
  // Tokens of one step, decodes and prefill chunks together. Larger: better prefill throughput; smaller: less delay
  // for those who are decoding meanwhile. (--max-num-batched-tokens)
  int32_t max_num_batched_tokens = 512;
  // Prompt tokens of one sequence in one step at most; 0: the whole budget. (--max-prefill-chunk)
  int32_t max_prefill_chunk = 0;
  // Requests that may wait; one more gets RESOURCE_EXHAUSTED. (--max-queue)
  int32_t max_queue = 1024;
  // Keep the blocks of ended sequences for prompts that begin alike, until the space is needed.
  // (--enable-prefix-caching)
  bool enable_prefix_caching = true;
  // A request that names no seed gets one made from this and its id; none: drawn from the system when the scheduler is
  // made, so that two runs of the server differ. (--seed)
  std::optional<uint64_t> seed;
};

// News about one sequence, in order.
struct SequenceUpdate {
  SequenceId id = 0;
  std::vector<int32_t> tokens;          // new ones, 0 to n; a stop id that ended it is among them
  std::vector<TokenLogprobs> logprobs;  // one a token where asked for
  FinishReason finish = FinishReason::kNone;
  absl::Status error;   // with kError
  SequenceStats stats;  // with a finish reason, which every sequence that was added gets once
};

struct SchedulerStats {
  int32_t waiting = 0;
  int32_t running = 0;
  // Of the cache group with the smallest share of free blocks; free_blocks == total_blocks where nothing is in use.
  int32_t free_blocks = 0;    // cached ones included: what a new sequence could get
  int32_t cached_blocks = 0;  // free, but holding a prefix
  int32_t total_blocks = 0;
  int32_t host_blocks = 0;  // of that group, on the host
  int64_t preemptions = 0;
  int64_t prompt_tokens = 0;  // admitted
  int64_t cached_tokens = 0;  // of these, from the prefix cache
  // That sequences had no need to compute because of the host tier, those that come back after they were preempted
  // included.
  int64_t restored_tokens = 0;
  int64_t generated_tokens = 0;
};

// Iteration-level batching (Yu et al. 2022, Orca) with chunked prefill (Agrawal et al. 2023, arXiv:2308.16369) over a
// paged KV cache (Kwon et al. 2023, arXiv:2309.06180). Every step takes all sequences that decode, then fills the token
// budget with pieces of prompts. When blocks run out, the sequence that the policy holds least important gives up its
// own, goes back to the queue, and is computed again later from its tokens.
//
// Up to EngineInfo::max_steps_in_flight plans may be out: Schedule() may be called again before Apply() for the plan
// before; a token not known yet stands in the plan as kPendingToken, a sequence that turns out to have ended has its
// extra token discarded, and its blocks are free once no step in flight uses them.
//
// A block becomes available to other sequences when the step that filled it has been applied, not when it is planned: a
// step that fails then spoils nobody else's prefix. Two sequences with the same prompt that start in one step both
// compute it; one that starts later, or is still at its prompt later, takes over what the other has computed meanwhile.
// Waiting for each other would save a step's work at most, and cost a step's time always.
//
// Where the engine has a host tier, cached blocks go there before they are given out again, and come back for the
// prompts and preempted sequences that begin alike. Both are done beside a step, in amounts that take less time than a
// step full of prompts: at most max_num_batched_tokens positions are fetched in one, and the sequences that they are
// for have no tokens in it.
//
// Not thread-safe: the serving loop's thread owns it.
class Scheduler {
 public:
  // INVALID_ARGUMENT when options do not fit each other or the engine (names the option).
  static absl::StatusOr<std::unique_ptr<Scheduler>> Create(const SchedulerOptions& options, const EngineInfo& engine,
                                                           std::unique_ptr<Policy> policy);
  ~Scheduler();

  // Queues a request. INVALID_ARGUMENT: empty prompt, ids out of range, prompt longer than the context or than all
  // blocks together can hold. RESOURCE_EXHAUSTED: the queue is full. max_tokens is cut to what the context, or the
  // blocks if they are fewer, leave.
  absl::Status Add(Request request);

  // Ends a sequence, wherever it is; no effect on one that is not there. `error` goes with kError.
  // SequenceStats::finished is the time of the last Schedule() or Apply().
  void Finish(SequenceId id, FinishReason reason, absl::Status error = absl::OkStatus());

  // A paused sequence keeps its slot and blocks but is given no steps (its reader is slow). It is the first to lose
  // them when somebody else needs them; it is computed again once it goes on.
  void SetPaused(SequenceId id, bool paused);

  // The next step; empty, and then without effect, when there is nothing to compute, which with no step in flight means
  // that HasWork() is false. Ends what is past its deadline. At most max_steps_in_flight - 1 plans may be out.
  StepPlan Schedule(absl::Time now);

  // Takes in the result of the oldest plan that is out.
  void Apply(const StepResult& result, absl::Time now);
  // The oldest plan failed as a whole: its sequences end with kError.
  void ApplyFailure(const absl::Status& error, absl::Time now);

  // What happened since the last call, in order.
  std::vector<SequenceUpdate> TakeUpdates();

  // Whether Schedule() could give work now or after a step in flight; false: wait for a request.
  bool HasWork() const;
  // The nearest deadline of a sequence, InfiniteFuture if none: the loop wakes for it.
  absl::Time NextDeadline() const;

  SchedulerStats stats() const;

 private:
  class Impl;
  explicit Scheduler(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace moed

#endif  // MOED_SCHEDULER_SCHEDULER_H_
