#include "tokenizer/added_tokens.h"

#include <algorithm>
#include <utility>

#include "base/utf8.h"
#include "tokenizer/unicode.h"

namespace moed {
namespace {

bool EndsInWordCharacter(std::string_view text) {
  if (text.empty()) return false;
  size_t last = PreviousUtf8(text, text.size());
  return IsWordCharacter(DecodeUtf8(text, last));
}

bool BeginsWithWordCharacter(std::string_view text) {
  size_t position = 0;
  return !text.empty() && IsWordCharacter(DecodeUtf8(text, position));
}

// Where the white space that ends `text` begins.
size_t TrailingSpace(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    const size_t last = PreviousUtf8(text, end);
    size_t position = last;
    if (!IsWhiteSpace(DecodeUtf8(text, position))) break;
    end = last;
  }
  return end;
}

// How many bytes of white space `text` begins with.
size_t LeadingSpace(std::string_view text) {
  size_t end = 0;
  while (end < text.size()) {
    size_t position = end;
    if (!IsWhiteSpace(DecodeUtf8(text, position))) break;
    end = position;
  }
  return end;
}

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens,
                         absl::FunctionRef<std::string(std::string_view)> normalized_form)
    : tokens_(std::move(tokens)) {
  for (size_t i = 0; i < tokens_.size(); ++i) {
    const AddedToken& token = tokens_[i];
    const auto index = static_cast<int32_t>(i);
    if (token.normalized) {
      normalized_.Add(normalized_form(token.content), index);
    } else {
      raw_.Add(token.content, index);
    }
  }
}

void AddedTokens::CutRaw(std::string_view text, bool parse_special, OnText on_text, OnToken on_token) const {
  Cut(raw_, text, parse_special, on_text, on_token);
}

void AddedTokens::CutNormalized(std::string_view text, bool parse_special, OnText on_text, OnToken on_token) const {
  Cut(normalized_, text, parse_special, on_text, on_token);
}

void AddedTokens::Cut(const StringMatcher& matcher, std::string_view text, bool parse_special, OnText on_text,
                      OnToken on_token) const {
  size_t done = 0;  // everything before has been given out
  for (auto match = matcher.Find(text, 0); match.has_value(); match = matcher.Find(text, match->end)) {
    const AddedToken& token = tokens_[match->value];
    if (token.special && !parse_special) continue;
    if (token.single_word &&
        (EndsInWordCharacter(text.substr(0, match->begin)) || BeginsWithWordCharacter(text.substr(match->end)))) {
      continue;
    }
    size_t begin = match->begin, end = match->end;
    if (token.lstrip) begin = std::max(TrailingSpace(text.substr(0, begin)), done);
    if (token.rstrip) end += LeadingSpace(text.substr(end));
    if (done < begin) on_text(text.substr(done, begin - done));
    // White space that one token took can be another token, and then counts again, unless that one is left with none
    // of it: so it is in the package that defines the format.
    if (begin < end) on_token(token.id);
    done = end;
  }
  if (done < text.size()) on_text(text.substr(done));
}

}  // namespace moed
