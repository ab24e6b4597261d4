// Characters that are younger than the Unicode tables of the regular expressions' engine.
#ifndef MOED_TOKENIZER_UNICODE_ADDITIONS_H_
#define MOED_TOKENIZER_UNICODE_ADDITIONS_H_

#include <string>
#include <string_view>

namespace moed {

// PCRE2 10.42 knows Unicode 14; the tokenizers package knows Unicode 16, by which an emoji of 2022 is a symbol. Returns
// `text` (valid UTF-8) if it has no such character, else a copy of it, held by `storage`, in which each is replaced by
// an older one of the same general category and as many bytes (and of the script Han, if it is), so that a pattern
// matches there at the same places as in `text`.
std::string_view WithStandIns(std::string_view text, std::string* storage);

}  // namespace moed

#endif  // MOED_TOKENIZER_UNICODE_ADDITIONS_H_
