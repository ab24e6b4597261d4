// Character classes as the tokenizers' file formats mean them.
#ifndef MOED_TOKENIZER_UNICODE_H_
#define MOED_TOKENIZER_UNICODE_H_

namespace moed {

// The property White_Space.
bool IsWhiteSpace(char32_t c);

// General categories Nd, Nl and No.
bool IsNumeric(char32_t c);

// General categories P*, and the punctuation and symbols of ASCII.
bool IsPunctuation(char32_t c);

// What \w means in UTS #18: Alphabetic, marks, decimal digits, connector punctuation, join controls.
bool IsWordCharacter(char32_t c);

}  // namespace moed

#endif  // MOED_TOKENIZER_UNICODE_H_
