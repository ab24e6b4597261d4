#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/logging.h"
#include "engine/sampler.h"
#include "moed/v1/inference.pb.h"
#include "service/convert.h"
#include "tests/fuzz/targets.h"
#include "tokenizer/chat_template.h"

namespace moed::fuzz {
namespace {

constexpr int32_t kVocab = 32;

void Sample(const SamplingParams& params) {
  SamplerSlot slot({.params = params, .seed = params.seed.value_or(1), .prompt_ids = {1, 2, 3}});
  for (int step = 0; step < 3; ++step) {
    std::vector<float> logits(kVocab);
    for (int32_t id = 0; id < kVocab; ++id) logits[id] = static_cast<float>((id * 7 + step) % 13) - 6.0f;
    const RowResult row = SampleRow({}, logits, &slot);
    // Who bars every token of the vocabulary gets none.
    const bool all_barred = params.min_tokens > 0 && std::ssize(params.stop_token_ids) >= kVocab;
    MOED_CHECK(row.status.ok() || all_barred, "{}", row.status.ToString());
    for (int32_t token : row.tokens) MOED_CHECK(token >= 0 && token < kVocab, "token {}", token);
  }
}

// Parameters that are accepted must be parameters that the sampler can work with.
void CheckSampling(const v1::SamplingParams& message) {
  const SamplingParams params = ToSamplingParams(message, SamplingParams());
  const absl::Status valid = Validate(params, kVocab);
  if (valid.ok()) return Sample(params);
  MOED_CHECK(absl::IsInvalidArgument(valid) && !Message(valid).empty());
}

void CheckConversation(const v1::Conversation& conversation) {
  static const auto chat_template = moed::ChatTemplate::Parse(
      "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ m.tool_calls | tojson if m.tool_calls }}{% endfor %}"
      "{{ tools | tojson if tools }}");
  const auto input = ToTemplateInput(conversation);
  if (!input.ok()) {
    MOED_CHECK(absl::IsInvalidArgument(input.status()), "{}", input.status().ToString());
    return;
  }
  const auto text = (*chat_template)->Render(*input);
  MOED_CHECK(text.ok() || absl::IsInvalidArgument(text.status()) || absl::IsResourceExhausted(text.status()), "{}",
             text.status().ToString());
}

}  // namespace

void Request(std::string_view input) {
  v1::GenerateRequest generate;
  if (generate.ParseFromArray(input.data(), static_cast<int>(input.size()))) CheckSampling(generate.sampling());
  v1::ChatRequest chat;
  if (!chat.ParseFromArray(input.data(), static_cast<int>(input.size()))) return;
  CheckSampling(chat.sampling());
  CheckConversation(chat.conversation());
}

}  // namespace moed::fuzz
