#include "scheduler/scheduler.h"

#include <algorithm>
#include <random>
#include <utility>

#include "base/logging.h"
#include "scheduler/scheduler_impl.h"

namespace moed {
namespace {

std::vector<BlockManagerOptions> CacheOptions(const SchedulerOptions& options, const EngineInfo& engine) {
  std::vector<BlockManagerOptions> groups;
  for (const CacheGroupInfo& info : engine.cache_groups) {
    BlockManagerOptions& group = groups.emplace_back();
    group.num_blocks = info.num_blocks;
    group.block_size = info.block_size;
    group.window = info.window;
    group.enable_prefix_caching = options.enable_prefix_caching;
    group.num_host_blocks = info.num_host_blocks;
  }
  return groups;
}

uint64_t RandomSeed() {
  std::random_device device;
  return uint64_t{device()} << 32 | device();
}

// The finaliser of SplitMix64 (Steele, Lea and Flood 2014): neighbouring ids get unrelated seeds.
uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

absl::Status CheckOptions(const SchedulerOptions& options, const EngineInfo& engine) {
  if (options.max_num_seqs < 1 || options.max_num_seqs > engine.max_slots) {
    return InvalidArgument("max_num_seqs is {}; it must be in [1, {}], the sequences that the engine has slots for",
                           options.max_num_seqs, engine.max_slots);
  }
  if (options.max_num_batched_tokens < options.max_num_seqs ||
      options.max_num_batched_tokens > engine.max_tokens_per_step) {
    return InvalidArgument(
        "max_num_batched_tokens is {}; it must be in [{}, {}]: from max_num_seqs, so that everyone who decodes gets a "
        "token in every step, to what the engine computes in one step",
        options.max_num_batched_tokens, options.max_num_seqs, engine.max_tokens_per_step);
  }
  if (options.max_prefill_chunk < 0) {
    return InvalidArgument("max_prefill_chunk is {}; it must be 0 (no limit) or more", options.max_prefill_chunk);
  }
  if (options.max_queue < 1) return InvalidArgument("max_queue is {}; it must be at least 1", options.max_queue);
  return absl::OkStatus();
}

absl::Status CheckEngine(const SchedulerOptions& options, const EngineInfo& engine) {
  if (engine.vocab_size < 1 || engine.max_context < 2 || engine.max_steps_in_flight < 1 ||
      engine.cache_groups.empty()) {
    return InvalidArgument(
        "the engine has vocab_size {}, max_context {}, max_steps_in_flight {} and {} cache groups; they must be at "
        "least 1, 2, 1 and 1",
        engine.vocab_size, engine.max_context, engine.max_steps_in_flight, engine.cache_groups.size());
  }
  for (size_t g = 0; g < engine.cache_groups.size(); ++g) {
    const CacheGroupInfo& group = engine.cache_groups[g];
    if (group.block_size < 1 || group.num_blocks < 1 || group.window < 0 || group.num_host_blocks < 0) {
      return InvalidArgument(
          "cache group {} has block_size {}, num_blocks {}, window {} and num_host_blocks {}; they must be at least 1, "
          "1, 0 and 0",
          g, group.block_size, group.num_blocks, group.window, group.num_host_blocks);
    }
    if (group.num_host_blocks > 0 && !options.enable_prefix_caching) {
      return InvalidArgument(
          "enable_prefix_caching is off; it must be on for an engine with a host tier (kv_host_memory), which keeps "
          "what "
          "the prefix cache holds");
    }
  }
  return absl::OkStatus();
}

}  // namespace

// ------------------------------------------------------------------------------------------------------- construction

Scheduler::Impl::Impl(const SchedulerOptions& options, const EngineInfo& engine, std::unique_ptr<Policy> policy)
    : options_(options),
      vocab_size_(engine.vocab_size),
      max_steps_in_flight_(engine.max_steps_in_flight),
      max_chunk_(options.max_prefill_chunk > 0 ? std::min(options.max_prefill_chunk, options.max_num_batched_tokens)
                                               : options.max_num_batched_tokens),
      seed_(options.seed.has_value() ? *options.seed : RandomSeed()),
      policy_(std::move(policy)),
      cache_(CacheOptions(options, engine)),
      max_positions_(cache_.MaxPositions(engine.max_context)) {
  for (int32_t slot = engine.max_slots - 1; slot >= 0; --slot) free_slots_.push_back(slot);
}

absl::StatusOr<std::unique_ptr<Scheduler>> Scheduler::Create(const SchedulerOptions& options, const EngineInfo& engine,
                                                             std::unique_ptr<Policy> policy) {
  MOED_CHECK(policy != nullptr);
  MOED_RETURN_IF_ERROR(CheckOptions(options, engine));
  MOED_RETURN_IF_ERROR(CheckEngine(options, engine));
  auto impl = std::make_unique<Impl>(options, engine, std::move(policy));
  if (impl->max_positions() < 2) {
    return InvalidArgument("the cache holds {} position; a prompt and its next token need at least 2",
                           impl->max_positions());
  }
  return std::unique_ptr<Scheduler>(new Scheduler(std::move(impl)));
}

Scheduler::Scheduler(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Scheduler::~Scheduler() = default;

absl::Status Scheduler::Add(Request request) { return impl_->Add(std::move(request)); }
void Scheduler::Finish(SequenceId id, FinishReason reason, absl::Status error) {
  impl_->Finish(id, reason, std::move(error));
}
void Scheduler::SetPaused(SequenceId id, bool paused) { impl_->SetPaused(id, paused); }
StepPlan Scheduler::Schedule(absl::Time now) { return impl_->Schedule(now); }
void Scheduler::Apply(const StepResult& result, absl::Time now) { impl_->Apply(result, now); }
void Scheduler::ApplyFailure(const absl::Status& error, absl::Time now) { impl_->ApplyFailure(error, now); }
std::vector<SequenceUpdate> Scheduler::TakeUpdates() { return impl_->TakeUpdates(); }
bool Scheduler::HasWork() const { return impl_->HasWork(); }
absl::Time Scheduler::NextDeadline() const { return impl_->NextDeadline(); }
SchedulerStats Scheduler::stats() const { return impl_->stats(); }

// --------------------------------------------------------------------------------------------- in, out, on hold, ended

absl::Status Scheduler::Impl::Add(Request request) {
  MOED_CHECK(!sequences_.contains(request.id), "request {} was added before", request.id);
  const int64_t num_prompt = static_cast<int64_t>(request.prompt_ids.size());
  if (num_prompt == 0) return InvalidArgument("the prompt is empty; it must have at least one token");
  if (num_prompt >= max_positions_) {
    return InvalidArgument("the prompt has {} tokens; with one to generate there is room for at most {}", num_prompt,
                           max_positions_ - 1);
  }
  for (int64_t i = 0; i < num_prompt; ++i) {
    if (request.prompt_ids[i] < 0 || request.prompt_ids[i] >= vocab_size_) {
      return InvalidArgument("prompt_ids[{}] is {}; token ids of this model are in [0, {})", i, request.prompt_ids[i],
                             vocab_size_);
    }
  }
  SamplingParams& params = request.params;
  if (params.max_tokens < 1) return InvalidArgument("max_tokens is {}; it must be at least 1", params.max_tokens);
  const int64_t num_waiting = static_cast<int64_t>(sequences_.size() - running_.size());
  if (num_waiting >= options_.max_queue) {
    return ResourceExhausted("the queue is full: {} requests wait; try again later", num_waiting);
  }
  params.max_tokens = static_cast<int32_t>(std::min<int64_t>(params.max_tokens, max_positions_ - num_prompt));
  params.min_tokens = std::min(params.min_tokens, params.max_tokens);

  auto owned = std::make_unique<TrackedSequence>();
  TrackedSequence* sequence = owned.get();
  sequence->tokens = std::move(request.prompt_ids);
  sequence->seed = params.seed.has_value() ? *params.seed : Mix(seed_ ^ Mix(request.id));
  sequence->stats.arrival = request.arrival;
  sequence->stats.prompt_tokens = static_cast<int32_t>(num_prompt);
  sequence->request = std::move(request);
  const Request& kept = sequence->request;
  sequence->info = {kept.id, next_order_++, kept.tenant, kept.arrival, kept.deadline, static_cast<int32_t>(num_prompt)};
  if (kept.deadline != absl::InfiniteFuture()) deadlines_.emplace(kept.deadline, kept.id);
  policy_->Push(&sequence->info);
  sequences_.emplace(kept.id, std::move(owned));
  return absl::OkStatus();
}

void Scheduler::Impl::Finish(SequenceId id, FinishReason reason, absl::Status error) {
  MOED_CHECK(reason != FinishReason::kNone, "sequence {} cannot end without a reason", id);
  const auto it = sequences_.find(id);
  if (it != sequences_.end()) End(it->second.get(), SequenceUpdate{}, reason, std::move(error));
}

void Scheduler::Impl::SetPaused(SequenceId id, bool paused) {
  const auto it = sequences_.find(id);
  if (it == sequences_.end() || it->second->paused == paused) return;
  TrackedSequence* sequence = it->second.get();
  sequence->paused = paused;
  if (sequence->state == SequenceState::kRunning) {
    num_running_paused_ += paused ? 1 : -1;
  } else if (!sequence->draining) {
    // The queue has only those who may start.
    paused ? policy_->Remove(&sequence->info) : policy_->Push(&sequence->info);
  }
}

void Scheduler::Impl::AdvanceTime(absl::Time now) { now_ = std::max(now_, now); }

void Scheduler::Impl::EndOverdue() {
  while (!deadlines_.empty() && deadlines_.begin()->first <= now_) {
    TrackedSequence* sequence = sequences_.at(deadlines_.begin()->second).get();
    End(sequence, SequenceUpdate{}, FinishReason::kDeadline, absl::OkStatus());
  }
}

bool Scheduler::Impl::HasWork() const {
  return !in_flight_.empty() || std::ssize(running_) > num_running_paused_ || policy_->Front() != nullptr;
}

absl::Time Scheduler::Impl::NextDeadline() const {
  return deadlines_.empty() ? absl::InfiniteFuture() : deadlines_.begin()->first;
}

SchedulerStats Scheduler::Impl::stats() const {
  SchedulerStats stats;
  stats.running = static_cast<int32_t>(running_.size());
  stats.waiting = static_cast<int32_t>(sequences_.size() - running_.size());
  const BlockManager& group = cache_.fullest_group();
  stats.free_blocks = group.num_free();
  stats.cached_blocks = group.num_cached();
  stats.total_blocks = group.options().num_blocks;
  stats.host_blocks = group.num_on_host();
  stats.preemptions = num_preemptions_;
  stats.prompt_tokens = num_prompt_tokens_;
  stats.cached_tokens = num_cached_tokens_;
  stats.restored_tokens = num_restored_tokens_;
  stats.generated_tokens = num_generated_tokens_;
  return stats;
}

// ---------------------------------------------------------------------------------------------- giving up what is held

void Scheduler::Impl::RemoveFromRunning(TrackedSequence* sequence) {
  running_.erase(std::ranges::find(running_, sequence));
  if (sequence->paused) --num_running_paused_;
}

void Scheduler::Impl::ReleaseHeld(TrackedSequence* sequence) {
  if (sequence->slot < 0) return;
  cache_.Release(&sequence->blocks);
  free_slots_.push_back(sequence->slot);
  sequence->slot = -1;
  sequence->num_computed = 0;
  sequence->num_planned = 0;
  sequence->num_pending = 0;
}

void Scheduler::Impl::Preempt(TrackedSequence* sequence) {
  RemoveFromRunning(sequence);
  sequence->state = SequenceState::kWaiting;
  ++sequence->stats.preemptions;
  ++num_preemptions_;
  if (sequence->steps_in_flight > 0) {
    sequence->draining = true;
    ++num_draining_;
  } else {
    ReleaseHeld(sequence);
    if (!sequence->paused) policy_->Push(&sequence->info);
  }
}

void Scheduler::Impl::End(TrackedSequence* sequence, SequenceUpdate update, FinishReason reason, absl::Status error) {
  if (sequence->state == SequenceState::kRunning) {
    RemoveFromRunning(sequence);
  } else if (!sequence->draining && !sequence->paused) {
    policy_->Remove(&sequence->info);
  }
  sequence->state = SequenceState::kFinished;
  const SequenceId id = sequence->request.id;
  deadlines_.erase({sequence->request.deadline, id});

  sequence->stats.completion_tokens = sequence->num_output();
  sequence->stats.finished = std::max(now_, sequence->stats.arrival);
  update.id = id;
  update.finish = reason;
  update.error = std::move(error);
  update.stats = sequence->stats;
  updates_.push_back(std::move(update));

  const auto it = sequences_.find(id);
  if (sequence->steps_in_flight > 0) {
    if (!sequence->draining) ++num_draining_;
    sequence->draining = true;
    ended_.push_back(std::move(it->second));
  } else {
    if (sequence->draining) --num_draining_;
    ReleaseHeld(sequence);
  }
  sequences_.erase(it);
}

void Scheduler::Impl::StepIsThrough(TrackedSequence* sequence) {
  if (!sequence->draining || sequence->steps_in_flight > 0) return;
  sequence->draining = false;
  --num_draining_;
  ReleaseHeld(sequence);
  if (sequence->state == SequenceState::kFinished) {
    std::erase_if(ended_, [&](const auto& owned) { return owned.get() == sequence; });
  } else if (!sequence->paused) {
    policy_->Push(&sequence->info);
  }
}

// --------------------------------------------------------------------------------------------------------- the results

Scheduler::Impl::PlannedStep Scheduler::Impl::TakeOldestStep() {
  MOED_CHECK(!in_flight_.empty(), "no plan is out");
  PlannedStep step = std::move(in_flight_.front());
  in_flight_.pop_front();
  for (const PlannedChunk& chunk : step.chunks) --chunk.sequence->steps_in_flight;
  return step;
}

void Scheduler::Impl::Apply(const StepResult& result, absl::Time now) {
  AdvanceTime(now);
  const PlannedStep step = TakeOldestStep();
  MOED_CHECK(result.step == step.step, "the result of step {} came where step {} is the oldest", result.step,
             step.step);
  MOED_CHECK(std::ssize(result.rows) == step.num_rows, "step {} has {} rows instead of {}", step.step,
             result.rows.size(), step.num_rows);
  cache_.EndMoves(step.moves, /*done=*/true);
  for (const PlannedChunk& chunk : step.chunks) ApplyChunk(chunk, result);
}

void Scheduler::Impl::ApplyFailure(const absl::Status& error, absl::Time now) {
  AdvanceTime(now);
  const PlannedStep step = TakeOldestStep();
  cache_.EndMoves(step.moves, /*done=*/false);
  for (const PlannedChunk& chunk : step.chunks) {
    TrackedSequence* sequence = chunk.sequence;
    if (sequence->state == SequenceState::kFinished) {
      StepIsThrough(sequence);
    } else {
      End(sequence, SequenceUpdate{}, FinishReason::kError, error);
    }
  }
}

void Scheduler::Impl::ApplyChunk(const PlannedChunk& chunk, const StepResult& result) {
  TrackedSequence* sequence = chunk.sequence;
  if (sequence->state == SequenceState::kFinished) {
    StepIsThrough(sequence);
    return;
  }
  sequence->num_computed = chunk.end;
  cache_.Commit(sequence->tokens, chunk.end, &sequence->blocks);
  if (chunk.row != kNoRow) {
    const RowResult& row = result.rows[chunk.row];
    --sequence->num_pending;
    SequenceUpdate update;
    absl::Status error = row.status;
    if (error.ok() && row.tokens.empty()) error = Internal("the engine sampled no token");
    FinishReason reason = FinishReason::kError;
    if (error.ok()) reason = TakeTokens(row, sequence, &update);
    if (reason != FinishReason::kNone) {
      End(sequence, std::move(update), reason, std::move(error));
      return;
    }
    update.id = sequence->request.id;
    updates_.push_back(std::move(update));
  }
  StepIsThrough(sequence);
}

FinishReason Scheduler::Impl::TakeTokens(const RowResult& row, TrackedSequence* sequence, SequenceUpdate* update) {
  const SamplingParams& params = sequence->request.params;
  if (sequence->num_output() == 0) sequence->stats.first_token = now_;
  update->logprobs = row.logprobs;
  FinishReason reason = FinishReason::kNone;
  for (const int32_t token : row.tokens) {
    const bool may_stop = sequence->num_output() >= params.min_tokens;
    sequence->tokens.push_back(token);
    update->tokens.push_back(token);
    if (may_stop && std::ranges::find(params.stop_token_ids, token) != params.stop_token_ids.end()) {
      reason = FinishReason::kStop;
    } else if (sequence->num_output() >= params.max_tokens) {
      reason = FinishReason::kLength;
    }
    if (reason != FinishReason::kNone) break;
  }
  if (update->logprobs.size() > update->tokens.size()) update->logprobs.resize(update->tokens.size());
  num_generated_tokens_ += std::ssize(update->tokens);
  sequence->info.num_tokens = static_cast<int32_t>(sequence->tokens.size());
  return reason;
}

}  // namespace moed
