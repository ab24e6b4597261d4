// Our errors as gRPC statuses.
#ifndef MOED_SERVICE_GRPC_STATUS_H_
#define MOED_SERVICE_GRPC_STATUS_H_

#include <grpcpp/support/status.h>

#include "base/status.h"

namespace moed {

// The same code and message. Where trying again later helps (RESOURCE_EXHAUSTED, UNAVAILABLE) the details hold a
// google.rpc.RetryInfo. A message that would not fit into a trailer is cut.
grpc::Status ToGrpcStatus(const absl::Status& status);

}  // namespace moed

#endif  // MOED_SERVICE_GRPC_STATUS_H_
