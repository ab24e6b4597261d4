// UTF-8 by hand: tokenizers walk it byte by byte, and must agree to the byte with other implementations on what is
// invalid and on how much of it one U+FFFD replaces.
#ifndef MOED_BASE_UTF8_H_
#define MOED_BASE_UTF8_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace moed {

inline constexpr char32_t kReplacementCharacter = 0xFFFD;
inline constexpr std::string_view kReplacementUtf8 = "\xEF\xBF\xBD";

// What stands at the beginning of a byte string.
struct Utf8Step {
  enum Kind : uint8_t {
    kCharacter,   // a whole character of `length` bytes
    kIncomplete,  // all bytes given (`length` of them) begin a character that goes on beyond the end
    kInvalid,     // `length` bytes that begin no character: the maximal subpart of Unicode 3.9, at least one
  };
  Kind kind;
  uint8_t length;
  char32_t codepoint;  // of a whole character, else U+FFFD
};

// `text` is not empty.
Utf8Step NextUtf8(std::string_view text);

// The byte offset of the first byte that is not part of a whole character; npos when `text` is valid UTF-8.
size_t FindInvalidUtf8(std::string_view text);

// Bytes of the character that starts with `lead`, in text known to be valid.
inline int Utf8Length(char lead) {
  const auto byte = static_cast<unsigned char>(lead);
  return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

// The character at `position` of text known to be valid; moves `position` behind it.
inline char32_t DecodeUtf8(std::string_view text, size_t& position) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(text.data()) + position;
  const int length = Utf8Length(text[position]);
  position += length;
  switch (length) {
    case 1:
      return bytes[0];
    case 2:
      return (bytes[0] & 0x1Fu) << 6 | (bytes[1] & 0x3Fu);
    case 3:
      return (bytes[0] & 0x0Fu) << 12 | (bytes[1] & 0x3Fu) << 6 | (bytes[2] & 0x3Fu);
    default:
      return (bytes[0] & 0x07u) << 18 | (bytes[1] & 0x3Fu) << 12 | (bytes[2] & 0x3Fu) << 6 | (bytes[3] & 0x3Fu);
  }
}

// The start of the character that ends before `position` > 0, in text known to be valid.
inline size_t PreviousUtf8(std::string_view text, size_t position) {
  do --position;
  while (position > 0 && (static_cast<unsigned char>(text[position]) & 0xC0) == 0x80);
  return position;
}

void AppendUtf8(char32_t codepoint, std::string* out);

}  // namespace moed

#endif  // MOED_BASE_UTF8_H_
