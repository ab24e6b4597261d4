#include "serving/inbox.h"

#include <algorithm>
#include <utility>

namespace moed {

absl::Status Inbox::Submit(Submission submission) {
  std::lock_guard lock(mutex_);
  if (closed_) return Unavailable("the server is draining and takes no new requests");
  if (std::ssize(letters_.submissions) >= capacity_) {
    return ResourceExhausted("the queue is full: {} requests wait; try again later", capacity_);
  }
  letters_.submissions.push_back(std::move(submission));
  ++open_requests_;
  news_.notify_one();
  return absl::OkStatus();
}

void Inbox::Cancel(SequenceId id) {
  std::lock_guard lock(mutex_);
  letters_.cancelled.push_back(id);
  news_.notify_one();
}

void Inbox::Resume(SequenceId id) {
  std::lock_guard lock(mutex_);
  letters_.resumed.push_back(id);
  news_.notify_one();
}

void Inbox::Close(absl::Time deadline) {
  std::lock_guard lock(mutex_);
  closed_ = true;
  closing_deadline_ = std::min(closing_deadline_, deadline);
  woken_ = true;
  news_.notify_one();
}

void Inbox::WaitUntilAllEnded() {
  std::unique_lock lock(mutex_);
  ended_.wait(lock, [this] { return open_requests_ == 0; });
}

Letters Inbox::Take() {
  std::lock_guard lock(mutex_);
  woken_ = false;
  return std::exchange(letters_, {});
}

void Inbox::Wait(absl::Time until) {
  std::unique_lock lock(mutex_);
  const auto news = [this] { return woken_ || !letters_.empty(); };
  if (until == absl::InfiniteFuture()) {
    news_.wait(lock, news);
  } else {
    news_.wait_until(lock, absl::ToChronoTime(until), news);
  }
}

void Inbox::RequestEnded() {
  std::lock_guard lock(mutex_);
  if (--open_requests_ == 0) ended_.notify_all();
}

absl::Time Inbox::closing_deadline() const {
  std::lock_guard lock(mutex_);
  return closing_deadline_;
}

int32_t Inbox::open_requests() const {
  std::lock_guard lock(mutex_);
  return open_requests_;
}

}  // namespace moed
