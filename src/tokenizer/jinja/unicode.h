// Python's view of text: strings are sequences of code points, and their methods follow Unicode's properties
// (utf8proc). Text is kept as UTF-8, checked once where it enters; every function but IsValidUtf8 assumes valid input.
#ifndef MOED_TOKENIZER_JINJA_UNICODE_H_
#define MOED_TOKENIZER_JINJA_UNICODE_H_

#include <cstddef>
#include <string>
#include <string_view>

namespace moed::jinja {

bool IsValidUtf8(std::string_view text);

size_t CountCodePoints(std::string_view text);

// The code point that starts at byte `*position`, which is moved behind it.
char32_t NextCodePoint(std::string_view text, size_t* position);

// The code point that ends before byte `*position`, which is moved to its start.
char32_t PreviousCodePoint(std::string_view text, size_t* position);

void AppendUtf8(std::string* out, char32_t code_point);

// Byte offset of code point number `index`; the size of the text when there are fewer.
size_t ByteOffset(std::string_view text, size_t index);

std::u32string ToCodePoints(std::string_view text);
std::string ToUtf8(std::u32string_view code_points);

// Properties as the str.is…() methods of Python define them, for one code point.
bool IsSpace(char32_t c);
bool IsLineBreak(char32_t c);  // where str.splitlines() splits
bool IsPrintable(char32_t c);
bool IsDecimal(char32_t c);
bool IsDigit(char32_t c);
bool IsNumeric(char32_t c);
bool IsAlpha(char32_t c);
bool IsUpper(char32_t c);
bool IsLower(char32_t c);
bool IsTitle(char32_t c);
// May occur in an identifier / may begin one.
bool IsIdentifierPart(char32_t c);
bool IsIdentifierStart(char32_t c);

// Case mappings of whole strings, with the multi-character mappings of SpecialCasing.txt ("ß" → "SS") and final sigma.
std::string ToUpper(std::string_view text);
std::string ToLower(std::string_view text);
std::string ToTitle(std::string_view text);        // every word, as str.title()
std::string ToCapitalized(std::string_view text);  // as str.capitalize()
std::string SwapCase(std::string_view text);
std::string CaseFold(std::string_view text);

// Without Unicode white space at the start and the end.
std::string_view StripLeft(std::string_view text);
std::string_view StripRight(std::string_view text);

}  // namespace moed::jinja

#endif  // MOED_TOKENIZER_JINJA_UNICODE_H_
