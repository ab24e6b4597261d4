// The text of one sequence, token by token.
#ifndef MOED_SERVING_OUTPUT_TEXT_H_
#define MOED_SERVING_OUTPUT_TEXT_H_

#include <cstdint>
#include <string>

#include "request/sampling_params.h"
#include "serving/stop_matcher.h"
#include "tokenizer/detokenizer.h"

namespace moed {

class Tokenizer;

// Detokenises, and cuts the text at a stop string or stop token as the request asks. Not thread-safe.
class OutputText {
 public:
  // `tokenizer` outlives the object.
  OutputText(const Tokenizer& tokenizer, const SamplingParams& params);

  // The text that can be shown after one more token; once stopped(), empty.
  std::string Append(int32_t token);
  // The text of the stop token that ended the sequence: empty unless the request wants to see it.
  std::string AppendStopToken(int32_t token);
  // The sequence has ended: what was held back.
  std::string Flush();

  // A stop string was found.
  bool stopped() const { return stops_.matched(); }

 private:
  IncrementalDetokenizer detokenizer_;
  StopMatcher stops_;
  int32_t tokens_before_stops_;  // min_tokens that are still to come; until then no stop string may end
  bool include_stop_;
};

}  // namespace moed

#endif  // MOED_SERVING_OUTPUT_TEXT_H_
