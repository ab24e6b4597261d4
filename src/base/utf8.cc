#include "base/utf8.h"

#include <cstring>

namespace moed {
namespace {

// What may follow a lead byte: the second byte's range excludes overlong forms, surrogates and values over U+10FFFF
// (table 3-7 of the Unicode standard); later bytes are 80..BF.
struct LeadByte {
  uint8_t length;  // 0: begins no character
  uint8_t low, high;
};

LeadByte ClassifyLead(unsigned char lead) {
  if (lead < 0x80) return {1, 0, 0};
  if (lead < 0xC2) return {0, 0, 0};
  if (lead < 0xE0) return {2, 0x80, 0xBF};
  if (lead == 0xE0) return {3, 0xA0, 0xBF};
  if (lead == 0xED) return {3, 0x80, 0x9F};
  if (lead < 0xF0) return {3, 0x80, 0xBF};
  if (lead == 0xF0) return {4, 0x90, 0xBF};
  if (lead < 0xF4) return {4, 0x80, 0xBF};
  if (lead == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

}  // namespace

Utf8Step NextUtf8(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const LeadByte lead = ClassifyLead(byte(0));
  if (lead.length == 0) return {Utf8Step::kInvalid, 1, kReplacementCharacter};
  for (uint8_t i = 1; i < lead.length; ++i) {
    if (i == text.size()) return {Utf8Step::kIncomplete, i, kReplacementCharacter};
    const unsigned low = i == 1 ? lead.low : 0x80, high = i == 1 ? lead.high : 0xBF;
    if (byte(i) < low || byte(i) > high) return {Utf8Step::kInvalid, i, kReplacementCharacter};
  }
  size_t position = 0;
  return {Utf8Step::kCharacter, lead.length, DecodeUtf8(text, position)};
}

size_t FindInvalidUtf8(std::string_view text) {
  size_t position = 0;
  while (position < text.size()) {
    if (text.size() - position >= 8) {  // most text is mostly ASCII
      uint64_t word;
      std::memcpy(&word, text.data() + position, 8);
      if ((word & 0x8080808080808080u) == 0) {
        position += 8;
        continue;
      }
    }
    const Utf8Step step = NextUtf8(text.substr(position));
    if (step.kind != Utf8Step::kCharacter) return position;
    position += step.length;
  }
  return std::string_view::npos;
}

void AppendUtf8(char32_t codepoint, std::string* out) {
  const auto put = [&](uint32_t byte) { out->push_back(static_cast<char>(byte)); };
  const uint32_t c = codepoint;
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6);
    put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12);
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | c >> 18);
    put(0x80 | (c >> 12 & 0x3F));
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  }
}

}  // namespace moed
