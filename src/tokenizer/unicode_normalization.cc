#include "tokenizer/unicode_normalization.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <vector>

#include "base/utf8.h"

namespace moed {
namespace {

// Planes 0 and 1 are looked up; above them everything takes the slow way, which is right for all.
constexpr char32_t kTableSize = 0x20000;
// The most characters that one character decomposes to (U+FDFA).
constexpr int kMaxDecomposition = 32;

// Characters that Unicode 10 to 15 assigned and that have a combining class or a decomposition. The tokenizers package
// normalizes by Unicode 9, in which they have neither; models have learnt from the texts that it wrote.
struct Range {
  char32_t first, last;
};
constexpr Range kYoung[] = {
    {0x7FD, 0x7FD},     {0x898, 0x89F},     {0x8CA, 0x8D3},     {0x9FE, 0x9FE},     {0xC3C, 0xC3C},
    {0xD3B, 0xD3C},     {0xEBA, 0xEBA},     {0x1715, 0x1715},   {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},
    {0x32FF, 0x32FF},   {0xA7F2, 0xA7F4},   {0xA82C, 0xA82C},   {0xAB69, 0xAB69},   {0x10781, 0x10785},
    {0x10787, 0x107B0}, {0x107B2, 0x107BA}, {0x10D24, 0x10D27}, {0x10EAB, 0x10EAC}, {0x10EFD, 0x10EFF},
    {0x10F46, 0x10F50}, {0x10F82, 0x10F85}, {0x11070, 0x11070}, {0x1133B, 0x1133B}, {0x1145E, 0x1145E},
    {0x11839, 0x1183A}, {0x11938, 0x11938}, {0x1193D, 0x1193E}, {0x11943, 0x11943}, {0x119E0, 0x119E0},
    {0x11A34, 0x11A34}, {0x11A47, 0x11A47}, {0x11A99, 0x11A99}, {0x11D42, 0x11D42}, {0x11D44, 0x11D45},
    {0x11D97, 0x11D97}, {0x11F41, 0x11F42}, {0x16FF0, 0x16FF1}, {0x1E030, 0x1E06D}, {0x1E08F, 0x1E08F},
    {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF}, {0x1E4EC, 0x1E4EF}, {0x1F16C, 0x1F16C},
    {0x1FBF0, 0x1FBF9}};

bool IsYoung(char32_t c) {
  const Range* found = std::lower_bound(std::begin(kYoung), std::end(kYoung), c,
                                        [](const Range& range, char32_t wanted) { return range.last < wanted; });
  return found != std::end(kYoung) && found->first <= c;
}

// U+00AD and the like are kept: neither LUMP nor IGNORE is asked for.
int DecomposeOptions(NormalizationForm form) {
  const bool compatible = form == NormalizationForm::kNfkc || form == NormalizationForm::kNfkd;
  return UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (compatible ? UTF8PROC_COMPAT : 0);
}

bool Composes(NormalizationForm form) { return form == NormalizationForm::kNfc || form == NormalizationForm::kNfkc; }

// The full decomposition of one character.
struct Decomposition {
  Decomposition(char32_t c, NormalizationForm form) {
    if (IsYoung(c)) {
      characters[0] = static_cast<utf8proc_int32_t>(c);
      size = 1;
      return;
    }
    int boundary = 0;
    size =
        static_cast<int>(utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), characters.data(), kMaxDecomposition,
                                                 static_cast<utf8proc_option_t>(DecomposeOptions(form)), &boundary));
  }
  bool IsItself(char32_t c) const { return size == 1 && characters[0] == static_cast<utf8proc_int32_t>(c); }

  std::array<utf8proc_int32_t, kMaxDecomposition> characters;
  int size;
};

int CombiningClass(utf8proc_int32_t c) {
  const int combining_class = utf8proc_get_property(c)->combining_class;
  return combining_class != 0 && IsYoung(static_cast<char32_t>(c)) ? 0 : combining_class;
}

// Bit c: the character is its own normal form, does not move among marks, and does not merge with what stands before
// it. (It may merge with what follows.) So a text of such characters only is in the form.
class InertTable {
 public:
  explicit InertTable(NormalizationForm form) : inert_(kTableSize, true) {
    for (char32_t c = 0x80; c < kTableSize; ++c) {
      const Decomposition parts(c, form);
      const bool composed = Composes(form) && parts.size > 1 && ComposesTo(parts, c);
      if (CombiningClass(static_cast<utf8proc_int32_t>(c)) != 0 || (!parts.IsItself(c) && !composed)) inert_[c] = false;
      if (!Composes(form)) continue;
      const Decomposition canonical(c, NormalizationForm::kNfc);
      for (int i = 1; i < canonical.size; ++i) {
        const auto part = static_cast<char32_t>(canonical.characters[i]);
        if (part < kTableSize) inert_[part] = false;
      }
    }
  }
  bool operator()(char32_t c) const { return c < kTableSize && inert_[c]; }

 private:
  static bool ComposesTo(Decomposition parts, char32_t c) {
    return utf8proc_normalize_utf32(parts.characters.data(), parts.size,
                                    static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE)) == 1 &&
           parts.characters[0] == static_cast<utf8proc_int32_t>(c);
  }
  std::vector<bool> inert_;
};

template <NormalizationForm form>
const InertTable& GetInertTable() {
  static const InertTable table(form);
  return table;
}

const InertTable& GetInertTable(NormalizationForm form) {
  switch (form) {
    case NormalizationForm::kNfc:
      return GetInertTable<NormalizationForm::kNfc>();
    case NormalizationForm::kNfd:
      return GetInertTable<NormalizationForm::kNfd>();
    case NormalizationForm::kNfkc:
      return GetInertTable<NormalizationForm::kNfkc>();
    default:
      return GetInertTable<NormalizationForm::kNfkd>();
  }
}

// The slow way, for one piece: decompose, order the marks, compose.
void NormalizePiece(std::string_view piece, NormalizationForm form, std::string* out) {
  std::vector<utf8proc_int32_t> characters;
  for (size_t position = 0; position < piece.size();) {
    const Decomposition parts(DecodeUtf8(piece, position), form);
    characters.insert(characters.end(), parts.characters.begin(), parts.characters.begin() + parts.size);
  }
  // utf8proc would order marks by swapping neighbours, which takes quadratic time on hostile text.
  for (size_t begin = 0; begin < characters.size();) {
    size_t end = begin;
    while (end < characters.size() && CombiningClass(characters[end]) != 0) ++end;
    std::stable_sort(characters.begin() + begin, characters.begin() + end,
                     [](int32_t a, int32_t b) { return CombiningClass(a) < CombiningClass(b); });
    begin = end + 1;
  }
  auto size = static_cast<utf8proc_ssize_t>(characters.size());
  if (Composes(form)) {
    size = utf8proc_normalize_utf32(characters.data(), size,
                                    static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  }
  for (utf8proc_ssize_t i = 0; i < size; ++i) AppendUtf8(static_cast<char32_t>(characters[i]), out);
}

// The first character that is not inert, at or after `position`; text.size() when there is none. `previous` becomes
// the start of the character before it.
size_t FindActive(std::string_view text, const InertTable& inert, size_t position, size_t* previous) {
  *previous = position;
  while (position < text.size()) {
    size_t next = position;
    if (!inert(DecodeUtf8(text, next))) return position;
    *previous = position;
    position = next;
  }
  return position;
}

}  // namespace

bool NormalizeUnicode(std::string_view text, NormalizationForm form, std::string* out) {
  const InertTable& inert = GetInertTable(form);
  size_t previous = 0;
  size_t active = FindActive(text, inert, 0, &previous);
  if (active == text.size()) return false;
  out->clear();
  size_t copied = 0;
  while (active < text.size()) {
    // The piece begins with the inert character that marks may merge into, and ends before the next inert one.
    out->append(text.substr(copied, previous - copied));
    size_t end = active;
    while (end < text.size()) {
      size_t next = end;
      if (inert(DecodeUtf8(text, next))) break;
      end = next;
    }
    NormalizePiece(text.substr(previous, end - previous), form, out);
    copied = end;
    active = FindActive(text, inert, end, &previous);
  }
  out->append(text.substr(copied));
  return true;
}

}  // namespace moed
