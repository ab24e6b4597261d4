// One request as the scheduler sees it: tokens in, tokens out.
#ifndef MOED_REQUEST_SEQUENCE_H_
#define MOED_REQUEST_SEQUENCE_H_

#include <absl/time/time.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "request/sampling_params.h"

namespace moed {

// Unique while the program runs, never used again.
using SequenceId = uint64_t;

enum class SequenceState : uint8_t {
  kWaiting,   // in the queue: new, or preempted and waiting to be computed again
  kRunning,   // holds blocks and a slot of the engine
  kFinished,  // ended; nothing is held any more
};

enum class FinishReason : uint8_t {
  kNone,       // still going
  kStop,       // a stop id or stop string, or the end-of-sequence token
  kLength,     // max_tokens, or the model's context is full
  kCancelled,  // the client cancelled or went away
  kDeadline,   // its deadline passed, queued or running
  kError,      // the engine failed; see the status that goes with it
};

// "stop", "length", "cancelled", "deadline", "error"; "" for kNone.
std::string_view FinishReasonName(FinishReason reason);

// What a client asked for, after tokenisation and validation. Immutable once queued.
struct Request {
  SequenceId id = 0;
  // The authenticated tenant; seeds the prefix cache's keys, so that tenants never share blocks.
  std::string tenant;
  std::vector<int32_t> prompt_ids;
  SamplingParams params;  // stop_token_ids hold the end-of-sequence tokens too (AddEosTokens)
  absl::Time arrival = absl::InfinitePast();
  absl::Time deadline = absl::InfiniteFuture();
};

// A token with its log-probability.
struct TokenLogprob {
  int32_t id = 0;
  float logprob = 0.0f;
};

// What is reported about one generated token when logprobs were asked for.
struct TokenLogprobs {
  TokenLogprob chosen;
  std::vector<TokenLogprob> top;  // [params.logprobs], most likely first; ties by lower id
};

// When things happened to a request, and what it took; for the log line, usage and metrics.
struct SequenceStats {
  absl::Time arrival = absl::InfinitePast();
  absl::Time first_scheduled = absl::InfiniteFuture();
  absl::Time first_token = absl::InfiniteFuture();
  absl::Time finished = absl::InfiniteFuture();
  int32_t prompt_tokens = 0;
  int32_t cached_tokens = 0;  // prompt tokens that the prefix cache had
  int32_t completion_tokens = 0;
  int32_t preemptions = 0;
};

}  // namespace moed

#endif  // MOED_REQUEST_SEQUENCE_H_
