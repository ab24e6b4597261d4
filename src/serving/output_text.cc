#include "serving/output_text.h"

namespace moed {

OutputText::OutputText(const Tokenizer& tokenizer, const SamplingParams& params)
    : detokenizer_(IncrementalDetokenizer::Continuing(tokenizer, {.skip_special_tokens = params.skip_special_tokens})),
      stops_(params.stop, params.include_stop_in_output),
      tokens_before_stops_(params.min_tokens),
      include_stop_(params.include_stop_in_output) {}

std::string OutputText::Append(int32_t token) {
  const bool may_stop = tokens_before_stops_ <= 1;
  if (!may_stop) --tokens_before_stops_;
  return stops_.Append(detokenizer_.Append(token), may_stop);
}

std::string OutputText::AppendStopToken(int32_t token) { return include_stop_ ? Append(token) : std::string(); }

std::string OutputText::Flush() {
  if (stopped()) return {};
  std::string text = stops_.Append(detokenizer_.Flush());
  return text + stops_.Flush();
}

}  // namespace moed
