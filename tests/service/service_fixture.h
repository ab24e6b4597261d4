// A server on a free port over the fake engine, and a client of it.
#ifndef MOED_TESTS_SERVICE_SERVICE_FIXTURE_H_
#define MOED_TESTS_SERVICE_SERVICE_FIXTURE_H_

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "moed/v1/inference.grpc.pb.h"
#include "scheduler/policy.h"
#include "service/authenticator.h"
#include "service/server.h"
#include "serving/model_registry.h"
#include "tests/support/connect.h"
#include "tests/support/fake_engine.h"
#include "tests/support/tiny_tokenizer.h"
#include "tokenizer/chat_template.h"

namespace moed {

class ServiceTest : public ::testing::Test {
 protected:
  ServiceTest() {
    engine_options_.info.vocab_size = 257;  // the bytes and <eos>
    engine_options_.info.eos_token_ids = {256};
    // "abcdef…" by position, whatever the prompt.
    engine_options_.next_token = [](std::span<const int32_t> context) {
      return static_cast<int32_t>('a' + context.size() % 26);
    };
    serving_options_.log_requests = server_options_.log_requests = false;
    server_options_.port = 0;
  }

  void StartServer() {
    models_.SetLoading("fake");
    auto server = Server::Start(server_options_, models_, authenticator_);
    MOED_CHECK(server.ok(), "{}", server.status().ToString());
    server_ = std::move(server).value();
    grpc::ChannelArguments arguments;
    arguments.SetMaxSendMessageSize(-1);
    channel_ = testing::Connect(server_->address(), arguments);
    stub_ = v1::InferenceService::NewStub(channel_);
  }

  void LoadModel() {
    serving_options_.scheduler.max_num_seqs = engine_options_.info.max_slots;
    serving_options_.scheduler.max_num_batched_tokens = engine_options_.info.max_tokens_per_step;
    auto tokenizer = MakeTinyTokenizer();
    auto loop = ServingLoop::Create(serving_options_, std::make_unique<FakeEngine>(engine_options_), MakeFcfsPolicy(),
                                    tokenizer);
    MOED_CHECK(loop.ok(), "{}", loop.status().ToString());
    std::shared_ptr<const ChatTemplate> chat_template;
    if (!chat_template_.empty()) {
      auto parsed = ChatTemplate::Parse(chat_template_);
      MOED_CHECK(parsed.ok(), "{}", parsed.status().ToString());
      chat_template = std::move(parsed).value();
    }
    model_ = std::make_shared<const ServedModel>("fake", tokenizer, chat_template, std::move(loop).value());
    models_.SetReady(model_);
    server_->SetReady(true);
  }

  void Start() {
    StartServer();
    LoadModel();
  }

  static v1::GenerateRequest TextRequest(const std::string& text, int32_t max_tokens) {
    v1::GenerateRequest request;
    request.set_text(text);
    request.mutable_sampling()->set_max_tokens(max_tokens);
    return request;
  }

  grpc::Status Generate(const v1::GenerateRequest& request, v1::GenerateResponse* response = nullptr) {
    grpc::ClientContext context;
    v1::GenerateResponse ignored;
    return stub_->Generate(&context, request, response != nullptr ? response : &ignored);
  }

  // Requests end within a step; the client may know earlier.
  void ExpectNothingHeld() {
    const absl::Time patience = absl::Now() + absl::Minutes(2);  // long answers under a sanitizer
    ServingStats stats = model_->loop().stats();
    while (absl::Now() < patience &&
           (stats.open_requests > 0 || stats.scheduler.free_blocks < stats.scheduler.total_blocks)) {
      absl::SleepFor(absl::Milliseconds(5));
      stats = model_->loop().stats();
    }
    EXPECT_EQ(stats.open_requests, 0);
    EXPECT_EQ(stats.scheduler.running, 0);
    EXPECT_EQ(stats.scheduler.free_blocks, stats.scheduler.total_blocks);
  }

  FakeEngineOptions engine_options_;
  ServingOptions serving_options_;
  ServerOptions server_options_;
  std::string chat_template_ =
      "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
      "{% if tools %}{{ tools | tojson }}{% endif %}{% if add_generation_prompt %}<assistant>{% endif %}";

  ModelRegistry models_;
  OpenAuthenticator authenticator_;
  std::shared_ptr<const ServedModel> model_;
  std::unique_ptr<Server> server_;  // before the models go
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::InferenceService::Stub> stub_;
};

}  // namespace moed

#endif  // MOED_TESTS_SERVICE_SERVICE_FIXTURE_H_
