#include "tokenizer/detokenizer.h"

#include "tokenizer/decoder.h"

namespace moed {

IncrementalDetokenizer::IncrementalDetokenizer(const Tokenizer& tokenizer, const DecodeOptions& options)
    : tokenizer_(&tokenizer), options_(options), state_(std::make_unique<DecoderState>()) {}

IncrementalDetokenizer IncrementalDetokenizer::Continuing(const Tokenizer& tokenizer, const DecodeOptions& options) {
  IncrementalDetokenizer detokenizer(tokenizer, options);
  detokenizer.state_->first_token = false;
  detokenizer.state_->wrote_text = true;
  detokenizer.state_->left_done = true;
  return detokenizer;
}

IncrementalDetokenizer::~IncrementalDetokenizer() = default;
IncrementalDetokenizer::IncrementalDetokenizer(IncrementalDetokenizer&&) noexcept = default;
IncrementalDetokenizer& IncrementalDetokenizer::operator=(IncrementalDetokenizer&&) noexcept = default;

std::string IncrementalDetokenizer::Append(int32_t id) {
  std::string text;
  if (options_.skip_special_tokens && tokenizer_->IsSpecial(id)) return text;
  tokenizer_->decoder().Push(id, state_.get(), &text);
  return text;
}

std::string IncrementalDetokenizer::Flush() {
  std::string text;
  tokenizer_->decoder().Finish(state_.get(), &text);
  *state_ = DecoderState();
  return text;
}

}  // namespace moed
