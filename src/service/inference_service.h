// moed.v1.InferenceService over the serving loop.
#ifndef MOED_SERVICE_INFERENCE_SERVICE_H_
#define MOED_SERVICE_INFERENCE_SERVICE_H_

#include <memory>
#include <string_view>

namespace grpc {
class Service;
}  // namespace grpc

namespace moed {

class Authenticator;
class ModelRegistry;

// As health checks name it.
inline constexpr std::string_view kInferenceServiceName = "moed.v1.InferenceService";

// The methods are documented in proto/moed/v1/inference.proto. Tokenisation runs on gRPC's threads; everything else is
// enqueued, so that no thread waits for a response. With `log_refusals`, a line in the log for each request that never
// reaches a serving loop, which logs the others. `models` and `authenticator` outlive the service.
std::unique_ptr<grpc::Service> MakeInferenceService(const ModelRegistry& models, const Authenticator& authenticator,
                                                    bool log_refusals);

}  // namespace moed

#endif  // MOED_SERVICE_INFERENCE_SERVICE_H_
