// What other threads tell the serving loop's thread.
#ifndef MOED_SERVING_INBOX_H_
#define MOED_SERVING_INBOX_H_

#include <absl/time/time.h>

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "base/status.h"
#include "request/sequence.h"

namespace moed {

class ResponseStream;

// A new request and where its response goes.
struct Submission {
  Request request;
  std::shared_ptr<ResponseStream> stream;
};

// Everything that lay in the inbox.
struct Letters {
  std::vector<Submission> submissions;
  std::vector<SequenceId> cancelled;
  std::vector<SequenceId> resumed;  // held back, and read again

  bool empty() const { return submissions.empty() && cancelled.empty() && resumed.empty(); }
};

// Thread-safe. It outlives the loop where a stream still refers to it; then letters go unread.
class Inbox {
 public:
  // At most `capacity` requests may lie here unread.
  explicit Inbox(int32_t capacity) : capacity_(capacity) {}

  // RESOURCE_EXHAUSTED when there are too many, UNAVAILABLE once closed.
  absl::Status Submit(Submission submission);
  void Cancel(SequenceId id);
  void Resume(SequenceId id);

  // Takes no more requests, and asks the loop to end those that are not complete at `deadline`; the earliest deadline
  // counts.
  void Close(absl::Time deadline);
  // Waits until every request that was taken has ended.
  void WaitUntilAllEnded();

  // For the loop: what is new, without waiting.
  Letters Take();
  // For the loop: waits for news or `until`.
  void Wait(absl::Time until);
  // For the loop: one request has ended.
  void RequestEnded();
  // InfiniteFuture before Close().
  absl::Time closing_deadline() const;
  // Requests that were taken and have not ended.
  int32_t open_requests() const;

 private:
  const int32_t capacity_;

  mutable std::mutex mutex_;
  std::condition_variable news_;
  std::condition_variable ended_;
  Letters letters_;
  bool woken_ = false;  // there is news that is no letter
  bool closed_ = false;
  absl::Time closing_deadline_ = absl::InfiniteFuture();
  int32_t open_requests_ = 0;
};

}  // namespace moed

#endif  // MOED_SERVING_INBOX_H_
