// The byte-level alphabet of GPT-2: each byte is written as one printable character, so that a vocabulary of bytes can
// be stored as JSON strings. Bytes that are printable in Latin-1 stand for themselves; the other 68 follow from U+0100.
#ifndef MOED_TOKENIZER_BYTE_LEVEL_H_
#define MOED_TOKENIZER_BYTE_LEVEL_H_

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace moed {

// The character that stands for each byte.
const std::array<char32_t, 256>& ByteLevelAlphabet();

// The byte for which `c` stands, or -1.
int ByteLevelByte(char32_t c);

// Writes `bytes` in the alphabet, as UTF-8.
void AppendByteLevel(std::string_view bytes, std::string* out);

// The way back: appends the bytes for which `text` (valid UTF-8) stands. False, and nothing appended, when a character
// is not of the alphabet.
bool AppendByteLevelBytes(std::string_view text, std::string* out);

}  // namespace moed

#endif  // MOED_TOKENIZER_BYTE_LEVEL_H_
