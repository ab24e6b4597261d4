// Tokens that are found in a text as they stand, before the model sees it: "<|im_start|>", "<s>", runs of spaces.
#ifndef MOED_TOKENIZER_ADDED_TOKENS_H_
#define MOED_TOKENIZER_ADDED_TOKENS_H_

#include <absl/functional/function_ref.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/string_matcher.h"

namespace moed {

struct AddedToken {
  std::string content;
  int32_t id = 0;
  bool special = false;      // control of the model, not text: may be skipped in decoding
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // and behind it
  bool normalized = false;   // sought in the normalized text, in its normalized form
  bool single_word = false;  // only where no word character stands at either side
};

// The added tokens of one tokenizer. Immutable once built.
class AddedTokens {
 public:
  // `normalized_form` of a token's content, for those that ask for it.
  AddedTokens(std::vector<AddedToken> tokens, absl::FunctionRef<std::string(std::string_view)> normalized_form);
  AddedTokens() = default;

  // Cuts `text` at the tokens in it, in order: the text between them goes to `on_text` (never empty), the tokens'
  // ids to `on_token`. The first form finds those that are not `normalized`, the second the others. Special tokens
  // are taken as text unless `parse_special`.
  using OnText = absl::FunctionRef<void(std::string_view)>;
  using OnToken = absl::FunctionRef<void(int32_t)>;
  void CutRaw(std::string_view text, bool parse_special, OnText on_text, OnToken on_token) const;
  void CutNormalized(std::string_view text, bool parse_special, OnText on_text, OnToken on_token) const;

  const std::vector<AddedToken>& tokens() const { return tokens_; }

 private:
  void Cut(const StringMatcher& matcher, std::string_view text, bool parse_special, OnText on_text,
           OnToken on_token) const;

  std::vector<AddedToken> tokens_;
  StringMatcher raw_, normalized_;  // values are indices into tokens_
};

}  // namespace moed

#endif  // MOED_TOKENIZER_ADDED_TOKENS_H_
