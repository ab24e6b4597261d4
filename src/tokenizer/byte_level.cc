#include "tokenizer/byte_level.h"

#include "base/utf8.h"

namespace moed {
namespace {

constexpr char32_t kFirstStandIn = 0x100;

bool IsPrintableLatin1(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

struct Alphabet {
  std::array<char32_t, 256> characters;
  std::array<int16_t, kFirstStandIn + 68> bytes;  // of each character, or -1
};

Alphabet MakeAlphabet() {
  Alphabet alphabet;
  alphabet.bytes.fill(-1);
  char32_t stand_in = kFirstStandIn;
  for (int byte = 0; byte < 256; ++byte) {
    const char32_t c = IsPrintableLatin1(byte) ? static_cast<char32_t>(byte) : stand_in++;
    alphabet.characters[byte] = c;
    alphabet.bytes[c] = static_cast<int16_t>(byte);
  }
  return alphabet;
}

const Alphabet& GetAlphabet() {
  static const Alphabet alphabet = MakeAlphabet();
  return alphabet;
}

}  // namespace

const std::array<char32_t, 256>& ByteLevelAlphabet() { return GetAlphabet().characters; }

int ByteLevelByte(char32_t c) {
  const Alphabet& alphabet = GetAlphabet();
  return c < alphabet.bytes.size() ? alphabet.bytes[c] : -1;
}

void AppendByteLevel(std::string_view bytes, std::string* out) {
  const auto& alphabet = ByteLevelAlphabet();
  for (const char byte : bytes) AppendUtf8(alphabet[static_cast<unsigned char>(byte)], out);
}

bool AppendByteLevelBytes(std::string_view text, std::string* out) {
  const size_t before = out->size();
  for (size_t position = 0; position < text.size();) {
    const int byte = ByteLevelByte(DecodeUtf8(text, position));
    if (byte < 0) {
      out->resize(before);
      return false;
    }
    out->push_back(static_cast<char>(byte));
  }
  return true;
}

}  // namespace moed
