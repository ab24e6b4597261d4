#include "service/server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/impl/service_type.h>
#include <grpcpp/resource_quota.h>
#include <sys/resource.h>

#include <absl/time/clock.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/logging.h"
#include "service/authenticator.h"
#include "service/inference_service.h"
#include "service/listener.h"

namespace moed {
namespace {

// Both are switches of the gRPC library, to be set before the first server is built.
void EnableHealthAndReflection() {
  static const bool once = [] {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    return true;
  }();
  static_cast<void>(once);
}

// Each connection takes a descriptor: take what the system allows.
void RaiseDescriptorLimit() {
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max) return;
  limit.rlim_cur = limit.rlim_max;
  if (setrlimit(RLIMIT_NOFILE, &limit) != 0) MOED_LOG_WARNING("the limit of open files stays low: {}", errno);
}

int Milliseconds(absl::Duration duration) { return static_cast<int>(absl::ToInt64Milliseconds(duration)); }

absl::Status CheckOptions(const ServerOptions& options) {
  if (options.port < 0 || options.port > 65535) {
    return InvalidArgument("port is {}; it must be in [0, 65535], 0 picks a free one", options.port);
  }
  if (options.max_message_bytes < 4096) {
    return InvalidArgument("max_message_bytes is {}; it must be at least 4096", options.max_message_bytes);
  }
  if (options.connection_memory_bytes < options.max_message_bytes) {
    return InvalidArgument("connection_memory_bytes is {}; it must be at least max_message_bytes = {}",
                           options.connection_memory_bytes, options.max_message_bytes);
  }
  if (options.max_connections < 1) {
    return InvalidArgument("max_connections is {}; it must be at least 1", options.max_connections);
  }
  for (const auto& [name, value] : {std::pair{"handshake_timeout", options.handshake_timeout},
                                    std::pair{"keepalive_time", options.keepalive_time}}) {
    if (value < absl::Seconds(1) || value > absl::Hours(24)) {
      return InvalidArgument("{} is {} s; it must be between 1 and 86400", name, absl::ToDoubleSeconds(value));
    }
  }
  return absl::OkStatus();
}

void Configure(const ServerOptions& options, grpc::ServerBuilder* builder) {
  builder->SetMaxReceiveMessageSize(options.max_message_bytes);
  builder->SetMaxSendMessageSize(-1);  // bounded by the context's length
  grpc::ResourceQuota quota("moed");
  quota.Resize(static_cast<size_t>(options.connection_memory_bytes));
  builder->SetResourceQuota(quota);
  // The synchronous API serves reflection only.
  builder->SetSyncServerOption(grpc::ServerBuilder::NUM_CQS, 1);
  builder->AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, Milliseconds(options.handshake_timeout));
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, Milliseconds(options.keepalive_time));
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  // Clients may ask, too: a stream can be silent for long while its prompt waits in the queue.
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5'000);
}

}  // namespace

struct Server::Impl {
  std::unique_ptr<grpc::Service> inference;
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> acceptor;
  std::unique_ptr<grpc::Server> server;
  std::unique_ptr<Listener> listener;
};

Server::Server(std::unique_ptr<Impl> impl, std::string address)
    : impl_(std::move(impl)), address_(std::move(address)) {}

Server::~Server() { Shutdown(absl::InfinitePast()); }

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerOptions& options, const ModelRegistry& models,
                                                      const Authenticator& authenticator) {
  MOED_RETURN_IF_ERROR(CheckOptions(options));
  auto impl = std::make_unique<Impl>();
  MOED_ASSIGN_OR_RETURN(impl->listener, Listener::Bind(options.host, options.port));
  EnableHealthAndReflection();
  RaiseDescriptorLimit();

  impl->inference = MakeInferenceService(models, authenticator, options.log_requests);
  grpc::ServerBuilder builder;
  Configure(options, &builder);
  impl->acceptor = builder.experimental().AddExternalConnectionAcceptor(
      grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD, grpc::InsecureServerCredentials());
  builder.RegisterService(impl->inference.get());
  impl->server = builder.BuildAndStart();
  if (impl->server == nullptr) return Internal("gRPC did not start its server");

  const bool bare_ipv6 = options.host.find(':') != std::string::npos && options.host.front() != '[';
  std::string address =
      fmt::format(fmt::runtime(bare_ipv6 ? "[{}]:{}" : "{}:{}"), options.host, impl->listener->port());
  auto server = std::unique_ptr<Server>(new Server(std::move(impl), std::move(address)));
  server->SetReady(false);
  const auto take = [acceptor = server->impl_->acceptor.get()](int connection) {
    grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters parameters;
    parameters.fd = connection;
    acceptor->HandleNewConnection(&parameters);
  };
  server->impl_->listener->Start(options.max_connections, take);
  return server;
}

void Server::SetReady(bool ready) {
  impl_->server->GetHealthCheckService()->SetServingStatus(std::string(kInferenceServiceName), ready);
}

void Server::Shutdown(absl::Time deadline) {
  impl_->listener->Stop();
  if (deadline == absl::InfiniteFuture()) return impl_->server->Shutdown();
  impl_->server->Shutdown(absl::ToChronoTime(std::max(deadline, absl::Now())));
}

}  // namespace moed
