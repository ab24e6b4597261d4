#include "tokenizer/unicode_additions.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <iterator>

#include "base/utf8.h"

namespace moed {
namespace {

// The stand-ins, named after their categories: in the Basic Multilingual Plane they have three bytes, beyond it four.
constexpr char32_t kHan = 0x20000;
constexpr char32_t kLu = 0x10400;
constexpr char32_t kLl = 0x10428;
constexpr char32_t kLm = 0x16B40;
constexpr char32_t kLo = 0x10280;
constexpr char32_t kMn = 0x101FD;
constexpr char32_t kMc = 0x11000;
constexpr char32_t kNd = 0x104A0;
constexpr char32_t kNo = 0x10107;
constexpr char32_t kPo = 0x10100;
constexpr char32_t kPd = 0x10EAD;
constexpr char32_t kSm = 0x1D6C1;
constexpr char32_t kSo = 0x1D000;
constexpr char32_t kMnInBmp = 0x816;
constexpr char32_t kMcInBmp = 0x903;
constexpr char32_t kPoInBmp = 0x964;
constexpr char32_t kLuInBmp = 0x10A0;
constexpr char32_t kLlInBmp = 0x1D02;
constexpr char32_t kSoInBmp = 0x2400;

struct Addition {
  char32_t first, last;
  char32_t stand_in;
};

// Assigned by Unicode 15.0 to 16.0, in order (but for format controls, of which no pattern asks).
constexpr Addition kAdditions[] = {
    {0x897, 0x897, kMnInBmp},   {0xCF3, 0xCF3, kMcInBmp},   {0xECE, 0xECE, kMnInBmp},   {0x1B4E, 0x1B4F, kPoInBmp},
    {0x1B7F, 0x1B7F, kPoInBmp}, {0x1C89, 0x1C89, kLuInBmp}, {0x1C8A, 0x1C8A, kLlInBmp}, {0x2427, 0x2429, kSoInBmp},
    {0x2FFC, 0x2FFF, kSoInBmp}, {0x31E4, 0x31E5, kSoInBmp}, {0x31EF, 0x31EF, kSoInBmp}, {0xA7CB, 0xA7CC, kLuInBmp},
    {0xA7CD, 0xA7CD, kLlInBmp}, {0xA7DA, 0xA7DA, kLuInBmp}, {0xA7DB, 0xA7DB, kLlInBmp}, {0xA7DC, 0xA7DC, kLuInBmp},
    {0x105C0, 0x105F3, kLo},    {0x10D40, 0x10D49, kNd},    {0x10D4A, 0x10D4D, kLo},    {0x10D4E, 0x10D4E, kLm},
    {0x10D4F, 0x10D4F, kLo},    {0x10D50, 0x10D65, kLu},    {0x10D69, 0x10D6D, kMn},    {0x10D6E, 0x10D6E, kPd},
    {0x10D6F, 0x10D6F, kLm},    {0x10D70, 0x10D85, kLl},    {0x10D8E, 0x10D8F, kSm},    {0x10EC2, 0x10EC4, kLo},
    {0x10EFC, 0x10EFF, kMn},    {0x1123F, 0x11240, kLo},    {0x11241, 0x11241, kMn},    {0x11380, 0x11389, kLo},
    {0x1138B, 0x1138B, kLo},    {0x1138E, 0x1138E, kLo},    {0x11390, 0x113B5, kLo},    {0x113B7, 0x113B7, kLo},
    {0x113B8, 0x113BA, kMc},    {0x113BB, 0x113C0, kMn},    {0x113C2, 0x113C2, kMc},    {0x113C5, 0x113C5, kMc},
    {0x113C7, 0x113CA, kMc},    {0x113CC, 0x113CD, kMc},    {0x113CE, 0x113CE, kMn},    {0x113CF, 0x113CF, kMc},
    {0x113D0, 0x113D0, kMn},    {0x113D1, 0x113D1, kLo},    {0x113D2, 0x113D2, kMn},    {0x113D3, 0x113D3, kLo},
    {0x113D4, 0x113D5, kPo},    {0x113D7, 0x113D8, kPo},    {0x113E1, 0x113E2, kMn},    {0x116D0, 0x116E3, kNd},
    {0x11B00, 0x11B09, kPo},    {0x11BC0, 0x11BE0, kLo},    {0x11BE1, 0x11BE1, kPo},    {0x11BF0, 0x11BF9, kNd},
    {0x11F00, 0x11F01, kMn},    {0x11F02, 0x11F02, kLo},    {0x11F03, 0x11F03, kMc},    {0x11F04, 0x11F10, kLo},
    {0x11F12, 0x11F33, kLo},    {0x11F34, 0x11F35, kMc},    {0x11F36, 0x11F3A, kMn},    {0x11F3E, 0x11F3F, kMc},
    {0x11F40, 0x11F40, kMn},    {0x11F41, 0x11F41, kMc},    {0x11F42, 0x11F42, kMn},    {0x11F43, 0x11F4F, kPo},
    {0x11F50, 0x11F59, kNd},    {0x11F5A, 0x11F5A, kMn},    {0x1342F, 0x1342F, kLo},    {0x13440, 0x13440, kMn},
    {0x13441, 0x13446, kLo},    {0x13447, 0x13455, kMn},    {0x13460, 0x143FA, kLo},    {0x16100, 0x1611D, kLo},
    {0x1611E, 0x16129, kMn},    {0x1612A, 0x1612C, kMc},    {0x1612D, 0x1612F, kMn},    {0x16130, 0x16139, kNd},
    {0x16D40, 0x16D42, kLm},    {0x16D43, 0x16D6A, kLo},    {0x16D6B, 0x16D6C, kLm},    {0x16D6D, 0x16D6F, kPo},
    {0x16D70, 0x16D79, kNd},    {0x18CFF, 0x18CFF, kLo},    {0x1B132, 0x1B132, kLo},    {0x1B155, 0x1B155, kLo},
    {0x1CC00, 0x1CCEF, kSo},    {0x1CCF0, 0x1CCF9, kNd},    {0x1CD00, 0x1CEB3, kSo},    {0x1D2C0, 0x1D2D3, kNo},
    {0x1DF25, 0x1DF2A, kLl},    {0x1E030, 0x1E06D, kLm},    {0x1E08F, 0x1E08F, kMn},    {0x1E4D0, 0x1E4EA, kLo},
    {0x1E4EB, 0x1E4EB, kLm},    {0x1E4EC, 0x1E4EF, kMn},    {0x1E4F0, 0x1E4F9, kNd},    {0x1E5D0, 0x1E5ED, kLo},
    {0x1E5EE, 0x1E5EF, kMn},    {0x1E5F0, 0x1E5F0, kLo},    {0x1E5F1, 0x1E5FA, kNd},    {0x1E5FF, 0x1E5FF, kPo},
    {0x1F6DC, 0x1F6DC, kSo},    {0x1F774, 0x1F776, kSo},    {0x1F77B, 0x1F77F, kSo},    {0x1F7D9, 0x1F7D9, kSo},
    {0x1F8B2, 0x1F8BB, kSo},    {0x1F8C0, 0x1F8C1, kSo},    {0x1FA75, 0x1FA77, kSo},    {0x1FA87, 0x1FA89, kSo},
    {0x1FA8F, 0x1FA8F, kSo},    {0x1FAAD, 0x1FAAF, kSo},    {0x1FABB, 0x1FABF, kSo},    {0x1FAC6, 0x1FAC6, kSo},
    {0x1FACE, 0x1FACF, kSo},    {0x1FADA, 0x1FADC, kSo},    {0x1FADF, 0x1FADF, kSo},    {0x1FAE8, 0x1FAE9, kSo},
    {0x1FAF7, 0x1FAF8, kSo},    {0x1FBCB, 0x1FBEF, kSo},    {0x2B739, 0x2B739, kHan},   {0x2EBF0, 0x2EE5D, kHan},
    {0x31350, 0x323AF, kHan}};

// The first bytes of these characters.
constexpr std::array<bool, 256> kLeads = [] {
  std::array<bool, 256> leads{};
  for (const Addition& addition : kAdditions) {
    for (char32_t c = addition.first; c <= addition.last; ++c) leads[c < 0x10000 ? 0xE0 | c >> 12 : 0xF0] = true;
  }
  return leads;
}();

const Addition* Find(char32_t c) {
  const Addition* found =
      std::lower_bound(std::begin(kAdditions), std::end(kAdditions), c,
                       [](const Addition& addition, char32_t wanted) { return addition.last < wanted; });
  return found != std::end(kAdditions) && found->first <= c ? found : nullptr;
}

}  // namespace

std::string_view WithStandIns(std::string_view text, std::string* storage) {
  bool copied = false;
  for (size_t i = 0; i < text.size(); ++i) {
    if (!kLeads[static_cast<unsigned char>(text[i])]) continue;
    size_t position = i;
    const Addition* addition = Find(DecodeUtf8(text, position));
    if (addition == nullptr) continue;
    if (!copied) storage->assign(text);
    copied = true;
    std::string stand_in;
    AppendUtf8(addition->stand_in, &stand_in);
    storage->replace(i, stand_in.size(), stand_in);
  }
  return copied ? std::string_view(*storage) : text;
}

}  // namespace moed
