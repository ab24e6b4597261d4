// Every method of moed.v1.InferenceService, and every status of its table, over loopback.
#include <gmock/gmock.h>

#include <cmath>
#include <limits>
#include <thread>
#include <vector>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "tests/service/service_fixture.h"

namespace moed {
namespace {

using ::grpc::StatusCode;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

using InferenceServiceTest = ServiceTest;

TEST_F(InferenceServiceTest, GenerateAnswersWithTextTokensAndUsage) {
  Start();
  v1::GenerateResponse response;
  v1::GenerateRequest request = TextRequest("xyz", 5);
  request.mutable_sampling()->set_logprobs(2);
  ASSERT_TRUE(Generate(request, &response).ok());
  EXPECT_EQ(response.text(), "defgh");
  EXPECT_EQ(response.model(), "fake");
  EXPECT_FALSE(response.id().empty());
  EXPECT_THAT(response.token_ids(), ElementsAre('d', 'e', 'f', 'g', 'h'));
  EXPECT_EQ(response.finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(response.usage().prompt_tokens(), 3);
  EXPECT_EQ(response.usage().completion_tokens(), 5);
  EXPECT_GT(response.timings().total_ms(), 0);
  ASSERT_EQ(response.logprobs_size(), 5);
  EXPECT_EQ(response.logprobs(0).chosen().token(), "d");
  EXPECT_EQ(response.logprobs(0).top_size(), 2);
}

TEST_F(InferenceServiceTest, TokenIdsAreTakenAsTheyAre) {
  Start();
  v1::GenerateRequest request;
  for (int32_t id : {7, 8, 9, 10}) request.mutable_token_ids()->add_ids(id);
  request.mutable_sampling()->set_max_tokens(2);
  request.mutable_sampling()->add_stop("f");
  v1::GenerateResponse response;
  ASSERT_TRUE(Generate(request, &response).ok());
  EXPECT_EQ(response.text(), "e");
  EXPECT_EQ(response.finish_reason(), v1::FINISH_REASON_STOP);
}

TEST_F(InferenceServiceTest, AStreamHasDeltasAndOneEnd) {
  engine_options_.step_time = absl::Milliseconds(2);
  Start();
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, TextRequest("x", 20));
  std::string text;
  int messages = 0, ends = 0, tokens = 0;
  for (v1::GenerateStreamResponse response; reader->Read(&response); ++messages) {
    EXPECT_EQ(ends, 0) << "nothing follows the end";
    text += response.text_delta();
    tokens += response.token_ids_size();
    EXPECT_EQ(response.has_usage(), response.finish_reason() != v1::FINISH_REASON_UNSPECIFIED);
    if (response.has_usage()) {
      ++ends;
      EXPECT_EQ(response.usage().completion_tokens(), 20);
    }
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(text, "bcdefghijklmnopqrstu");
  EXPECT_EQ(tokens, 20);
  EXPECT_EQ(ends, 1);
  EXPECT_GT(messages, 3);
  ExpectNothingHeld();
}

TEST_F(InferenceServiceTest, ChatRendersTheConversation) {
  Start();
  v1::ChatRequest request;
  v1::ChatMessage* message = request.mutable_conversation()->add_messages();
  message->set_role("user");
  message->set_content("hi");
  request.mutable_sampling()->set_max_tokens(3);
  v1::ChatResponse response;
  grpc::ClientContext context;
  ASSERT_TRUE(stub_->Chat(&context, request, &response).ok());
  EXPECT_EQ(response.message().role(), "assistant");
  EXPECT_EQ(response.message().content().size(), 3u);
  EXPECT_EQ(response.usage().prompt_tokens(), static_cast<int>(std::string("<user>hi<assistant>").size()));

  grpc::ClientContext stream_context;
  auto reader = stub_->ChatStream(&stream_context, request);
  std::string text;
  for (v1::ChatStreamResponse delta; reader->Read(&delta);) text += delta.content_delta();
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(text, response.message().content());
}

TEST_F(InferenceServiceTest, ToolsKeepTheOrderOfTheirKeys) {
  Start();
  v1::TokenizeRequest request;
  v1::ChatMessage* message = request.mutable_conversation()->add_messages();
  message->set_role("user");
  request.mutable_conversation()->add_tools(R"({"type": "function", "a": 1, "Z": {"y": 1.0, "x": 2}})");
  request.mutable_conversation()->set_add_generation_prompt(false);
  v1::TokenizeResponse response;
  grpc::ClientContext context;
  ASSERT_TRUE(stub_->Tokenize(&context, request, &response).ok());
  EXPECT_EQ(response.rendered(), R"(<user>[{"type": "function", "a": 1, "Z": {"y": 1.0, "x": 2}}])");
}

TEST_F(InferenceServiceTest, TokenizeAndBack) {
  Start();
  v1::TokenizeRequest tokenize;
  tokenize.set_text("añb<eos>");
  v1::TokenizeResponse tokens;
  grpc::ClientContext tokenize_context;
  ASSERT_TRUE(stub_->Tokenize(&tokenize_context, tokenize, &tokens).ok());
  EXPECT_THAT(tokens.token_ids(), ElementsAre('a', 0xC3, 0xB1, 'b', 256));

  v1::DetokenizeRequest detokenize;
  *detokenize.mutable_token_ids() = tokens.token_ids();
  v1::DetokenizeResponse text;
  grpc::ClientContext detokenize_context;
  ASSERT_TRUE(stub_->Detokenize(&detokenize_context, detokenize, &text).ok());
  EXPECT_EQ(text.text(), "añb<eos>");
}

TEST_F(InferenceServiceTest, ListsModels) {
  StartServer();
  const auto list = [&] {
    grpc::ClientContext context;
    v1::ListModelsResponse response;
    EXPECT_TRUE(stub_->ListModels(&context, {}, &response).ok());
    EXPECT_EQ(response.models_size(), 1);
    return response.models(0);
  };
  EXPECT_EQ(list().state(), v1::Model::LOADING);
  LoadModel();
  const v1::Model model = list();
  EXPECT_EQ(model.state(), v1::Model::READY);
  EXPECT_EQ(model.name(), "fake");
  EXPECT_EQ(model.max_context(), 256);
  EXPECT_TRUE(model.has_chat_template());
}

TEST_F(InferenceServiceTest, BadRequestsGetInvalidArgumentThatNamesTheField) {
  Start();
  const auto expect = [&](const char* message, const std::function<void(v1::GenerateRequest*)>& spoil) {
    v1::GenerateRequest request = TextRequest("x", 3);
    spoil(&request);
    const grpc::Status status = Generate(request);
    EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT) << message;
    EXPECT_THAT(status.error_message(), HasSubstr(message));
  };
  const float nan = std::numeric_limits<float>::quiet_NaN();
  expect("temperature", [&](auto* r) { r->mutable_sampling()->set_temperature(nan); });
  expect("temperature", [](auto* r) { r->mutable_sampling()->set_temperature(-1); });
  expect("top_p", [&](auto* r) { r->mutable_sampling()->set_top_p(nan); });
  expect("top_p", [](auto* r) { r->mutable_sampling()->set_top_p(0); });
  expect("top_k", [](auto* r) { r->mutable_sampling()->set_top_k(-5); });
  expect("min_p", [](auto* r) { r->mutable_sampling()->set_min_p(2); });
  expect("repetition_penalty", [](auto* r) { r->mutable_sampling()->set_repetition_penalty(0); });
  expect("presence_penalty", [](auto* r) { r->mutable_sampling()->set_presence_penalty(INFINITY); });
  expect("frequency_penalty", [](auto* r) { r->mutable_sampling()->set_frequency_penalty(-3); });
  expect("max_tokens", [](auto* r) { r->mutable_sampling()->set_max_tokens(0); });
  expect("min_tokens", [](auto* r) { r->mutable_sampling()->set_min_tokens(4); });
  expect("logprobs", [](auto* r) { r->mutable_sampling()->set_logprobs(33); });
  expect("logit_bias", [](auto* r) { (*r->mutable_sampling()->mutable_logit_bias())[1000] = 1; });
  expect("logit_bias", [&](auto* r) { (*r->mutable_sampling()->mutable_logit_bias())[1] = nan; });
  expect("stop has 10000", [](auto* r) {
    for (int i = 0; i < 10000; ++i) r->mutable_sampling()->add_stop("stop");
  });
  expect("stop[0] is empty", [](auto* r) { r->mutable_sampling()->add_stop(""); });
  expect("stop_token_ids", [](auto* r) { r->mutable_sampling()->add_stop_token_ids(-1); });
  expect("no prompt", [](auto* r) { r->clear_prompt(); });
  expect("prompt is empty", [](auto* r) { r->set_text(""); });
  expect("prompt has 300 tokens", [](auto* r) { r->set_text(std::string(300, 'x')); });
  expect("prompt has 1000000 bytes", [](auto* r) { r->set_text(std::string(1000000, 'x')); });
  expect("prompt token 0 is 257", [](auto* r) { r->mutable_token_ids()->add_ids(257); });
  expect("prompt token 0 is -1", [](auto* r) { r->mutable_token_ids()->add_ids(-1); });
  EXPECT_TRUE(Generate(TextRequest("x", 3)).ok());
}

TEST_F(InferenceServiceTest, BadConversationsGetInvalidArgument) {
  chat_template_ = "{% if messages[0].role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}x";
  Start();
  const auto expect = [&](const char* message, const std::function<void(v1::Conversation*)>& spoil) {
    v1::ChatRequest request;
    request.mutable_conversation()->add_messages()->set_role("user");
    spoil(request.mutable_conversation());
    v1::ChatResponse response;
    grpc::ClientContext context;
    const grpc::Status status = stub_->Chat(&context, request, &response);
    EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT) << message;
    EXPECT_THAT(status.error_message(), HasSubstr(message));
  };
  expect("no messages", [](auto* c) { c->clear_messages(); });
  expect("messages[0].role", [](auto* c) { c->mutable_messages(0)->clear_role(); });
  expect("no tools", [](auto* c) { c->mutable_messages(0)->set_role("tool"); });
  expect("tools[0] is not JSON", [](auto* c) { c->add_tools("{"); });
  expect("tools[0] is a JSON array", [](auto* c) { c->add_tools("[]"); });
  expect("nested", [](auto* c) { c->add_tools(std::string(1'000'000, '[')); });
  std::string many_keys = "{\"a\": {";
  for (int i = 0; i < 300'000; ++i) many_keys += fmt::format("{}\"{}\": 0", i > 0 ? "," : "", i);
  many_keys += "}}";
  expect("tools[0] has an object of more than 1024 keys", [&](auto* c) { c->add_tools(many_keys); });
  std::string many_values = "{\"a\": [0";
  for (int i = 0; i < 200'000; ++i) many_values += ",0";
  many_values += "]}";
  expect("tools[1] makes it more than 262144 JSON values", [&](auto* c) {
    c->add_tools(many_values);
    c->add_tools(many_values);
  });
  expect("template_kwargs", [](auto* c) { c->set_template_kwargs("1"); });
  expect("tool_calls[0].arguments", [](auto* c) { c->mutable_messages(0)->add_tool_calls()->set_arguments("x"); });
}

TEST_F(InferenceServiceTest, AnEndlessTemplateIsStopped) {
  chat_template_ =
      "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}"
      "{% endfor %}";
  Start();
  v1::ChatRequest request;
  request.mutable_conversation()->add_messages()->set_role("user");
  v1::ChatResponse response;
  grpc::ClientContext context;
  const grpc::Status status = stub_->Chat(&context, request, &response);
  EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("max_steps"));
  EXPECT_TRUE(status.error_details().empty()) << "no RetryInfo: it would fail again";
}

TEST_F(InferenceServiceTest, UnknownModelIsNotFound) {
  Start();
  v1::GenerateRequest request = TextRequest("x", 1);
  request.set_model("other");
  const grpc::Status status = Generate(request);
  EXPECT_EQ(status.error_code(), StatusCode::NOT_FOUND);
  EXPECT_THAT(status.error_message(), HasSubstr("fake"));
}

TEST_F(InferenceServiceTest, LoadingAndDrainingAreUnavailable) {
  StartServer();
  EXPECT_EQ(Generate(TextRequest("x", 1)).error_code(), StatusCode::UNAVAILABLE);
  LoadModel();
  EXPECT_TRUE(Generate(TextRequest("x", 1)).ok());
  model_->loop().Drain(absl::InfiniteFuture());
  EXPECT_EQ(Generate(TextRequest("x", 1)).error_code(), StatusCode::UNAVAILABLE);
  models_.SetDraining("fake");
  EXPECT_EQ(Generate(TextRequest("x", 1)).error_code(), StatusCode::UNAVAILABLE);
}

TEST_F(InferenceServiceTest, ChatWithoutATemplateIsUnimplemented) {
  chat_template_.clear();
  Start();
  v1::ChatRequest request;
  request.mutable_conversation()->add_messages()->set_role("user");
  v1::ChatResponse response;
  grpc::ClientContext context;
  EXPECT_EQ(stub_->Chat(&context, request, &response).error_code(), StatusCode::UNIMPLEMENTED);
}

TEST_F(InferenceServiceTest, AFullQueueSaysWhenToComeBack) {
  engine_options_.info.max_slots = 1;
  engine_options_.step_time = absl::Milliseconds(20);
  serving_options_.scheduler.max_queue = 1;
  Start();
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::GenerateStreamResponse>>> readers;
  for (int i = 0; i < 6; ++i) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    readers.push_back(stub_->GenerateStream(contexts.back().get(), TextRequest("x", 10)));
  }
  int refused = 0;
  for (auto& reader : readers) {
    for (v1::GenerateStreamResponse response; reader->Read(&response);) continue;
    const grpc::Status status = reader->Finish();
    if (status.ok()) continue;
    ++refused;
    EXPECT_EQ(status.error_code(), StatusCode::RESOURCE_EXHAUSTED);
    google::rpc::Status details;
    ASSERT_TRUE(details.ParseFromString(status.error_details()));
    google::rpc::RetryInfo retry;
    ASSERT_EQ(details.details_size(), 1);
    ASSERT_TRUE(details.details(0).UnpackTo(&retry));
    EXPECT_GT(retry.retry_delay().seconds(), 0);
  }
  EXPECT_GT(refused, 0);
  EXPECT_LT(refused, 6);
  ExpectNothingHeld();
}

TEST_F(InferenceServiceTest, DeadlineEndsTheRequest) {
  engine_options_.step_time = absl::Milliseconds(10);
  Start();
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(80));
  v1::GenerateResponse response;
  EXPECT_EQ(stub_->Generate(&context, TextRequest("x", 250), &response).error_code(), StatusCode::DEADLINE_EXCEEDED);
  ExpectNothingHeld();
}

TEST_F(InferenceServiceTest, CancelEndsTheRequest) {
  engine_options_.step_time = absl::Milliseconds(10);
  Start();
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, TextRequest("x", 250));
  v1::GenerateStreamResponse response;
  ASSERT_TRUE(reader->Read(&response));
  context.TryCancel();
  while (reader->Read(&response)) continue;
  EXPECT_EQ(reader->Finish().error_code(), StatusCode::CANCELLED);
  ExpectNothingHeld();
}

TEST_F(InferenceServiceTest, AClientThatGoesAwayHoldsNothing) {
  engine_options_.step_time = absl::Milliseconds(10);
  Start();
  {
    auto stub = v1::InferenceService::NewStub(testing::Connect(server_->address()));
    grpc::ClientContext context;
    auto reader = stub->GenerateStream(&context, TextRequest("x", 250));
    v1::GenerateStreamResponse response;
    ASSERT_TRUE(reader->Read(&response));
    context.TryCancel();  // a client that is destroyed does the same
  }
  ExpectNothingHeld();
}

TEST_F(InferenceServiceTest, AnErrorOfTheEngineIsAStatus) {
  engine_options_.fail = [](const StepPlan&) { return Internal("the device is gone"); };
  Start();
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, TextRequest("x", 5));
  v1::GenerateStreamResponse response;
  EXPECT_FALSE(reader->Read(&response));
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), StatusCode::INTERNAL);
  EXPECT_THAT(status.error_message(), HasSubstr("the device is gone"));
}

TEST_F(InferenceServiceTest, APeerThatDoesNotReadIsCutOffAndSlowsNobody) {
  // Long answers with many log-probabilities, more than HTTP/2's windows hold.
  engine_options_.info.max_context = 8000;
  engine_options_.info.cache_groups[0] = {.block_size = 64, .num_blocks = 300, .window = 0, .bytes_per_block = 64};
  serving_options_.stream_capacity = 64;
  serving_options_.slow_reader_timeout = absl::Milliseconds(300);
  Start();
  v1::GenerateRequest request = TextRequest("x", 7000);
  request.mutable_sampling()->set_logprobs(32);
  grpc::ChannelArguments small_window;
  small_window.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  small_window.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 65536);
  auto stub = v1::InferenceService::NewStub(testing::Connect(server_->address(), small_window));
  grpc::ClientContext context;
  auto reader = stub->GenerateStream(&context, request);
  v1::GenerateStreamResponse response;
  ASSERT_TRUE(reader->Read(&response));
  int others = 0;
  for (; model_->loop().stats().open_requests > 0; ++others) {
    v1::GenerateResponse whole;
    ASSERT_TRUE(Generate(TextRequest("y", 5), &whole).ok());
    EXPECT_EQ(whole.text(), "bcdef");
  }
  EXPECT_GT(others, 0) << "somebody is served while it is held back";
  ExpectNothingHeld();
  // What was sent can still be read, and then why it ended.
  while (reader->Read(&response)) continue;
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), StatusCode::RESOURCE_EXHAUSTED) << status.error_message();
  EXPECT_THAT(status.error_message(), HasSubstr("was not read"));
}

// The request ends long before its reader is held back, and yet what is left of the answer is not kept for good.
TEST_F(InferenceServiceTest, APeerThatNeverReadsTheRestLosesTheCall) {
  engine_options_.info.max_context = 8000;
  engine_options_.info.cache_groups[0] = {.block_size = 64, .num_blocks = 300, .window = 0, .bytes_per_block = 64};
  serving_options_.stream_capacity = 8000;
  serving_options_.slow_reader_timeout = absl::Milliseconds(300);
  Start();
  v1::GenerateRequest request = TextRequest("x", 7000);
  request.mutable_sampling()->set_logprobs(32);
  grpc::ChannelArguments small_window;
  small_window.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  small_window.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 65536);
  auto stub = v1::InferenceService::NewStub(testing::Connect(server_->address(), small_window));
  grpc::ClientContext context;
  auto reader = stub->GenerateStream(&context, request);
  v1::GenerateStreamResponse response;
  ASSERT_TRUE(reader->Read(&response));
  ExpectNothingHeld();
  EXPECT_EQ(model_->loop().stats().finished[FinishReason::kLength], 1);
  absl::SleepFor(absl::Seconds(1));
  while (reader->Read(&response)) continue;
  EXPECT_FALSE(response.has_usage());
  EXPECT_EQ(reader->Finish().error_code(), StatusCode::CANCELLED);
}

TEST_F(InferenceServiceTest, ManyClientsAtOnce) {
  engine_options_.info.cache_groups[0].num_blocks = 512;
  Start();
  std::vector<std::thread> clients;
  clients.reserve(8);
  for (int c = 0; c < 8; ++c) {
    clients.emplace_back([&, c] {
      for (int i = 0; i < 20; ++i) {
        grpc::ClientContext context;
        auto reader = stub_->GenerateStream(&context, TextRequest(std::string(1 + c, 'x'), 40));
        std::string text;
        v1::GenerateStreamResponse response;
        while (reader->Read(&response)) {
          text += response.text_delta();
          if (i % 5 == 4 && text.size() > 10) context.TryCancel();
        }
        const grpc::Status status = reader->Finish();
        EXPECT_TRUE(status.ok() || (i % 5 == 4 && status.error_code() == StatusCode::CANCELLED))
            << status.error_message();
        if (status.ok()) {
          EXPECT_EQ(text.size(), 40u);
          EXPECT_EQ(text[0], 'a' + 1 + c);
        }
      }
    });
  }
  for (std::thread& client : clients) client.join();
  ExpectNothingHeld();
}

}  // namespace
}  // namespace moed
