// The scheduler's insides: scheduler.cc keeps the sequences, plan_step.cc plans a step. Private to this folder.
#ifndef MOED_SCHEDULER_SCHEDULER_IMPL_H_
#define MOED_SCHEDULER_SCHEDULER_IMPL_H_

#include <absl/container/btree_set.h>
#include <absl/container/flat_hash_map.h>

#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include "kv_cache/cache_groups.h"
#include "scheduler/scheduler.h"

namespace moed {

// One request on its way. Positions [0, num_computed) are in the cache, those up to num_planned will be when the steps
// in flight are through, and the tokens at [0, tokens.size()) are known; num_pending more are being sampled.
struct TrackedSequence {
  SequenceInfo info;
  Request request;              // without prompt_ids, which begin `tokens`
  std::vector<int32_t> tokens;  // prompt and output so far
  uint64_t seed = 0;
  SequenceStats stats;

  SequenceState state = SequenceState::kWaiting;
  bool paused = false;
  bool draining = false;    // ended or preempted, but a step in flight still uses its slot and blocks
  bool needs_init = false;  // the engine has not heard of it since it got its slot
  int32_t slot = -1;
  SequenceBlocks blocks;
  int32_t num_computed = 0;
  int32_t num_planned = 0;
  int32_t num_pending = 0;
  int32_t steps_in_flight = 0;

  int32_t num_prompt() const { return stats.prompt_tokens; }
  int32_t num_output() const { return static_cast<int32_t>(tokens.size()) - num_prompt(); }
  int32_t num_tokens() const { return static_cast<int32_t>(tokens.size()) + num_pending; }
  // Tokens that the next step could compute: 1 for a sequence that decodes. 0 when all that max_tokens allows is
  // computed or being sampled already.
  int32_t num_to_plan() const {
    return num_output() + num_pending < request.params.max_tokens ? num_tokens() - num_planned : 0;
  }
};

class Scheduler::Impl {
 public:
  Impl(const SchedulerOptions& options, const EngineInfo& engine, std::unique_ptr<Policy> policy);

  absl::Status Add(Request request);
  void Finish(SequenceId id, FinishReason reason, absl::Status error);
  void SetPaused(SequenceId id, bool paused);
  StepPlan Schedule(absl::Time now);
  void Apply(const StepResult& result, absl::Time now);
  void ApplyFailure(const absl::Status& error, absl::Time now);
  std::vector<SequenceUpdate> TakeUpdates() { return std::exchange(updates_, {}); }
  bool HasWork() const;
  absl::Time NextDeadline() const;
  SchedulerStats stats() const;

  const CacheGroups& cache() const { return cache_; }
  int64_t max_positions() const { return max_positions_; }

 private:
  // What a plan that is out holds of one sequence.
  struct PlannedChunk {
    TrackedSequence* sequence;
    int32_t end;  // positions computed when the step is through
    int32_t row;  // of StepResult::rows, where a token is sampled; otherwise -1
  };
  struct PlannedStep {
    uint64_t step = 0;
    int32_t num_rows = 0;
    std::vector<PlannedChunk> chunks;
    HostMoves moves;
  };
  static constexpr int32_t kNoRow = -1;

  // --- scheduler.cc: the life of a sequence ---
  void AdvanceTime(absl::Time now);
  void EndOverdue();
  // Takes a running sequence's place from it; it goes back to the queue, at once or when its last step is through.
  void Preempt(TrackedSequence* sequence);
  // Slot and blocks of a sequence that does not run (any more), and what it knew of the engine's progress.
  void ReleaseHeld(TrackedSequence* sequence);
  // Ends a sequence with `update`, which may have its last tokens. Destroys it unless a step in flight uses it.
  void End(TrackedSequence* sequence, SequenceUpdate update, FinishReason reason, absl::Status error);
  void RemoveFromRunning(TrackedSequence* sequence);
  // A step that used `sequence` is through; `sequence` may be gone afterwards.
  void StepIsThrough(TrackedSequence* sequence);
  void ApplyChunk(const PlannedChunk& chunk, const StepResult& result);
  // Appends the sampled tokens to the sequence and the update; tells whether they end it.
  FinishReason TakeTokens(const RowResult& row, TrackedSequence* sequence, SequenceUpdate* update);
  PlannedStep TakeOldestStep();

  // --- plan_step.cc: one step ---
  void PlanRunning(StepPlan* plan, PlannedStep* step);
  void AdmitWaiting(StepPlan* plan, PlannedStep* step);
  // Gives `sequence` room for up to `wanted` more positions; preempts those less important when there is none. Returns
  // for how many there is room; 0 when it must wait for a step in flight to be through, or for somebody else.
  int32_t MakeRoom(int32_t wanted, TrackedSequence* sequence);
  // Who should give up its blocks for `sequence` (null: for somebody who waits); null when nobody should.
  TrackedSequence* Victim(const TrackedSequence* sequence) const;
  bool TryStart(TrackedSequence* sequence);
  bool HasRoomFor(const TrackedSequence& sequence) const;
  int64_t BlocksStillNeeded(int group, const TrackedSequence& sequence) const;
  // Moves a sequence whose next position begins a block past what the prefix cache has of it. Returns how far.
  int32_t TakeFromPrefixCache(TrackedSequence* sequence);
  void CountCached(int32_t num_tokens, TrackedSequence* sequence);
  // Where the host holds what comes next of a sequence at its prompt: lets the step fetch some of it, as many positions
  // as a step computes for all together, or lets the sequence wait for its turn. Returns whether it gets no tokens.
  bool RestoreFromHost(TrackedSequence* sequence, PlannedStep* step);
  // The step copies to the host what the next steps may push out.
  void OffloadAhead(PlannedStep* step);
  // Appends the next `num_tokens` of the sequence, for which there is room, to the plan.
  void AppendChunk(int32_t num_tokens, TrackedSequence* sequence, StepPlan* plan, PlannedStep* step);
  SlotInit MakeSlotInit(const TrackedSequence& sequence) const;

  const SchedulerOptions options_;
  const int32_t vocab_size_;
  const int32_t max_steps_in_flight_;
  const int32_t max_chunk_;  // prompt tokens of one sequence in one step
  const uint64_t seed_;
  const std::unique_ptr<Policy> policy_;
  CacheGroups cache_;
  const int64_t max_positions_;  // of one sequence: the context's, or what the blocks hold

  absl::Time now_ = absl::InfinitePast();
  uint64_t next_order_ = 0;
  uint64_t next_step_ = 0;

  absl::flat_hash_map<SequenceId, std::unique_ptr<TrackedSequence>> sequences_;  // those that have not ended
  std::vector<std::unique_ptr<TrackedSequence>> ended_;                          // but in use by a step in flight
  std::vector<TrackedSequence*> running_;                                        // the most important first
  absl::btree_set<std::pair<absl::Time, SequenceId>> deadlines_;
  std::deque<PlannedStep> in_flight_;  // oldest first
  std::vector<int32_t> free_slots_;
  int32_t num_running_paused_ = 0;
  int32_t num_draining_ = 0;
  std::vector<SequenceUpdate> updates_;

  // The step that is being planned.
  int32_t budget_ = 0;          // tokens that may still be added
  int32_t restore_budget_ = 0;  // positions that may still be fetched from the host
  bool short_of_room_ = false;  // somebody who runs could not go on
  std::vector<TrackedSequence*> turn_;
  // Who could not start for want of blocks, and how many had been released ever: no need to try again before.
  SequenceId blocked_ = 0;
  uint64_t blocked_at_ = ~uint64_t{0};

  int64_t num_preemptions_ = 0;
  int64_t num_prompt_tokens_ = 0;
  int64_t num_cached_tokens_ = 0;
  int64_t num_restored_tokens_ = 0;
  int64_t num_generated_tokens_ = 0;
};

}  // namespace moed

#endif  // MOED_SCHEDULER_SCHEDULER_IMPL_H_
