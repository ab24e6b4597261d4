// The normalization forms of Unicode (UAX #15) as of Unicode 9, by which the tokenizers package normalizes, in time
// linear in the text but for sorting runs of marks.
#ifndef MOED_TOKENIZER_UNICODE_NORMALIZATION_H_
#define MOED_TOKENIZER_UNICODE_NORMALIZATION_H_

#include <string>
#include <string_view>

namespace moed {

enum class NormalizationForm { kNfc, kNfd, kNfkc, kNfkd };

// Writes the normal form of `text` (valid UTF-8) to `out` and returns true; or returns false, and leaves `out`
// alone, when the text was seen to be in that form already, as most is.
bool NormalizeUnicode(std::string_view text, NormalizationForm form, std::string* out);

}  // namespace moed

#endif  // MOED_TOKENIZER_UNICODE_NORMALIZATION_H_
