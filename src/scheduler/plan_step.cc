// One step: who takes part, with how many tokens, and where in the cache they go.
#include <algorithm>
#include <utility>

#include "base/logging.h"
#include "scheduler/scheduler_impl.h"

namespace moed {
namespace {

std::vector<BlockTransfer> TransfersOf(const HostMoves& moves) {
  std::vector<BlockTransfer> transfers;
  for (size_t g = 0; g < moves.size(); ++g) {
    for (const HostMove& move : moves[g]) {
      transfers.push_back({static_cast<int32_t>(g), move.block, move.host_block, move.to_host});
    }
  }
  return transfers;
}

}  // namespace

StepPlan Scheduler::Impl::Schedule(absl::Time now) {
  MOED_CHECK(std::ssize(in_flight_) < max_steps_in_flight_, "{} plans are out; apply the oldest first",
             in_flight_.size());
  AdvanceTime(now);
  EndOverdue();
  StepPlan plan;
  PlannedStep step;
  plan.step = step.step = next_step_;
  plan.block_tables.resize(cache_.num_groups());
  budget_ = restore_budget_ = options_.max_num_batched_tokens;
  short_of_room_ = false;
  PlanRunning(&plan, &step);
  if (!short_of_room_) AdmitWaiting(&plan, &step);
  if (step.chunks.empty()) {
    MOED_CHECK(!in_flight_.empty() || !HasWork(), "there is work, but nothing could be planned");
    return StepPlan{};
  }
  OffloadAhead(&step);
  plan.transfers = TransfersOf(step.moves);
  ++next_step_;
  step.num_rows = static_cast<int32_t>(plan.logits_rows.size());
  in_flight_.push_back(std::move(step));
  return plan;
}

// ------------------------------------------------------------------------------------------------------- those who run

void Scheduler::Impl::PlanRunning(StepPlan* plan, PlannedStep* step) {
  turn_ = running_;  // which loses those who are preempted meanwhile
  // Decodes have the first claim on the budget: their readers are waiting. Blocks go by importance, so that the
  // first-ranked sequence always gets on; whoever is preempted for it has not had its turn yet.
  int32_t num_decodes = 0;
  for (const TrackedSequence* sequence : turn_) num_decodes += !sequence->paused && sequence->num_to_plan() == 1;
  int32_t prefill_budget = budget_ - num_decodes;
  for (TrackedSequence* sequence : turn_) {
    if (sequence->state != SequenceState::kRunning || sequence->paused) continue;
    const bool decodes = sequence->num_to_plan() == 1;
    if (!decodes) CountCached(TakeFromPrefixCache(sequence), sequence);
    if (!decodes && RestoreFromHost(sequence, step)) continue;
    const int32_t wanted = decodes ? 1 : std::min({sequence->num_to_plan(), max_chunk_, prefill_budget});
    if (wanted <= 0) continue;
    const int32_t num_tokens = MakeRoom(wanted, sequence);
    if (num_tokens == 0) {
      short_of_room_ = true;
      continue;
    }
    if (!decodes) prefill_budget -= num_tokens;
    AppendChunk(num_tokens, sequence, plan, step);
  }
}

int32_t Scheduler::Impl::MakeRoom(int32_t wanted, TrackedSequence* sequence) {
  while (true) {
    const int32_t room = cache_.Grow(sequence->num_planned + wanted, &sequence->blocks) - sequence->num_planned;
    if (room > 0) return room;
    short_of_room_ = true;
    // What somebody who is leaving holds comes free when its step is through: enough reason not to chase out more.
    if (num_draining_ > 0) return 0;
    TrackedSequence* victim = Victim(sequence);
    if (victim == nullptr) return 0;
    Preempt(victim);
  }
}

TrackedSequence* Scheduler::Impl::Victim(const TrackedSequence* sequence) const {
  if (num_running_paused_ > 0) {
    for (auto it = running_.rbegin(); it != running_.rend(); ++it) {
      if ((*it)->paused && *it != sequence) return *it;
    }
  }
  if (sequence == nullptr || running_.back() == sequence) return nullptr;
  return running_.back();
}

int32_t Scheduler::Impl::TakeFromPrefixCache(TrackedSequence* sequence) {
  // At least the last token is computed: its logits are not in the cache.
  const int32_t limit = static_cast<int32_t>(sequence->tokens.size()) - 1;
  const int32_t before = sequence->num_planned;
  if (before >= limit) return 0;
  sequence->num_planned = cache_.ExtendFromPrefix(sequence->tokens, before, limit, &sequence->blocks);
  if (sequence->steps_in_flight == 0) sequence->num_computed = sequence->num_planned;
  return sequence->num_planned - before;
}

void Scheduler::Impl::CountCached(int32_t num_tokens, TrackedSequence* sequence) {
  if (sequence->stats.preemptions > 0) return;  // what it had computed itself before
  sequence->stats.cached_tokens += num_tokens;
  num_cached_tokens_ += num_tokens;
}

// ---------------------------------------------------------------------------------------------------- the host tier

bool Scheduler::Impl::RestoreFromHost(TrackedSequence* sequence, PlannedStep* step) {
  const std::vector<int32_t>& tokens = sequence->tokens;
  const int32_t before = sequence->num_planned;
  // At least the last token is computed.
  const int32_t limit = std::min(static_cast<int32_t>(tokens.size()) - 1, before + options_.max_num_batched_tokens);
  if (cache_.FindOnHost(tokens, before, limit, sequence->blocks) == before) return false;
  // It is worth a step's wait for what comes anyway, and for a turn of one's own.
  if (cache_.IsComing(tokens, sequence->blocks) || restore_budget_ < options_.max_num_batched_tokens / 2) return true;
  const int32_t end =
      cache_.Restore(tokens, before, std::min(limit, before + restore_budget_), &sequence->blocks, &step->moves);
  if (end == before) return false;
  restore_budget_ -= end - before;
  CountCached(end - before, sequence);
  num_restored_tokens_ += end - before;
  step->chunks.push_back({sequence, end, kNoRow});
  sequence->num_planned = end;
  ++sequence->steps_in_flight;
  return true;
}

void Scheduler::Impl::OffloadAhead(PlannedStep* step) {
  // This step's copies are there when it is through. Till then the steps that may be planned beside it, and the first
  // after it, take what they need: as many positions as they compute, and as many again as they fetch from the host.
  cache_.ChooseOffloads(2 * options_.max_num_batched_tokens, options_.max_num_seqs, max_steps_in_flight_ + 1,
                        &step->moves);
}

// ------------------------------------------------------------------------------------------------------ those who wait

void Scheduler::Impl::AdmitWaiting(StepPlan* plan, PlannedStep* step) {
  while (budget_ > 0) {
    const SequenceInfo* front = policy_->Front();
    if (front == nullptr) return;
    TrackedSequence* sequence = sequences_.find(front->id)->second.get();
    // Those who have ended but are not through yet hold a slot, though they no longer run.
    const bool has_place = std::ssize(running_) < options_.max_num_seqs && !free_slots_.empty();
    if (has_place && TryStart(sequence)) {
      if (RestoreFromHost(sequence, step)) continue;
      const int32_t wanted = std::min({sequence->num_to_plan(), max_chunk_, budget_});
      const int32_t num_tokens = MakeRoom(wanted, sequence);
      MOED_CHECK(num_tokens > 0, "sequence {} was admitted without room", front->id);
      AppendChunk(num_tokens, sequence, plan, step);
      continue;
    }
    // Those who wait do not push out those who run, but for the paused.
    if (num_draining_ > 0) return;
    TrackedSequence* victim = Victim(nullptr);
    if (victim == nullptr) return;
    Preempt(victim);
  }
}

bool Scheduler::Impl::TryStart(TrackedSequence* sequence) {
  const SequenceId id = sequence->request.id;
  if (!running_.empty() && blocked_ == id && blocked_at_ == cache_.num_releases()) return false;
  cache_.Open(sequence->request.tenant, &sequence->blocks);
  const int32_t num_cached = TakeFromPrefixCache(sequence);
  if (!HasRoomFor(*sequence)) {
    cache_.Release(&sequence->blocks);
    sequence->num_computed = sequence->num_planned = 0;
    blocked_ = id;
    blocked_at_ = cache_.num_releases();
    return false;
  }
  CountCached(num_cached, sequence);
  policy_->Remove(&sequence->info);
  sequence->state = SequenceState::kRunning;
  sequence->slot = free_slots_.back();
  free_slots_.pop_back();
  sequence->needs_init = true;
  const auto before = [&](const TrackedSequence* a, const TrackedSequence* b) {
    return policy_->Precedes(a->info, b->info);
  };
  running_.insert(std::ranges::upper_bound(running_, sequence, before), sequence);
  if (sequence->stats.first_scheduled == absl::InfiniteFuture()) {
    sequence->stats.first_scheduled = now_;
    num_prompt_tokens_ += sequence->num_prompt();
  }
  return true;
}

// Room for all tokens that are known of it, and for a block more, beside what those who run need still: whoever starts
// on less is soon preempted again, and has computed in vain.
bool Scheduler::Impl::HasRoomFor(const TrackedSequence& sequence) const {
  if (running_.empty() && num_draining_ == 0) return true;  // Add() saw to it
  for (int g = 0; g < cache_.num_groups(); ++g) {
    int64_t needed = BlocksStillNeeded(g, sequence);
    for (const TrackedSequence* other : running_) needed += BlocksStillNeeded(g, *other);
    if (needed > cache_.group(g).num_free()) return false;
  }
  return true;
}

int64_t Scheduler::Impl::BlocksStillNeeded(int group, const TrackedSequence& sequence) const {
  const BlockTable& table = sequence.blocks[group];
  const int64_t held = std::ssize(table.ids) - table.num_behind;
  return std::max<int64_t>(0, cache_.group(group).MaxBlocks(sequence.num_tokens(), max_chunk_) + 1 - held);
}

// ------------------------------------------------------------------------------------------------------------ the plan

void Scheduler::Impl::AppendChunk(int32_t num_tokens, TrackedSequence* sequence, StepPlan* plan, PlannedStep* step) {
  const int32_t index = plan->num_sequences();
  const int32_t begin = sequence->num_planned;
  const int32_t end = begin + num_tokens;
  const int32_t num_known = static_cast<int32_t>(sequence->tokens.size());
  if (index == 0) {
    plan->query_starts.push_back(0);
    for (BlockTables& tables : plan->block_tables) tables.starts.push_back(0);
  }
  for (int32_t position = begin; position < end; ++position) {
    plan->token_ids.push_back(position < num_known ? sequence->tokens[position] : kPendingToken);
    plan->positions.push_back(position);
  }
  plan->query_starts.push_back(plan->num_tokens());
  plan->slots.push_back(sequence->slot);
  for (size_t g = 0; g < plan->block_tables.size(); ++g) {
    BlockTables& tables = plan->block_tables[g];
    const std::vector<int32_t>& ids = sequence->blocks[g].ids;
    tables.ids.insert(tables.ids.end(), ids.begin(), ids.end());
    tables.starts.push_back(static_cast<int32_t>(tables.ids.size()));
  }
  if (sequence->needs_init) plan->slot_inits.push_back(MakeSlotInit(*sequence));
  sequence->needs_init = false;

  PlannedChunk chunk{sequence, end, kNoRow};
  if (end == sequence->num_tokens()) {
    chunk.row = static_cast<int32_t>(plan->logits_rows.size());
    plan->logits_rows.push_back({.token = plan->num_tokens() - 1, .sequence = index});
    ++sequence->num_pending;
  }
  step->chunks.push_back(chunk);
  sequence->num_planned = end;
  ++sequence->steps_in_flight;
  budget_ -= num_tokens;
}

SlotInit Scheduler::Impl::MakeSlotInit(const TrackedSequence& sequence) const {
  SlotInit init;
  init.slot = sequence.slot;
  init.params = sequence.request.params;
  init.seed = sequence.seed;
  const auto output = sequence.tokens.begin() + sequence.num_prompt();
  if (init.params.repetition_penalty != 1.0f) init.prompt_ids.assign(sequence.tokens.begin(), output);
  init.output_ids.assign(output, sequence.tokens.end());
  return init;
}

}  // namespace moed
