#include "service/inference_service.h"

#include <grpcpp/security/auth_context.h>
#include <grpcpp/server_context.h>

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "moed/v1/inference.grpc.pb.h"
#include "moed/v1/inference.pb.h"
#include "service/authenticator.h"
#include "service/reactors.h"
#include "serving/model_registry.h"
#include "serving/request_log.h"
#include "tokenizer/chat_template.h"
#include "tokenizer/tokenizer.h"

namespace moed {
namespace {

using grpc::ByteBuffer;
using grpc::CallbackServerContext;

// Every method takes bytes; wire.h says why.
template <typename Base>
using RawGenerate = v1::InferenceService::WithRawCallbackMethod_Generate<
    v1::InferenceService::WithRawCallbackMethod_GenerateStream<Base>>;
template <typename Base>
using RawChat =
    v1::InferenceService::WithRawCallbackMethod_Chat<v1::InferenceService::WithRawCallbackMethod_ChatStream<Base>>;
template <typename Base>
using RawTokenize =
    v1::InferenceService::WithRawCallbackMethod_Tokenize<v1::InferenceService::WithRawCallbackMethod_Detokenize<Base>>;
using RawService = RawGenerate<
    RawChat<RawTokenize<v1::InferenceService::WithRawCallbackMethod_ListModels<v1::InferenceService::Service>>>>;

absl::StatusOr<std::string> Authenticate(const Authenticator& authenticator, const CallbackServerContext& context) {
  const std::string peer = context.peer();
  CallerEvidence evidence{.peer = peer, .authorization = {}, .tls_identities = {}};
  const auto authorization = context.client_metadata().find("authorization");
  if (authorization != context.client_metadata().end()) {
    evidence.authorization = std::string_view(authorization->second.data(), authorization->second.size());
  }
  const auto tls = context.auth_context();
  if (tls != nullptr && tls->IsPeerAuthenticated()) {
    for (const grpc::string_ref& name : tls->GetPeerIdentity()) {
      evidence.tls_identities.emplace_back(name.data(), name.size());
    }
  }
  return authenticator.Authenticate(evidence);
}

absl::Time DeadlineOf(const CallbackServerContext& context) {
  const auto deadline = context.deadline();
  return deadline == std::chrono::system_clock::time_point::max() ? absl::InfiniteFuture() : absl::FromChrono(deadline);
}

absl::StatusOr<std::string> RenderConversation(const ServedModel& model, const v1::Conversation& conversation) {
  if (model.chat_template() == nullptr) {
    return Unimplemented("model \"{}\" has no chat template; use Generate with a text of your own making",
                         model.name());
  }
  MOED_ASSIGN_OR_RETURN(const nlohmann::ordered_json input, ToTemplateInput(conversation));
  absl::StatusOr<std::string> text = model.chat_template()->Render(input);
  // The template's limits are always the same: a client shall not come back later with the same conversation.
  if (absl::IsResourceExhausted(text.status())) return InvalidArgument("{}", Message(text.status()));
  return text;
}

absl::StatusOr<std::vector<int32_t>> PromptOf(const ServedModel& model, const v1::GenerateRequest& request) {
  switch (request.prompt_case()) {
    case v1::GenerateRequest::kText:
      return model.EncodePrompt(request.text(), request.has_add_special_tokens() ? request.add_special_tokens() : true);
    case v1::GenerateRequest::kTokenIds:
      return std::vector<int32_t>(request.token_ids().ids().begin(), request.token_ids().ids().end());
    case v1::GenerateRequest::PROMPT_NOT_SET:
      break;
  }
  return InvalidArgument("the request has no prompt; set text or token_ids");
}

absl::StatusOr<std::vector<int32_t>> PromptOf(const ServedModel& model, const v1::ChatRequest& request) {
  MOED_ASSIGN_OR_RETURN(const std::string text, RenderConversation(model, request.conversation()));
  return model.EncodePrompt(text, /*add_special_tokens=*/false);  // the template has written them
}

v1::Model::State ToProto(ModelState state) {
  switch (state) {
    case ModelState::kLoading:
      return v1::Model::LOADING;
    case ModelState::kReady:
      return v1::Model::READY;
    case ModelState::kDraining:
      return v1::Model::DRAINING;
  }
  return v1::Model::STATE_UNSPECIFIED;
}

// Ends a stream before it began.
class FailedStream final : public grpc::ServerWriteReactor<ByteBuffer> {
 public:
  explicit FailedStream(const absl::Status& status) { Finish(ToGrpcStatus(status)); }
  void OnDone() override { delete this; }
};

class InferenceServiceImpl final : public RawService {
 public:
  InferenceServiceImpl(const ModelRegistry& models, const Authenticator& authenticator, bool log_refusals)
      : models_(models), authenticator_(authenticator), log_refusals_(log_refusals) {}

  grpc::ServerUnaryReactor* Generate(CallbackServerContext* context, const ByteBuffer* bytes,
                                     ByteBuffer* response) override {
    return Collect<v1::GenerateRequest, v1::GenerateResponse>("Generate", context, *bytes, response);
  }
  grpc::ServerUnaryReactor* Chat(CallbackServerContext* context, const ByteBuffer* bytes,
                                 ByteBuffer* response) override {
    return Collect<v1::ChatRequest, v1::ChatResponse>("Chat", context, *bytes, response);
  }
  grpc::ServerWriteReactor<ByteBuffer>* GenerateStream(CallbackServerContext* context,
                                                       const ByteBuffer* bytes) override {
    return Stream<v1::GenerateRequest, v1::GenerateStreamResponse>("GenerateStream", context, *bytes);
  }
  grpc::ServerWriteReactor<ByteBuffer>* ChatStream(CallbackServerContext* context, const ByteBuffer* bytes) override {
    return Stream<v1::ChatRequest, v1::ChatStreamResponse>("ChatStream", context, *bytes);
  }

  grpc::ServerUnaryReactor* Tokenize(CallbackServerContext* context, const ByteBuffer* bytes,
                                     ByteBuffer* response) override {
    return Answer<v1::TokenizeRequest>(context, *bytes, response, &InferenceServiceImpl::TokenizeNow);
  }
  grpc::ServerUnaryReactor* Detokenize(CallbackServerContext* context, const ByteBuffer* bytes,
                                       ByteBuffer* response) override {
    return Answer<v1::DetokenizeRequest>(context, *bytes, response, &InferenceServiceImpl::DetokenizeNow);
  }
  grpc::ServerUnaryReactor* ListModels(CallbackServerContext* context, const ByteBuffer* bytes,
                                       ByteBuffer* response) override {
    return Answer<v1::ListModelsRequest>(context, *bytes, response, &InferenceServiceImpl::ListModelsNow);
  }

 private:
  // Hands a request to the serving loop.
  template <typename Request>
  absl::StatusOr<StartedRequest> Start(std::string_view method, const CallbackServerContext& context,
                                       const ByteBuffer& bytes) const {
    const absl::StatusOr<std::string> tenant = Authenticate(authenticator_, context);
    absl::StatusOr<StartedRequest> started =
        tenant.ok() ? Submit<Request>(*tenant, context, bytes) : absl::StatusOr<StartedRequest>(tenant.status());
    if (!started.ok() && log_refusals_) {
      LogRefusal(method, tenant.ok() ? *tenant : "", context.peer(), started.status());
    }
    return started;
  }

  template <typename Request>
  absl::StatusOr<StartedRequest> Submit(const std::string& tenant, const CallbackServerContext& context,
                                        const ByteBuffer& bytes) const {
    GenerateRequest generate;
    generate.tenant = tenant;
    MOED_ASSIGN_OR_RETURN(const Request request, ParseRequest<Request>(bytes));
    MOED_ASSIGN_OR_RETURN(std::shared_ptr<const ServedModel> model, models_.Find(request.model()));
    generate.params = ToSamplingParams(request.sampling(), model->sampling_defaults());
    generate.deadline = DeadlineOf(context);
    // Parameters first: they are cheap to check, a long prompt is not cheap to cut into tokens.
    MOED_RETURN_IF_ERROR(Validate(generate.params, model->loop().info().vocab_size));
    MOED_ASSIGN_OR_RETURN(generate.prompt_ids, PromptOf(*model, request));
    MOED_ASSIGN_OR_RETURN(std::shared_ptr<ResponseStream> stream, model->loop().Submit(std::move(generate)));
    return StartedRequest{std::move(model), std::move(stream)};
  }

  template <typename Request, typename Response>
  grpc::ServerUnaryReactor* Collect(std::string_view method, CallbackServerContext* context, const ByteBuffer& bytes,
                                    ByteBuffer* response) {
    absl::StatusOr<StartedRequest> request = Start<Request>(method, *context, bytes);
    if (request.ok()) return new UnaryReactor<Response>(*std::move(request), response);
    grpc::ServerUnaryReactor* failed = context->DefaultReactor();
    failed->Finish(ToGrpcStatus(request.status()));
    return failed;
  }

  template <typename Request, typename Response>
  grpc::ServerWriteReactor<ByteBuffer>* Stream(std::string_view method, CallbackServerContext* context,
                                               const ByteBuffer& bytes) {
    absl::StatusOr<StartedRequest> request = Start<Request>(method, *context, bytes);
    if (request.ok()) return new StreamReactor<Response>(*std::move(request), context);
    return new FailedStream(request.status());
  }

  // For the methods that need no engine.
  template <typename Request, typename Response>
  grpc::ServerUnaryReactor* Answer(CallbackServerContext* context, const ByteBuffer& bytes, ByteBuffer* response,
                                   absl::StatusOr<Response> (InferenceServiceImpl::*method)(const Request&) const) {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    const auto answer = [&]() -> absl::StatusOr<Response> {
      MOED_RETURN_IF_ERROR(Authenticate(authenticator_, *context).status());
      MOED_ASSIGN_OR_RETURN(const Request request, ParseRequest<Request>(bytes));
      return (this->*method)(request);
    }();
    if (answer.ok()) *response = SerializeResponse(*answer);
    reactor->Finish(ToGrpcStatus(answer.status()));
    return reactor;
  }

  absl::StatusOr<v1::TokenizeResponse> TokenizeNow(const v1::TokenizeRequest& request) const {
    MOED_ASSIGN_OR_RETURN(const auto model, models_.Find(request.model()));
    v1::TokenizeResponse response;
    EncodeOptions options;
    std::string text;
    switch (request.input_case()) {
      case v1::TokenizeRequest::kText:
        text = request.text();
        if (request.has_add_special_tokens()) options.add_special_tokens = request.add_special_tokens();
        break;
      case v1::TokenizeRequest::kConversation: {
        MOED_ASSIGN_OR_RETURN(text, RenderConversation(*model, request.conversation()));
        options.add_special_tokens = false;
        response.set_rendered(text);
        break;
      }
      case v1::TokenizeRequest::INPUT_NOT_SET:
        return InvalidArgument("the request has no input; set text or conversation");
    }
    MOED_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, model->tokenizer().Encode(text, options));
    response.mutable_token_ids()->Add(ids.begin(), ids.end());
    return response;
  }

  absl::StatusOr<v1::DetokenizeResponse> DetokenizeNow(const v1::DetokenizeRequest& request) const {
    MOED_ASSIGN_OR_RETURN(const auto model, models_.Find(request.model()));
    MOED_ASSIGN_OR_RETURN(
        std::string text,
        model->tokenizer().Decode(absl::MakeConstSpan(request.token_ids().data(), request.token_ids().size()),
                                  {.skip_special_tokens = request.skip_special_tokens()}));
    v1::DetokenizeResponse response;
    response.set_text(std::move(text));
    return response;
  }

  absl::StatusOr<v1::ListModelsResponse> ListModelsNow(const v1::ListModelsRequest&) const {
    v1::ListModelsResponse response;
    for (const ModelRegistry::Entry& entry : models_.List()) {
      v1::Model* model = response.add_models();
      model->set_name(entry.name);
      model->set_state(ToProto(entry.state));
      if (entry.model == nullptr) continue;
      model->set_max_context(entry.model->loop().info().max_context);
      model->set_vocab_size(entry.model->loop().info().vocab_size);
      model->set_has_chat_template(entry.model->chat_template() != nullptr);
    }
    return response;
  }

  const ModelRegistry& models_;
  const Authenticator& authenticator_;
  const bool log_refusals_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeInferenceService(const ModelRegistry& models, const Authenticator& authenticator,
                                                    bool log_refusals) {
  return std::make_unique<InferenceServiceImpl>(models, authenticator, log_refusals);
}

}  // namespace moed
