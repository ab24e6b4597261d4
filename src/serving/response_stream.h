// The way of a response from the serving loop to whoever reads it.
#ifndef MOED_SERVING_RESPONSE_STREAM_H_
#define MOED_SERVING_RESPONSE_STREAM_H_

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "request/sequence.h"

namespace moed {

class Inbox;

// What is new in a response since the chunk before.
struct ResponseChunk {
  // Whole characters. May be empty where there are tokens: the text lags behind where a character is not complete or a
  // stop string may have begun.
  std::string text;
  std::vector<int32_t> token_ids;
  std::vector<TokenLogprobs> logprobs;  // one a token where asked for

  // kNone in every chunk but the last.
  FinishReason finish = FinishReason::kNone;
  // In the last chunk; OK with kStop and kLength only.
  absl::Status status;
  SequenceStats stats;

  bool last() const { return finish != FinishReason::kNone; }
};

// Holds what the reader has not taken yet, as one chunk to which new tokens are added: a reader that keeps up gets one
// chunk a token, one that does not gets several tokens at once. When `capacity` tokens lie unread, the serving loop
// holds the sequence back until the reader takes them.
//
// Thread-safe; one reader at a time.
class ResponseStream {
 public:
  // The next chunk. Where there is none yet, nullopt, and `wake` is called exactly once, from another thread, as soon
  // as there is. After the last chunk nothing more comes.
  std::optional<ResponseChunk> Poll(std::function<void()> wake);

  // Waits for the next chunk. Not to be mixed with Poll.
  ResponseChunk Next();

  // Both before the first Poll, for a reader that passes chunks on to a peer and is busy while the peer does not read;
  // it may stay so, and would not ask for the last chunk in time. Called from another thread, each at most once.
  //
  // `told` gets the last chunk, with all that lies unread, when the request fails while the sequence is held back. Poll
  // then gives nothing more.
  void OnFailureWhileHeldBack(std::function<void(ResponseChunk)> told);
  // `told` is called when the request ends in any other way while the reader is busy; perhaps after it has taken the
  // last chunk.
  void OnEndWhileBusy(std::function<void()> told);

  // Ends the request, with the chunk kCancelled as its last. No effect on one that has ended.
  void Cancel();

  SequenceId id() const { return id_; }

 private:
  friend class ServingLoop;

  ResponseStream(SequenceId id, int32_t capacity, std::shared_ptr<Inbox> inbox);

  struct Pushed {
    bool held = false;           // `capacity` is reached: hold the sequence back
    std::function<void()> wake;  // the reader's, if it is to be told
  };
  // Called by the loop's thread.
  Pushed Push(ResponseChunk chunk);

  // Takes what lies unread; tells the loop when that lets a held sequence go on.
  ResponseChunk Take(std::unique_lock<std::mutex> lock);

  const SequenceId id_;
  const int32_t capacity_;
  const std::shared_ptr<Inbox> inbox_;  // may outlive the loop

  std::mutex mutex_;
  std::condition_variable arrived_;
  std::optional<ResponseChunk> unread_;
  bool held_ = false;
  std::function<void()> wake_;
  std::function<void(ResponseChunk)> on_failure_while_held_back_;
  std::function<void()> on_end_while_busy_;
};

}  // namespace moed

#endif  // MOED_SERVING_RESPONSE_STREAM_H_
