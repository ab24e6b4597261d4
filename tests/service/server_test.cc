// The server around the services: health, reflection, limits, hostile bytes and connections.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <grpcpp/impl/codegen/client_unary_call.h>
#include <grpcpp/support/sync_stream.h>
#include <netinet/in.h>
#include <spdlog/sinks/ostream_sink.h>
#include <sys/socket.h>
#include <unistd.h>

#include <sstream>

#include "tests/service/service_fixture.h"

namespace moed {
namespace {

using ::grpc::StatusCode;
using ::testing::HasSubstr;

class ServerTest : public ServiceTest {
 protected:
  static grpc::ByteBuffer ToBuffer(const std::string& bytes) {
    const grpc::Slice slice(bytes);
    return grpc::ByteBuffer(&slice, 1);
  }
  static std::string ToString(const grpc::ByteBuffer& buffer) {
    std::vector<grpc::Slice> slices;
    std::string bytes;
    if (!buffer.Dump(&slices).ok()) return bytes;
    for (const grpc::Slice& slice : slices) bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
    return bytes;
  }

  // Calls a method with any bytes as its request.
  grpc::Status CallRaw(const char* method, const std::string& request, std::string* response = nullptr) {
    grpc::ClientContext context;
    grpc::ByteBuffer answer;
    const grpc::internal::RpcMethod rpc(method, grpc::internal::RpcMethod::NORMAL_RPC);
    const grpc::ByteBuffer bytes = ToBuffer(request);
    grpc::Status status = grpc::internal::BlockingUnaryCall(channel_.get(), rpc, &context, bytes, &answer);
    if (response != nullptr) *response = ToString(answer);
    return status;
  }

  // grpc.health.v1: HealthCheckRequest{service = 1}, HealthCheckResponse{status = 1: 1 serving, 2 not serving}.
  std::string Health(const std::string& service) {
    std::string request;
    if (!service.empty()) request = "\x0a" + std::string(1, static_cast<char>(service.size())) + service;
    std::string response;
    const grpc::Status status = CallRaw("/grpc.health.v1.Health/Check", request, &response);
    return status.ok() ? response : status.error_message();
  }

  int Connect() {
    const int client = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port =
        htons(static_cast<uint16_t>(std::stoi(server_->address().substr(server_->address().find(':') + 1))));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(client, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    return client;
  }
};

TEST_F(ServerTest, HealthTellsLivenessFromReadiness) {
  const std::string serving = "\x08\x01", not_serving = "\x08\x02";
  StartServer();
  EXPECT_EQ(Health(""), serving);
  EXPECT_EQ(Health("moed.v1.InferenceService"), not_serving);
  LoadModel();
  EXPECT_EQ(Health("moed.v1.InferenceService"), serving);
  server_->SetReady(false);
  EXPECT_EQ(Health("moed.v1.InferenceService"), not_serving);
  EXPECT_EQ(Health(""), serving);
}

TEST_F(ServerTest, ReflectionKnowsTheServices) {
  Start();
  // ServerReflectionRequest{list_services = 7}
  grpc::ClientContext context;
  const grpc::internal::RpcMethod rpc("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                                      grpc::internal::RpcMethod::BIDI_STREAMING);
  std::unique_ptr<grpc::ClientReaderWriter<grpc::ByteBuffer, grpc::ByteBuffer>> stream(
      grpc::internal::ClientReaderWriterFactory<grpc::ByteBuffer, grpc::ByteBuffer>::Create(channel_.get(), rpc,
                                                                                            &context));
  ASSERT_TRUE(stream->Write(ToBuffer(std::string("\x3a\x01*", 3))));
  grpc::ByteBuffer answer;
  ASSERT_TRUE(stream->Read(&answer));
  stream->WritesDone();
  EXPECT_THAT(ToString(answer), HasSubstr("moed.v1.InferenceService"));
  EXPECT_THAT(ToString(answer), HasSubstr("grpc.health.v1.Health"));
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(ServerTest, BytesThatAreNoRequestAreInvalid) {
  Start();
  const std::string text_not_utf8 = "\x12\x02\xff\xfe";  // GenerateRequest.text
  for (const std::string& bytes : {text_not_utf8, std::string("\x12\x7f"), std::string(1000, '\xff')}) {
    for (const char* method : {"Generate", "Chat", "Tokenize"}) {
      const grpc::Status status = CallRaw(fmt::format("/moed.v1.InferenceService/{}", method).c_str(), bytes);
      EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT) << status.error_message();
      EXPECT_THAT(status.error_message(), HasSubstr("UTF-8"));
    }
  }
  EXPECT_TRUE(Generate(TextRequest("x", 1)).ok());
}

// As a client does that gives up at once.
TEST_F(ServerTest, ACallWithoutAMessageIsNoBadRequest) {
  Start();
  grpc::ClientContext context;
  const grpc::internal::RpcMethod rpc("/moed.v1.InferenceService/GenerateStream",
                                      grpc::internal::RpcMethod::BIDI_STREAMING);
  std::unique_ptr<grpc::ClientReaderWriter<grpc::ByteBuffer, grpc::ByteBuffer>> stream(
      grpc::internal::ClientReaderWriterFactory<grpc::ByteBuffer, grpc::ByteBuffer>::Create(channel_.get(), rpc,
                                                                                            &context));
  stream->WritesDone();
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), StatusCode::CANCELLED) << status.error_message();
  EXPECT_THAT(status.error_message(), HasSubstr("before its request had come"));
}

TEST_F(ServerTest, AMessageThatIsTooLargeIsRefused) {
  server_options_.max_message_bytes = 1 << 20;
  Start();
  for (int i = 0; i < 3; ++i) {
    const grpc::Status status = Generate(TextRequest(std::string(8 << 20, 'x'), 1));
    EXPECT_EQ(status.error_code(), StatusCode::RESOURCE_EXHAUSTED) << status.error_message();
    EXPECT_TRUE(Generate(TextRequest("x", 1)).ok());
  }
}

TEST_F(ServerTest, RefusedRequestsAreLogged) {
  std::ostringstream log;
  const auto before = spdlog::default_logger();
  spdlog::set_default_logger(
      std::make_shared<spdlog::logger>("test", std::make_shared<spdlog::sinks::ostream_sink_mt>(log)));
  server_options_.log_requests = true;
  Start();
  v1::GenerateRequest request = TextRequest("x", 1);
  request.set_model("none\nrequest id=1 forged " + std::string(10000, 'y'));
  EXPECT_EQ(Generate(request).error_code(), StatusCode::NOT_FOUND);
  grpc::ClientContext context;
  v1::ChatStreamResponse response;
  EXPECT_FALSE(stub_->ChatStream(&context, {})->Read(&response));
  server_.reset();
  spdlog::set_default_logger(before);
  EXPECT_THAT(log.str(), HasSubstr("request refused method=Generate tenant=default peer=ipv4:127.0.0.1:"));
  EXPECT_THAT(log.str(), HasSubstr("status=NOT_FOUND message=\"there is no model \\\"none\\\\nrequest id=1"));
  EXPECT_THAT(log.str(), HasSubstr("request refused method=ChatStream "));
  EXPECT_LT(log.str().size(), 2000u);
}

TEST_F(ServerTest, AnAddressInUseIsNamed) {
  Start();
  ServerOptions options;
  options.port = std::stoi(server_->address().substr(server_->address().find(':') + 1));
  const auto second = Server::Start(options, models_, authenticator_);
  EXPECT_TRUE(absl::IsUnavailable(second.status())) << second.status();
  EXPECT_THAT(std::string(Message(second.status())), HasSubstr(server_->address() + ": Address already in use"));
}

TEST_F(ServerTest, WrongOptionsAreNamed) {
  const auto message_of = [&](const ServerOptions& options) {
    const auto server = Server::Start(options, models_, authenticator_);
    EXPECT_TRUE(absl::IsInvalidArgument(server.status()));
    return std::string(Message(server.status()));
  };
  EXPECT_THAT(message_of({.host = "127.0.0.1", .port = 70000}), HasSubstr("port is 70000"));
  EXPECT_THAT(message_of({.host = "no such host"}), HasSubstr("host is \"no such host\""));
  ServerOptions options;
  options.max_message_bytes = 1;
  EXPECT_THAT(message_of(options), HasSubstr("max_message_bytes is 1"));
  options = {};
  options.max_connections = 0;
  EXPECT_THAT(message_of(options), HasSubstr("max_connections is 0"));
}

TEST_F(ServerTest, MoreConnectionsThanAllowedAreTurnedAway) {
  server_options_.max_connections = 20;
  Start();
  ASSERT_TRUE(Generate(TextRequest("x", 1)).ok());
  // The clients' descriptors are ours as well, and their numbers are what the server goes by: half of them suffice.
  std::vector<int> clients;
  clients.reserve(40);
  for (int i = 0; i < 40; ++i) clients.push_back(Connect());
  char byte;
  EXPECT_EQ(read(clients.back(), &byte, 1), 0) << "the last connection is not closed";
  EXPECT_TRUE(Generate(TextRequest("x", 1)).ok()) << "the first one is";
  for (int client : clients) close(client);

  // There is room again, once the server has noticed.
  stub_ = v1::InferenceService::NewStub(testing::Connect(server_->address()));
  EXPECT_TRUE(Generate(TextRequest("x", 1)).ok());
}

TEST_F(ServerTest, ConnectionsOpenedAndDroppedDoNoHarm) {
  Start();
  for (int i = 0; i < 2000; ++i) {
    const int client = Connect();
    if (i % 3 == 1) {
      EXPECT_GT(send(client, "GET / HTTP/1.1\r\n\r\n", 18, MSG_NOSIGNAL), 0);
    }
    close(client);
  }
  EXPECT_TRUE(Generate(TextRequest("x", 1)).ok());
}

TEST_F(ServerTest, ShutdownEndsOpenCallsAtItsDeadline) {
  engine_options_.step_time = absl::Milliseconds(10);
  Start();
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, TextRequest("x", 250));
  v1::GenerateStreamResponse response;
  ASSERT_TRUE(reader->Read(&response));
  server_->Shutdown(absl::Now() + absl::Milliseconds(20));
  while (reader->Read(&response)) continue;
  EXPECT_FALSE(reader->Finish().ok());
  ExpectNothingHeld();
}

}  // namespace
}  // namespace moed
