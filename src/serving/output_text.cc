#include "serving/output_text.h"

namespace moed {

OutputText::OutputText(const Tokenizer& tokenizer, const SamplingParams& params)
    : detokenizer_(tokenizer, {.skip_special_tokens = params.skip_special_tokens}),
      stops_(params.stop, params.include_stop_in_output),
      tokens_before_stops_(params.min_tokens),
      include_stop_(params.include_stop_in_output) {}

std::string OutputText::Append(int32_t token) {
  std::string text = detokenizer_.Append(token);
  if (tokens_before_stops_ > 1) {
    --tokens_before_stops_;
    return text;
  }
  return stops_.Append(text);
}

std::string OutputText::AppendStopToken(int32_t token) { return include_stop_ ? Append(token) : std::string(); }

std::string OutputText::Flush() {
  if (stopped()) return {};
  std::string text = stops_.Append(detokenizer_.Flush());
  return text + stops_.Flush();
}

}  // namespace moed
