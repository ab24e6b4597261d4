#include "tokenizer/jinja/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <iterator>

#include "base/utf8.h"
#include "tokenizer/jinja/special_casing.h"

namespace moed::jinja {
namespace {

utf8proc_category_t Category(char32_t c) { return utf8proc_category(static_cast<utf8proc_int32_t>(c)); }

bool IsContinuation(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) == 0x80; }

void AppendMapped(std::u32string* out, const SpecialCasing& entry) {
  for (char32_t c : entry.mapped) {
    if (c != 0) out->push_back(c);
  }
}

template <size_t kSize>
const SpecialCasing* FindSpecial(const SpecialCasing (&table)[kSize], char32_t c) {
  if (c < 0xDF) return nullptr;  // the first entry of both tables
  const SpecialCasing* entry =
      std::lower_bound(std::begin(table), std::end(table), c,
                       [](const SpecialCasing& row, char32_t value) { return row.code_point < value; });
  return entry != std::end(table) && entry->code_point == c ? entry : nullptr;
}

void AppendUpper(std::u32string* out, char32_t c) {
  if (const SpecialCasing* entry = FindSpecial(kSpecialUpper, c)) return AppendMapped(out, *entry);
  out->push_back(static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c))));
}

void AppendTitle(std::u32string* out, char32_t c) {
  if (const SpecialCasing* entry = FindSpecial(kSpecialTitle, c)) return AppendMapped(out, *entry);
  out->push_back(static_cast<char32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(c))));
}

bool IsCased(char32_t c) { return IsUpper(c) || IsLower(c) || IsTitle(c); }

// A sigma is final when a letter stands before it and none behind it, marks and the like not counted.
bool IsFinalSigma(std::u32string_view text, size_t index) {
  auto ignorable = [](char32_t c) {
    const utf8proc_category_t category = Category(c);
    return category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_ME || category == UTF8PROC_CATEGORY_CF ||
           category == UTF8PROC_CATEGORY_LM || category == UTF8PROC_CATEGORY_SK || c == '\'' || c == '.' || c == ':' ||
           c == 0xB7 || c == 0x2019;
  };
  size_t before = index;
  while (before > 0 && ignorable(text[before - 1])) --before;
  if (before == 0 || !IsCased(text[before - 1])) return false;
  size_t after = index + 1;
  while (after < text.size() && ignorable(text[after])) ++after;
  return after == text.size() || !IsCased(text[after]);
}

void AppendLower(std::u32string* out, std::u32string_view text, size_t index) {
  const char32_t c = text[index];
  if (c == 0x130) {
    out->append(U"i\u0307");
  } else if (c == 0x3A3) {
    out->push_back(IsFinalSigma(text, index) ? 0x3C2 : 0x3C3);
  } else {
    out->push_back(static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
  }
}

bool IsAscii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

}  // namespace

bool IsValidUtf8(std::string_view text) { return FindInvalidUtf8(text) == std::string_view::npos; }

size_t CountCodePoints(std::string_view text) {
  size_t count = 0;
  for (char byte : text) count += IsContinuation(byte) ? 0 : 1;
  return count;
}

char32_t NextCodePoint(std::string_view text, size_t* position) { return DecodeUtf8(text, *position); }

char32_t PreviousCodePoint(std::string_view text, size_t* position) {
  *position = PreviousUtf8(text, *position);
  size_t at = *position;
  return DecodeUtf8(text, at);
}

void AppendUtf8(std::string* out, char32_t code_point) { moed::AppendUtf8(code_point, out); }

size_t ByteOffset(std::string_view text, size_t index) {
  size_t position = 0;
  while (index > 0 && position < text.size()) {
    ++position;
    while (position < text.size() && IsContinuation(text[position])) ++position;
    --index;
  }
  return position;
}

std::u32string ToCodePoints(std::string_view text) {
  std::u32string code_points;
  code_points.reserve(text.size());
  for (size_t position = 0; position < text.size();) code_points.push_back(NextCodePoint(text, &position));
  return code_points;
}

std::string ToUtf8(std::u32string_view code_points) {
  std::string text;
  text.reserve(code_points.size());
  for (char32_t c : code_points) AppendUtf8(&text, c);
  return text;
}

bool IsSpace(char32_t c) {
  if (c < 0x80) return c == ' ' || (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x1F);
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
         c == 0x202F || c == 0x205F || c == 0x3000;
}

bool IsLineBreak(char32_t c) {
  return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

bool IsPrintable(char32_t c) {
  if (c < 0x7F) return c >= 0x20;
  switch (Category(c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
      return false;
    default:
      return true;
  }
}

bool IsDecimal(char32_t c) { return c < 0x80 ? c >= '0' && c <= '9' : Category(c) == UTF8PROC_CATEGORY_ND; }

bool IsDigit(char32_t c) {
  if (IsDecimal(c)) return true;
  return c == 0xB2 || c == 0xB3 || c == 0xB9 || c == 0x2070 || (c >= 0x2074 && c <= 0x2079) ||
         (c >= 0x2080 && c <= 0x2089) || (c >= 0x2460 && c <= 0x2468) || (c >= 0x2776 && c <= 0x277E);
}

bool IsNumeric(char32_t c) {
  const utf8proc_category_t category = Category(c);
  return category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL || category == UTF8PROC_CATEGORY_NO;
}

bool IsAlpha(char32_t c) {
  if (c < 0x80) return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
  const utf8proc_category_t category = Category(c);
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

bool IsUpper(char32_t c) {
  if (c < 0x80) return c >= 'A' && c <= 'Z';
  return Category(c) == UTF8PROC_CATEGORY_LU || (c >= 0x2160 && c <= 0x216F) || (c >= 0x24B6 && c <= 0x24CF);
}

bool IsLower(char32_t c) {
  if (c < 0x80) return c >= 'a' && c <= 'z';
  return Category(c) == UTF8PROC_CATEGORY_LL || c == 0xAA || c == 0xBA || (c >= 0x2170 && c <= 0x217F) ||
         (c >= 0x24D0 && c <= 0x24E9);
}

bool IsTitle(char32_t c) { return c >= 0x80 && Category(c) == UTF8PROC_CATEGORY_LT; }

bool IsIdentifierStart(char32_t c) {
  if (c < 0x80) return IsAlpha(c) || c == '_';
  return IsAlpha(c) || Category(c) == UTF8PROC_CATEGORY_NL;
}

bool IsIdentifierPart(char32_t c) {
  if (c < 0x80) return IsAlpha(c) || c == '_' || IsDecimal(c);
  const utf8proc_category_t category = Category(c);
  return IsIdentifierStart(c) || IsDecimal(c) || category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_MC ||
         category == UTF8PROC_CATEGORY_PC;
}

std::string ToUpper(std::string_view text) {
  if (IsAscii(text)) {
    std::string upper(text);
    for (char& c : upper) c = c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c;
    return upper;
  }
  std::u32string upper;
  for (char32_t c : ToCodePoints(text)) AppendUpper(&upper, c);
  return ToUtf8(upper);
}

std::string ToLower(std::string_view text) {
  if (IsAscii(text)) {
    std::string lower(text);
    for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
    return lower;
  }
  const std::u32string code_points = ToCodePoints(text);
  std::u32string lower;
  for (size_t i = 0; i < code_points.size(); ++i) AppendLower(&lower, code_points, i);
  return ToUtf8(lower);
}

std::string ToTitle(std::string_view text) {
  const std::u32string code_points = ToCodePoints(text);
  std::u32string title;
  bool in_word = false;
  for (size_t i = 0; i < code_points.size(); ++i) {
    if (in_word) {
      AppendLower(&title, code_points, i);
    } else {
      AppendTitle(&title, code_points[i]);
    }
    in_word = IsCased(code_points[i]);
  }
  return ToUtf8(title);
}

std::string ToCapitalized(std::string_view text) {
  const std::u32string code_points = ToCodePoints(text);
  std::u32string capitalized;
  for (size_t i = 0; i < code_points.size(); ++i) {
    if (i == 0) {
      AppendTitle(&capitalized, code_points[i]);
    } else {
      AppendLower(&capitalized, code_points, i);
    }
  }
  return ToUtf8(capitalized);
}

std::string SwapCase(std::string_view text) {
  const std::u32string code_points = ToCodePoints(text);
  std::u32string swapped;
  for (size_t i = 0; i < code_points.size(); ++i) {
    if (IsUpper(code_points[i])) {
      AppendLower(&swapped, code_points, i);
    } else if (IsLower(code_points[i])) {
      AppendUpper(&swapped, code_points[i]);
    } else {
      swapped.push_back(code_points[i]);
    }
  }
  return ToUtf8(swapped);
}

std::string CaseFold(std::string_view text) {
  utf8proc_uint8_t* folded = nullptr;
  const utf8proc_ssize_t size = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                             static_cast<utf8proc_ssize_t>(text.size()), &folded, UTF8PROC_CASEFOLD);
  if (size < 0) return std::string(text);
  std::string result(reinterpret_cast<const char*>(folded), static_cast<size_t>(size));
  std::free(folded);
  return result;
}

std::string_view StripLeft(std::string_view text) {
  size_t begin = 0;
  while (begin < text.size()) {
    size_t next = begin;
    if (!IsSpace(NextCodePoint(text, &next))) break;
    begin = next;
  }
  return text.substr(begin);
}

std::string_view StripRight(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    size_t start = end;
    if (!IsSpace(PreviousCodePoint(text, &start))) break;
    end = start;
  }
  return text.substr(0, end);
}

}  // namespace moed::jinja
