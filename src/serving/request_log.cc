#include "serving/request_log.h"

#include <string>

#include "base/logging.h"
#include "base/text.h"

namespace moed {
namespace {

double Milliseconds(absl::Time from, absl::Time to) {
  if (from == absl::InfinitePast() || to == absl::InfiniteFuture()) return 0;
  return absl::ToDoubleMilliseconds(to - from);
}

// A message may quote the client, who shall neither fill the log nor write lines of its own into it.
std::string Failure(const absl::Status& status) {
  constexpr size_t kMaxMessageBytes = 512;
  return fmt::format("status={} message={}", absl::StatusCodeToString(status.code()),
                     Quoted(Message(status), kMaxMessageBytes));
}

}  // namespace

RequestTimings TimingsOf(const SequenceStats& stats) {
  RequestTimings timings{.queue_ms = Milliseconds(stats.arrival, stats.first_scheduled),
                         .time_to_first_token_ms = Milliseconds(stats.arrival, stats.first_token),
                         .total_ms = Milliseconds(stats.arrival, stats.finished)};
  const double decode_ms = Milliseconds(stats.first_token, stats.finished);
  if (stats.completion_tokens > 1 && decode_ms > 0) {
    timings.tokens_per_second = (stats.completion_tokens - 1) / (decode_ms / 1000);
  }
  return timings;
}

void LogRequest(const Request& request, FinishReason finish, const SequenceStats& stats, const absl::Status& status) {
  const RequestTimings timings = TimingsOf(stats);
  const std::string failure = status.ok() ? "" : " " + Failure(status);
  MOED_LOG_INFO(
      "request id={} tenant={} prompt={} cached={} completion={} preemptions={} queue_ms={:.1f} ttft_ms={:.1f} "
      "total_ms={:.1f} tokens_per_s={:.1f} finish={}{}",
      request.id, request.tenant, stats.prompt_tokens, stats.cached_tokens, stats.completion_tokens, stats.preemptions,
      timings.queue_ms, timings.time_to_first_token_ms, timings.total_ms, timings.tokens_per_second,
      FinishReasonName(finish), failure);
}

void LogRefusal(std::string_view method, std::string_view tenant, std::string_view peer, const absl::Status& status) {
  MOED_LOG_INFO("request refused method={} tenant={} peer={} {}", method, tenant, peer, Failure(status));
}

}  // namespace moed
