// The gRPC server around the services.
#ifndef MOED_SERVICE_SERVER_H_
#define MOED_SERVICE_SERVER_H_

#include <absl/time/time.h>

#include <cstdint>
#include <memory>
#include <string>

#include "base/status.h"

namespace moed {

class Authenticator;
class ModelRegistry;

struct ServerOptions {
  // The address to listen on. The default can be reached from this machine only, since everyone who reaches the server
  // may use it; 0.0.0.0 or [::] for all interfaces. (--host)
  std::string host = "127.0.0.1";
  // 0 picks a free one. (--port)
  int32_t port = 50051;
  // The largest request. A prompt of a million tokens takes about 5 MB. (--max-message-bytes)
  int32_t max_message_bytes = 32 << 20;
  // Memory for the buffers of all connections together; beyond it gRPC slows down reading. (--connection-memory-bytes)
  int64_t connection_memory_bytes = int64_t{1} << 30;
  // Connections that may be open at once; one more is closed as soon as it comes. Each takes a descriptor and, when
  // silent, some tens of KiB. The system's limit of open files may be lower, and then holds. (--max-connections)
  int32_t max_connections = 16384;
  // How long a connection may take to say that it speaks HTTP/2; those that only connect are dropped then.
  // (--handshake-timeout)
  absl::Duration handshake_timeout = absl::Seconds(10);
  // A connection that is silent is asked whether it still lives; without an answer its requests are cancelled.
  // (--keepalive-time)
  absl::Duration keepalive_time = absl::Seconds(30);
  // A line in the log for each request that is refused before a serving loop has it, which logs the others; set with
  // ServingOptions::log_requests. (--log-requests)
  bool log_requests = true;
};

// Serves moed.v1.InferenceService, grpc.health.v1 and reflection. Health of "" tells that the process lives, that of
// "moed.v1.InferenceService" whether it takes requests. Thread-safe.
class Server {
 public:
  // INVALID_ARGUMENT for options out of range; UNAVAILABLE when the address cannot be listened on, naming it and the
  // reason. `models` and `authenticator` outlive the server.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const ServerOptions& options, const ModelRegistry& models,
                                                       const Authenticator& authenticator);
  // Cancels the calls that are left.
  ~Server();

  // "127.0.0.1:50051", with the port that was picked.
  const std::string& address() const { return address_; }

  // What health checks see of the inference service; not serving at first.
  void SetReady(bool ready);

  // Takes no more calls, waits for those that are under way until `deadline`, then cancels them.
  void Shutdown(absl::Time deadline);

 private:
  struct Impl;
  Server(std::unique_ptr<Impl> impl, std::string address);

  std::unique_ptr<Impl> impl_;
  std::string address_;
};

}  // namespace moed

#endif  // MOED_SERVICE_SERVER_H_
