// Messages to and from the bytes on the wire.
//
// The methods take raw bytes and parse them here, because gRPC's own code answers a request that it cannot parse with
// UNIMPLEMENTED and no message.
#ifndef MOED_SERVICE_WIRE_H_
#define MOED_SERVICE_WIRE_H_

#include <grpcpp/impl/codegen/proto_utils.h>
#include <grpcpp/support/byte_buffer.h>

#include "base/logging.h"
#include "base/status.h"

namespace moed {

// INVALID_ARGUMENT when `bytes` are not such a message: malformed, or with text that is not UTF-8; CANCELLED where the
// call ended before there was a message.
template <typename Message>
absl::StatusOr<Message> ParseRequest(const grpc::ByteBuffer& bytes) {
  if (!bytes.Valid()) return Cancelled("the call ended before its request had come");
  Message message;
  grpc::ByteBuffer copy = bytes;  // parsing takes the buffer; its slices are shared
  if (!grpc::SerializationTraits<Message>::Deserialize(&copy, &message).ok()) {
    return InvalidArgument("the request is not a valid {}: malformed, or with text that is not UTF-8",
                           Message::descriptor()->full_name());
  }
  return message;
}

// Our own messages always serialise: they are far below the 2 GiB that protobuf allows.
template <typename Message>
grpc::ByteBuffer SerializeResponse(const Message& message) {
  grpc::ByteBuffer bytes;
  bool own_buffer = false;
  MOED_CHECK((grpc::SerializationTraits<Message>::Serialize(message, &bytes, &own_buffer).ok()));
  return bytes;
}

}  // namespace moed

#endif  // MOED_SERVICE_WIRE_H_
