#include "service/convert.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "serving/request_log.h"
#include "tokenizer/tokenizer.h"

namespace moed {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kMaxJsonDepth = 64;
// Of one object. An ordered_json compares a new key with all that are there, so large objects take quadratic time.
constexpr int kMaxJsonKeys = 1024;
// Of one conversation. A value takes many times its text in memory.
constexpr int kMaxJsonValues = 1 << 18;

// The JSON in text fields of one conversation.
class JsonReader {
 public:
  absl::StatusOr<Json> ParseObject(const std::string& field, const std::string& text) {
    absl::Status limit;
    std::array<int, kMaxJsonDepth + 2> keys = {};  // of the open object at each depth
    const auto check = [&](int depth, Json::parse_event_t event, Json&) {
      if (limit.ok()) limit = Count(field, depth, event, keys.data());
      return limit.ok();
    };
    Json object = Json::parse(text, check, /*allow_exceptions=*/false);
    MOED_RETURN_IF_ERROR(limit);
    if (object.is_discarded()) return InvalidArgument("{} is not JSON; it must be a JSON object", field);
    if (!object.is_object()) return InvalidArgument("{} is a JSON {}; it must be an object", field, object.type_name());
    return object;
  }

 private:
  absl::Status Count(const std::string& field, int depth, Json::parse_event_t event, int* keys) {
    using Event = Json::parse_event_t;
    if (depth > kMaxJsonDepth) return InvalidArgument("{} is nested more than {} deep", field, kMaxJsonDepth);
    if (event == Event::object_end || event == Event::array_end) return absl::OkStatus();
    if (event == Event::object_start) keys[depth + 1] = 0;
    if (event == Event::key) {
      if (++keys[depth] <= kMaxJsonKeys) return absl::OkStatus();
      return InvalidArgument("{} has an object of more than {} keys", field, kMaxJsonKeys);
    }
    if (++values_ <= kMaxJsonValues) return absl::OkStatus();
    return InvalidArgument("{} makes it more than {} JSON values in one conversation", field, kMaxJsonValues);
  }

  int values_ = 0;
};

absl::StatusOr<Json> ToJson(const v1::ChatMessage& message, int index, JsonReader* reader) {
  if (message.role().empty()) {
    return InvalidArgument("messages[{}].role is empty; it must be system, user, assistant or tool", index);
  }
  Json json = {{"role", message.role()}, {"content", message.content()}};
  if (!message.reasoning_content().empty()) json["reasoning_content"] = message.reasoning_content();
  if (!message.name().empty()) json["name"] = message.name();
  if (!message.tool_call_id().empty()) json["tool_call_id"] = message.tool_call_id();
  for (int i = 0; i < message.tool_calls_size(); ++i) {
    const v1::ToolCall& call = message.tool_calls(i);
    Json arguments = Json::object();
    if (!call.arguments().empty()) {
      const std::string field = fmt::format("messages[{}].tool_calls[{}].arguments", index, i);
      MOED_ASSIGN_OR_RETURN(arguments, reader->ParseObject(field, call.arguments()));
    }
    json["tool_calls"].push_back({{"id", call.id()},
                                  {"type", "function"},
                                  {"function", {{"name", call.name()}, {"arguments", std::move(arguments)}}}});
  }
  return json;
}

void FillLogprob(const TokenLogprob& logprob, const Tokenizer& tokenizer, v1::TokenLogprob* message) {
  message->set_token_id(logprob.id);
  message->set_token(std::string(tokenizer.TokenBytes(logprob.id)));
  message->set_logprob(logprob.logprob);
}

}  // namespace

SamplingParams ToSamplingParams(const v1::SamplingParams& message, const SamplingParams& defaults) {
  SamplingParams params = defaults;
  if (message.has_temperature()) params.temperature = message.temperature();
  if (message.has_top_k()) params.top_k = message.top_k();
  if (message.has_top_p()) params.top_p = message.top_p();
  if (message.has_min_p()) params.min_p = message.min_p();
  if (message.has_repetition_penalty()) params.repetition_penalty = message.repetition_penalty();
  if (message.has_presence_penalty()) params.presence_penalty = message.presence_penalty();
  if (message.has_frequency_penalty()) params.frequency_penalty = message.frequency_penalty();
  params.logit_bias.assign(message.logit_bias().begin(), message.logit_bias().end());
  std::sort(params.logit_bias.begin(), params.logit_bias.end());  // a map has no order of its own
  if (message.has_seed()) params.seed = message.seed();
  if (message.has_max_tokens()) params.max_tokens = message.max_tokens();
  if (message.has_min_tokens()) params.min_tokens = message.min_tokens();
  params.stop.assign(message.stop().begin(), message.stop().end());
  params.stop_token_ids.assign(message.stop_token_ids().begin(), message.stop_token_ids().end());
  if (message.has_include_stop_in_output()) params.include_stop_in_output = message.include_stop_in_output();
  if (message.has_ignore_eos()) params.ignore_eos = message.ignore_eos();
  if (message.has_skip_special_tokens()) params.skip_special_tokens = message.skip_special_tokens();
  if (message.has_logprobs()) params.logprobs = message.logprobs();
  return params;
}

absl::StatusOr<Json> ToTemplateInput(const v1::Conversation& conversation) {
  if (conversation.messages().empty()) return InvalidArgument("the conversation has no messages");
  JsonReader reader;
  // Options of the template first: they do not replace what the API has fields for.
  Json input = Json::object();
  if (!conversation.template_kwargs().empty()) {
    MOED_ASSIGN_OR_RETURN(input, reader.ParseObject("template_kwargs", conversation.template_kwargs()));
  }
  input["messages"] = Json::array();
  for (int i = 0; i < conversation.messages_size(); ++i) {
    MOED_ASSIGN_OR_RETURN(Json message, ToJson(conversation.messages(i), i, &reader));
    input["messages"].push_back(std::move(message));
  }
  for (int i = 0; i < conversation.tools_size(); ++i) {
    MOED_ASSIGN_OR_RETURN(Json tool, reader.ParseObject(fmt::format("tools[{}]", i), conversation.tools(i)));
    if (i == 0) input["tools"] = Json::array();
    input["tools"].push_back(std::move(tool));
  }
  input["add_generation_prompt"] =
      conversation.has_add_generation_prompt() ? conversation.add_generation_prompt() : true;
  return input;
}

v1::FinishReason ToProto(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return v1::FINISH_REASON_STOP;
    case FinishReason::kLength:
      return v1::FINISH_REASON_LENGTH;
    default:
      return v1::FINISH_REASON_UNSPECIFIED;
  }
}

v1::Usage ToUsage(const SequenceStats& stats) {
  v1::Usage usage;
  usage.set_prompt_tokens(stats.prompt_tokens);
  usage.set_completion_tokens(stats.completion_tokens);
  usage.set_cached_tokens(stats.cached_tokens);
  return usage;
}

v1::Timings ToTimings(const SequenceStats& stats) {
  const RequestTimings times = TimingsOf(stats);
  v1::Timings timings;
  timings.set_queue_ms(times.queue_ms);
  timings.set_time_to_first_token_ms(times.time_to_first_token_ms);
  timings.set_total_ms(times.total_ms);
  return timings;
}

void FillLogprobs(const TokenLogprobs& logprobs, const Tokenizer& tokenizer, v1::TokenLogprobs* message) {
  FillLogprob(logprobs.chosen, tokenizer, message->mutable_chosen());
  for (const TokenLogprob& top : logprobs.top) FillLogprob(top, tokenizer, message->add_top());
}

}  // namespace moed
