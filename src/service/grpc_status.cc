#include "service/grpc_status.h"

#include <string>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace moed {
namespace {

// HTTP/2 peers commonly accept 8 KiB of headers; the message is sent twice, percent-encoded.
constexpr size_t kMaxMessageBytes = 1024;
// Most steps are shorter, and a model takes minutes to load: a client's own backoff does the rest.
constexpr int kRetryDelaySeconds = 1;

std::string CutMessage(std::string_view message) {
  if (message.size() <= kMaxMessageBytes) return std::string(message);
  size_t end = kMaxMessageBytes;
  while (end > 0 && (static_cast<unsigned char>(message[end]) & 0xC0) == 0x80) --end;
  return std::string(message.substr(0, end)) + " …";
}

}  // namespace

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const auto code = static_cast<grpc::StatusCode>(status.code());
  const std::string message = CutMessage(Message(status));
  if (!absl::IsResourceExhausted(status) && !absl::IsUnavailable(status)) return grpc::Status(code, message);

  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(kRetryDelaySeconds);
  google::rpc::Status details;
  details.set_code(code);
  details.set_message(message);
  details.add_details()->PackFrom(retry);
  return grpc::Status(code, message, details.SerializeAsString());
}

}  // namespace moed
