#include "serving/response_stream.h"

#include <iterator>
#include <utility>

#include "serving/inbox.h"

namespace moed {
namespace {

template <typename T>
void MoveToEnd(std::vector<T>&& from, std::vector<T>* to) {
  to->insert(to->end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
}

}  // namespace

ResponseStream::ResponseStream(SequenceId id, int32_t capacity, std::shared_ptr<Inbox> inbox)
    : id_(id), capacity_(capacity), inbox_(std::move(inbox)) {}

std::optional<ResponseChunk> ResponseStream::Poll(std::function<void()> wake) {
  std::unique_lock lock(mutex_);
  if (unread_) return Take(std::move(lock));
  wake_ = std::move(wake);
  return std::nullopt;
}

ResponseChunk ResponseStream::Next() {
  std::unique_lock lock(mutex_);
  arrived_.wait(lock, [this] { return unread_.has_value(); });
  return Take(std::move(lock));
}

ResponseChunk ResponseStream::Take(std::unique_lock<std::mutex> lock) {
  ResponseChunk chunk = *std::exchange(unread_, std::nullopt);
  const bool resume = std::exchange(held_, false);
  lock.unlock();
  if (resume) inbox_->Resume(id_);
  return chunk;
}

void ResponseStream::OnFailureWhileHeldBack(std::function<void(ResponseChunk)> told) {
  std::lock_guard lock(mutex_);
  on_failure_while_held_back_ = std::move(told);
}

void ResponseStream::OnEndWhileBusy(std::function<void()> told) {
  std::lock_guard lock(mutex_);
  on_end_while_busy_ = std::move(told);
}

void ResponseStream::Cancel() { inbox_->Cancel(id_); }

ResponseStream::Pushed ResponseStream::Push(ResponseChunk chunk) {
  std::lock_guard lock(mutex_);
  const bool was_held = held_;
  if (!unread_) {
    unread_ = std::move(chunk);
  } else {
    unread_->text += chunk.text;
    MoveToEnd(std::move(chunk.token_ids), &unread_->token_ids);
    MoveToEnd(std::move(chunk.logprobs), &unread_->logprobs);
    unread_->finish = chunk.finish;
    unread_->status = std::move(chunk.status);
    unread_->stats = chunk.stats;
  }
  held_ = !unread_->last() && std::ssize(unread_->token_ids) >= capacity_;
  if (was_held && unread_->last() && !unread_->status.ok() && on_failure_while_held_back_) {
    return {.wake = [told = std::move(on_failure_while_held_back_), last = *std::exchange(unread_, std::nullopt)] {
      told(last);
    }};
  }
  arrived_.notify_one();
  if (unread_->last() && !wake_) return {.wake = std::exchange(on_end_while_busy_, nullptr)};
  return {.held = held_, .wake = std::exchange(wake_, nullptr)};
}

}  // namespace moed
