// Walking the matches of a pattern through a text, as the pre-tokenizers and normalizers do.
#ifndef MOED_TOKENIZER_MATCHES_H_
#define MOED_TOKENIZER_MATCHES_H_

#include <absl/status/status.h>

#include <string>
#include <string_view>

#include "base/status.h"
#include "base/utf8.h"
#include "tokenizer/regex.h"
#include "tokenizer/unicode_additions.h"

namespace moed {

using CharacterClass = bool (*)(char32_t);

// Each calls on_match(begin, end) -> absl::Status for the matches in `text` (valid UTF-8), in order and without
// overlap, and returns the first error.

template <typename OnMatch>
absl::Status ForEachMatch(const Regex& regex, std::string_view text, RegexScratch& scratch, const OnMatch& on_match) {
  std::string storage;
  const std::string_view subject = WithStandIns(text, &storage);
  size_t start = 0;
  size_t last_end = std::string_view::npos;
  while (start <= text.size()) {
    Regex::Match match;
    const Regex::Result result = regex.Find(subject, start, scratch, &match);
    if (result == Regex::Result::kNoMatch) break;
    if (result == Regex::Result::kGaveUp) {
      return ResourceExhausted("the regular expression '{}' gave up on a text of {} bytes", regex.pattern(),
                               text.size());
    }
    if (match.begin == match.end && match.end == last_end) {  // an empty match right behind the last one
      if (start == text.size()) break;
      start += Utf8Length(text[start]);
      continue;
    }
    MOED_RETURN_IF_ERROR(on_match(match.begin, match.end));
    start = last_end = match.end;
  }
  return absl::OkStatus();
}

// `literal` is not empty.
template <typename OnMatch>
absl::Status ForEachMatch(std::string_view literal, std::string_view text, RegexScratch&, const OnMatch& on_match) {
  for (size_t begin = text.find(literal); begin != std::string_view::npos;
       begin = text.find(literal, begin + literal.size())) {
    MOED_RETURN_IF_ERROR(on_match(begin, begin + literal.size()));
  }
  return absl::OkStatus();
}

template <typename OnMatch>
absl::Status ForEachMatch(CharacterClass matches, std::string_view text, RegexScratch&, const OnMatch& on_match) {
  for (size_t position = 0; position < text.size();) {
    const size_t begin = position;
    if (matches(DecodeUtf8(text, position))) MOED_RETURN_IF_ERROR(on_match(begin, position));
  }
  return absl::OkStatus();
}

}  // namespace moed

#endif  // MOED_TOKENIZER_MATCHES_H_
