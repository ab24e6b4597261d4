#include "serving/serving_loop.h"

#include <algorithm>
#include <utility>

#include "base/logging.h"
#include "scheduler/policy.h"
#include "serving/inbox.h"
#include "serving/output_text.h"
#include "serving/request_log.h"
#include "tokenizer/tokenizer.h"

namespace moed {
namespace {

absl::Status CheckOptions(const ServingOptions& options) {
  if (options.stream_capacity < 1) {
    return InvalidArgument("stream_capacity is {}; it must be at least 1", options.stream_capacity);
  }
  if (options.slow_reader_timeout <= absl::ZeroDuration()) {
    return InvalidArgument("slow_reader_timeout is {} s; it must be more than 0",
                           absl::ToDoubleSeconds(options.slow_reader_timeout));
  }
  return absl::OkStatus();
}

absl::Status CheckPrompt(const std::vector<int32_t>& ids, const EngineInfo& engine) {
  if (ids.empty()) return InvalidArgument("the prompt is empty; it must have at least one token");
  if (std::ssize(ids) >= engine.max_context) {
    return InvalidArgument("the prompt has {} tokens; with room for one more it must fit in the context of {}",
                           ids.size(), engine.max_context);
  }
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= engine.vocab_size) {
      return InvalidArgument("prompt token {} is {}; token ids of this model are in [0, {})", i, ids[i],
                             engine.vocab_size);
    }
  }
  return absl::OkStatus();
}

// The status that a reader gets with a finish reason.
absl::Status FinishStatus(FinishReason reason, const absl::Status& error, int32_t completion_tokens) {
  switch (reason) {
    case FinishReason::kNone:
    case FinishReason::kStop:
    case FinishReason::kLength:
      return absl::OkStatus();
    case FinishReason::kCancelled:
      return Cancelled("the request was cancelled after {} tokens", completion_tokens);
    case FinishReason::kDeadline:
      return DeadlineExceeded("the deadline passed after {} tokens", completion_tokens);
    case FinishReason::kError:
      return error.ok() ? Internal("the request failed") : error;
  }
  return Internal("unknown finish reason {}", static_cast<int>(reason));
}

}  // namespace

struct ServingLoop::ActiveRequest {
  ActiveRequest(Request for_log, std::shared_ptr<ResponseStream> to, const Tokenizer& tokenizer, SamplingParams with)
      : request(std::move(for_log)), params(std::move(with)), stream(std::move(to)), text(tokenizer, params) {}

  Request request;  // without its prompt, which the scheduler has
  SamplingParams params;
  std::shared_ptr<ResponseStream> stream;
  OutputText text;
  int32_t completion_tokens = 0;
};

absl::StatusOr<std::unique_ptr<ServingLoop>> ServingLoop::Create(const ServingOptions& options,
                                                                 std::unique_ptr<Engine> engine,
                                                                 std::unique_ptr<Policy> policy,
                                                                 std::shared_ptr<const Tokenizer> tokenizer) {
  MOED_RETURN_IF_ERROR(CheckOptions(options));
  MOED_ASSIGN_OR_RETURN(auto scheduler, Scheduler::Create(options.scheduler, engine->info(), std::move(policy)));
  return std::unique_ptr<ServingLoop>(
      new ServingLoop(options, std::move(engine), std::move(scheduler), std::move(tokenizer)));
}

ServingLoop::ServingLoop(const ServingOptions& options, std::unique_ptr<Engine> engine,
                         std::unique_ptr<Scheduler> scheduler, std::shared_ptr<const Tokenizer> tokenizer)
    : options_(options),
      engine_(std::move(engine)),
      tokenizer_(std::move(tokenizer)),
      inbox_(std::make_shared<Inbox>(options.scheduler.max_queue)),
      scheduler_(std::move(scheduler)) {
  published_stats_.scheduler = scheduler_->stats();
  thread_ = std::thread([this] { Run(); });
}

ServingLoop::~ServingLoop() {
  inbox_->Close(absl::InfinitePast());
  thread_.join();
}

absl::StatusOr<std::shared_ptr<ResponseStream>> ServingLoop::Submit(GenerateRequest request) {
  MOED_RETURN_IF_ERROR(Validate(request.params, info().vocab_size));
  MOED_RETURN_IF_ERROR(CheckPrompt(request.prompt_ids, info()));
  AddEosTokens(info().eos_token_ids, &request.params);
  const SequenceId id = next_id_.fetch_add(1, std::memory_order_relaxed);
  std::shared_ptr<ResponseStream> stream(new ResponseStream(id, options_.stream_capacity, inbox_));
  Submission submission{.request = {.id = id,
                                    .tenant = std::move(request.tenant),
                                    .prompt_ids = std::move(request.prompt_ids),
                                    .params = std::move(request.params),
                                    .arrival = absl::Now(),
                                    .deadline = request.deadline},
                        .stream = stream};
  MOED_RETURN_IF_ERROR(inbox_->Submit(std::move(submission)));
  return stream;
}

int32_t ServingLoop::Drain(absl::Time deadline) {
  inbox_->Close(deadline);
  inbox_->WaitUntilAllEnded();
  return cut_off_.load();
}

ServingStats ServingLoop::stats() const {
  std::lock_guard lock(stats_mutex_);
  ServingStats stats = published_stats_;
  stats.open_requests = inbox_->open_requests();
  return stats;
}

void ServingLoop::Run() {
  while (true) {
    ReadInbox();
    const absl::Time now = absl::Now();
    EndSlowReaders(now);
    EndAllAtClosing(now);
    SubmitSteps();
    const bool idle = in_flight_.empty();
    if (!idle) CollectStep();
    const bool news = DeliverUpdates();
    PublishStats();
    notifier_.Post(&notifications_);
    if (!idle || news) continue;
    // Closed for good: no request can come any more, and none is left, not even in the inbox.
    if (inbox_->closing_deadline() == absl::InfinitePast() && inbox_->open_requests() == 0) return;
    inbox_->Wait(NextAlarm());
  }
}

void ServingLoop::ReadInbox() {
  Letters letters = inbox_->Take();
  for (Submission& submission : letters.submissions) {
    Admit(std::move(submission.request), std::move(submission.stream));
  }
  for (SequenceId id : letters.cancelled) {
    const auto found = active_.find(id);
    if (found == active_.end()) continue;
    // gRPC cancels a call when its deadline passes, and may be quicker than the scheduler.
    const bool overdue = found->second->request.deadline <= absl::Now();
    scheduler_->Finish(id, overdue ? FinishReason::kDeadline : FinishReason::kCancelled);
  }
  for (SequenceId id : letters.resumed) {
    if (held_back_.erase(id) > 0) scheduler_->SetPaused(id, false);
  }
}

void ServingLoop::Admit(Request request, std::shared_ptr<ResponseStream> stream) {
  Request for_log;
  for_log.id = request.id;
  for_log.tenant = request.tenant;
  for_log.arrival = request.arrival;
  for_log.deadline = request.deadline;
  const int32_t prompt_tokens = static_cast<int32_t>(request.prompt_ids.size());
  auto active = std::make_unique<ActiveRequest>(std::move(for_log), std::move(stream), *tokenizer_, request.params);
  const SequenceId id = request.id;
  absl::Status added = scheduler_->Add(std::move(request));
  if (added.ok()) {
    active_.emplace(id, std::move(active));
    return;
  }
  ResponseChunk refusal;
  refusal.finish = FinishReason::kError;
  refusal.status = std::move(added);
  refusal.stats.arrival = active->request.arrival;
  refusal.stats.finished = absl::Now();
  refusal.stats.prompt_tokens = prompt_tokens;
  EndRequest(*active, std::move(refusal));
}

void ServingLoop::EndSlowReaders(absl::Time now) {
  for (const auto& [id, since] : held_back_) {
    if (now - since < options_.slow_reader_timeout) continue;
    scheduler_->Finish(
        id, FinishReason::kError,
        ResourceExhausted("the response was not read for {} s; it was cut off with {} tokens unread",
                          absl::ToDoubleSeconds(options_.slow_reader_timeout), options_.stream_capacity));
  }
}

void ServingLoop::EndAllAtClosing(absl::Time now) {
  if (active_.empty() || now < inbox_->closing_deadline()) return;
  for (const auto& [id, active] : active_) {
    scheduler_->Finish(id, FinishReason::kError, Unavailable("the server stops; the response is not complete"));
  }
}

void ServingLoop::SubmitSteps() {
  while (std::ssize(in_flight_) < std::max(1, info().max_steps_in_flight)) {
    const StepPlan plan = scheduler_->Schedule(absl::Now());
    if (plan.empty()) return;
    in_flight_.push_back(engine_->Submit(plan));
    ++counters_.steps;
  }
}

void ServingLoop::CollectStep() {
  StepInFlight step = std::move(in_flight_.front());
  in_flight_.pop_front();
  absl::StatusOr<StepResult> result = step.ok() ? engine_->Collect(*step) : std::move(step).status();
  if (result.ok()) {
    scheduler_->Apply(*result, absl::Now());
  } else {
    MOED_LOG_ERROR("a step failed: {}", Message(result.status()));
    scheduler_->ApplyFailure(result.status(), absl::Now());
  }
}

bool ServingLoop::DeliverUpdates() {
  bool any = false;
  // A stop string ends its sequence, which is news again.
  for (auto updates = scheduler_->TakeUpdates(); !updates.empty(); updates = scheduler_->TakeUpdates()) {
    any = true;
    for (SequenceUpdate& update : updates) {
      const SequenceId id = update.id;
      const auto found = active_.find(id);
      if (found == active_.end()) continue;
      const bool ended = update.finish != FinishReason::kNone;
      Deliver(*found->second, std::move(update));
      if (ended) active_.erase(id);
    }
  }
  return any;
}

void ServingLoop::Deliver(ActiveRequest& active, SequenceUpdate update) {
  ResponseChunk chunk;
  const std::vector<int32_t>& stop_ids = active.params.stop_token_ids;
  for (size_t i = 0; i < update.tokens.size() && !active.text.stopped(); ++i) {
    const int32_t token = update.tokens[i];
    const bool stop_token = update.finish == FinishReason::kStop && i + 1 == update.tokens.size() &&
                            std::find(stop_ids.begin(), stop_ids.end(), token) != stop_ids.end();
    chunk.text += stop_token ? active.text.AppendStopToken(token) : active.text.Append(token);
    chunk.token_ids.push_back(token);
    if (i < update.logprobs.size()) chunk.logprobs.push_back(std::move(update.logprobs[i]));
    ++active.completion_tokens;
  }
  if (update.finish == FinishReason::kNone) {
    if (active.text.stopped()) scheduler_->Finish(active.request.id, FinishReason::kStop);
    if (!chunk.token_ids.empty()) Push(active, std::move(chunk));
    return;
  }
  chunk.text += active.text.Flush();
  chunk.finish = active.text.stopped() ? FinishReason::kStop : update.finish;
  chunk.status = FinishStatus(chunk.finish, update.error, active.completion_tokens);
  chunk.stats = update.stats;
  chunk.stats.finished = absl::Now();
  chunk.stats.completion_tokens = active.completion_tokens;  // fewer than computed where a stop string came first
  EndRequest(active, std::move(chunk));
}

void ServingLoop::EndRequest(ActiveRequest& active, ResponseChunk last_chunk) {
  held_back_.erase(active.request.id);
  ++counters_.finished[last_chunk.finish];
  if (absl::IsUnavailable(last_chunk.status)) cut_off_.fetch_add(1);
  if (options_.log_requests) {
    notifications_.push_back([request = active.request, finish = last_chunk.finish, stats = last_chunk.stats,
                              status = last_chunk.status] { LogRequest(request, finish, stats, status); });
  }
  Push(active, std::move(last_chunk));
  inbox_->RequestEnded();
}

void ServingLoop::Push(ActiveRequest& active, ResponseChunk chunk) {
  ResponseStream::Pushed pushed = active.stream->Push(std::move(chunk));
  if (pushed.wake) notifications_.push_back(std::move(pushed.wake));
  if (pushed.held && held_back_.emplace(active.request.id, absl::Now()).second) {
    scheduler_->SetPaused(active.request.id, true);
  }
}

void ServingLoop::PublishStats() {
  std::lock_guard lock(stats_mutex_);
  published_stats_ = counters_;
  published_stats_.scheduler = scheduler_->stats();
  published_stats_.held_back = static_cast<int32_t>(held_back_.size());
}

absl::Time ServingLoop::NextAlarm() const {
  absl::Time alarm = scheduler_->NextDeadline();
  for (const auto& [id, since] : held_back_) alarm = std::min(alarm, since + options_.slow_reader_timeout);
  if (!active_.empty()) alarm = std::min(alarm, inbox_->closing_deadline());
  return alarm;
}

}  // namespace moed
