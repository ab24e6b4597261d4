// The loop that turns requests into streams of tokens.
#ifndef MOED_SERVING_SERVING_LOOP_H_
#define MOED_SERVING_SERVING_LOOP_H_

#include <absl/time/time.h>

#include <atomic>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/status.h"
#include "engine/engine.h"
#include "request/sequence.h"
#include "scheduler/scheduler.h"
#include "serving/notifier.h"
#include "serving/response_stream.h"

namespace moed {

class Inbox;
class Tokenizer;

struct ServingOptions {
  SchedulerOptions scheduler;
  // Tokens of a response that may lie unread. At so many the sequence is held back: it keeps its blocks, but gets no
  // steps, so that memory stays bounded and others go on. (--stream-capacity)
  int32_t stream_capacity = 256;
  // A sequence that was held back for so long ends with RESOURCE_EXHAUSTED, since its blocks are needed by those who
  // read. (--slow-reader-timeout)
  absl::Duration slow_reader_timeout = absl::Seconds(30);
  // One line in the log for each request that ends. (--log-requests)
  bool log_requests = true;
};

// What a caller asks of the loop, after tokenisation.
struct GenerateRequest {
  std::string tenant = "default";
  std::vector<int32_t> prompt_ids;
  SamplingParams params;
  absl::Time deadline = absl::InfiniteFuture();
};

struct ServingStats {
  SchedulerStats scheduler;
  int32_t open_requests = 0;  // taken and not ended
  int32_t held_back = 0;      // of these, waiting for their reader
  int64_t steps = 0;
  // Requests that ended, by FinishReason.
  std::map<FinishReason, int64_t> finished;
};

// One thread owns scheduler and engine and repeats Schedule, Submit, Collect, Apply, with as many steps in flight as
// the engine allows. Between steps it reads its inbox: new requests, cancels, readers that read again. So whatever ends
// a request, all that it holds is free within one step. With nothing to compute the thread sleeps until there is news
// or the next deadline.
//
// The same thread turns tokens into text and looks for stop strings, which takes microseconds. Readers' callbacks and
// log lines run on a second thread, so that no socket and no terminal delays a step.
//
// Thread-safe.
class ServingLoop {
 public:
  // INVALID_ARGUMENT when options do not fit each other or the engine.
  static absl::StatusOr<std::unique_ptr<ServingLoop>> Create(const ServingOptions& options,
                                                             std::unique_ptr<Engine> engine,
                                                             std::unique_ptr<Policy> policy,
                                                             std::shared_ptr<const Tokenizer> tokenizer);
  // Ends all requests with UNAVAILABLE.
  ~ServingLoop();

  // Queues a request. INVALID_ARGUMENT: parameters or prompt are wrong; RESOURCE_EXHAUSTED: too many requests wait;
  // UNAVAILABLE: draining. What only the scheduler can tell (its queue is full) comes as the stream's last chunk.
  absl::StatusOr<std::shared_ptr<ResponseStream>> Submit(GenerateRequest request);

  // Takes no new requests, waits for those that are here, and at `deadline` ends with UNAVAILABLE those that are not
  // complete; returns how many that were. May be called again from another thread with an earlier deadline.
  int32_t Drain(absl::Time deadline);

  ServingStats stats() const;
  // Constant.
  const EngineInfo& info() const { return engine_->info(); }
  const ServingOptions& options() const { return options_; }

 private:
  struct ActiveRequest;
  // A step that was given to the engine, or that the engine refused.
  using StepInFlight = absl::StatusOr<Engine::Ticket>;

  ServingLoop(const ServingOptions& options, std::unique_ptr<Engine> engine, std::unique_ptr<Scheduler> scheduler,
              std::shared_ptr<const Tokenizer> tokenizer);

  void Run();
  void ReadInbox();
  void Admit(Request request, std::shared_ptr<ResponseStream> stream);
  void EndSlowReaders(absl::Time now);
  void EndAllAtClosing(absl::Time now);
  void SubmitSteps();
  void CollectStep();
  // Passes the scheduler's news on to the streams; returns whether there was any.
  bool DeliverUpdates();
  void Deliver(ActiveRequest& active, SequenceUpdate update);
  void EndRequest(ActiveRequest& active, ResponseChunk last_chunk);
  void Push(ActiveRequest& active, ResponseChunk chunk);
  void PublishStats();
  absl::Time NextAlarm() const;

  const ServingOptions options_;
  const std::unique_ptr<Engine> engine_;
  const std::shared_ptr<const Tokenizer> tokenizer_;
  const std::shared_ptr<Inbox> inbox_;
  std::atomic<SequenceId> next_id_{1};
  std::atomic<int32_t> cut_off_{0};  // requests that Drain() ended
  Notifier notifier_;

  // Owned by the loop's thread.
  const std::unique_ptr<Scheduler> scheduler_;
  std::unordered_map<SequenceId, std::unique_ptr<ActiveRequest>> active_;
  std::unordered_map<SequenceId, absl::Time> held_back_;  // since when
  std::deque<StepInFlight> in_flight_;                    // oldest first
  std::vector<Notifier::Task> notifications_;             // of this round
  ServingStats counters_;

  mutable std::mutex stats_mutex_;
  ServingStats published_stats_;

  std::thread thread_;  // last: starts when all else is there
};

}  // namespace moed

#endif  // MOED_SERVING_SERVING_LOOP_H_
