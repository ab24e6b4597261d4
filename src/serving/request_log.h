// The one line that the log has about each request.
#ifndef MOED_SERVING_REQUEST_LOG_H_
#define MOED_SERVING_REQUEST_LOG_H_

#include <string_view>

#include "base/status.h"
#include "request/sequence.h"

namespace moed {

// request id=7 tenant=default prompt=120 cached=96 completion=64 queue_ms=0.2 ttft_ms=18.4 total_ms=420.9
// tokens_per_s=156.5 finish=stop; for a failure also its status.
void LogRequest(const Request& request, FinishReason finish, const SequenceStats& stats, const absl::Status& status);

// The same for a request that was refused before it had an id:
// request refused method=Chat tenant=default peer=ipv4:10.0.0.7:51234 status=INVALID_ARGUMENT message="top_p is 2; …"
void LogRefusal(std::string_view method, std::string_view tenant, std::string_view peer, const absl::Status& status);

// What clients get to see of the times, in milliseconds; 0 where it never came to that.
struct RequestTimings {
  double queue_ms = 0;
  double time_to_first_token_ms = 0;
  double total_ms = 0;
  // Of the tokens after the first.
  double tokens_per_second = 0;
};
RequestTimings TimingsOf(const SequenceStats& stats);

}  // namespace moed

#endif  // MOED_SERVING_REQUEST_LOG_H_
