#include "tokenizer/jinja/lexer.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <limits>

#include "tokenizer/jinja/unicode.h"

namespace moed::jinja {
namespace {

bool IsAsciiDigit(char c) { return c >= '0' && c <= '9'; }

int DigitValue(char c) {
  if (IsAsciiDigit(c)) return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return 99;
}

// All line breaks become \n, and one at the very end goes.
std::string NormalizeLineBreaks(std::string_view source) {
  std::string text;
  text.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      text += source[i];
      continue;
    }
    text += '\n';
    if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
  }
  if (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

// Resolves the escapes within the quotes as Python's "unicode-escape" does.
class StringLiteral {
 public:
  StringLiteral(std::string_view text, int line) : text_(text), line_(line) {}

  std::string Unescape() {
    while (position_ < text_.size()) {
      const char c = text_[position_++];
      if (c != '\\') {
        result_ += c;
      } else {
        Escape();
      }
    }
    return std::move(result_);
  }

 private:
  void Escape() {
    // The pattern of a literal never ends in a lone backslash.
    const char c = text_[position_++];
    switch (c) {
      case '\n':
        return;
      case '\\':
      case '\'':
      case '"':
        result_ += c;
        return;
      case 'a':
        result_ += '\a';
        return;
      case 'b':
        result_ += '\b';
        return;
      case 'f':
        result_ += '\f';
        return;
      case 'n':
        result_ += '\n';
        return;
      case 'r':
        result_ += '\r';
        return;
      case 't':
        result_ += '\t';
        return;
      case 'v':
        result_ += '\v';
        return;
      case 'x':
        return Hexadecimal(2, 'x');
      case 'u':
        return Hexadecimal(4, 'u');
      case 'U':
        return Hexadecimal(8, 'U');
      case 'N':
        throw TemplateError(absl::StatusCode::kUnimplemented, "\\N{…} in a string literal", line_);
      default:
        return OctalOrOther(c);
    }
  }

  void OctalOrOther(char first) {
    if (first >= '0' && first <= '7') {
      char32_t code = static_cast<char32_t>(first - '0');
      for (int i = 0; i < 2 && position_ < text_.size() && text_[position_] >= '0' && text_[position_] <= '7'; ++i) {
        code = code * 8 + static_cast<char32_t>(text_[position_++] - '0');
      }
      AppendUtf8(&result_, code);
      return;
    }
    result_ += '\\';
    if (static_cast<unsigned char>(first) < 0x80) {
      result_ += first;
      return;
    }
    // Jinja turns other characters into escapes before it resolves any, so the backslash meets one of those.
    --position_;
    const auto code = static_cast<uint32_t>(NextCodePoint(text_, &position_));
    result_ += code < 0x100     ? fmt::format("x{:02x}", code)
               : code < 0x10000 ? fmt::format("u{:04x}", code)
                                : fmt::format("U{:08x}", code);
  }

  void Hexadecimal(int digits, char letter) {
    uint64_t code = 0;
    for (int i = 0; i < digits; ++i) {
      const int digit = position_ < text_.size() ? DigitValue(text_[position_]) : 99;
      if (digit >= 16) {
        throw TemplateError(absl::StatusCode::kInvalidArgument,
                            fmt::format("truncated \\{} escape in a string literal", letter), line_);
      }
      code = code * 16 + static_cast<uint64_t>(digit);
      ++position_;
    }
    if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) {
      throw TemplateError(absl::StatusCode::kInvalidArgument,
                          fmt::format("\\{} escape names U+{:X}, which is no character", letter, code), line_);
    }
    AppendUtf8(&result_, static_cast<char32_t>(code));
  }

  std::string_view text_;
  int line_;
  size_t position_ = 0;
  std::string result_;
};

class Lexer {
 public:
  explicit Lexer(std::string_view source) : text_(NormalizeLineBreaks(source)) {}

  std::vector<Token> Run() {
    while (position_ < text_.size()) Root();
    Add(TokenType::kEnd);
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void FailHere(const std::string& message) const {
    throw TemplateError(absl::StatusCode::kInvalidArgument, message, line_);
  }

  Token& Add(TokenType type, std::string text = "") {
    Token& token = tokens_.emplace_back();
    token.type = type;
    token.line = line_;
    token.text = std::move(text);
    return token;
  }

  // Moves to `end`, counting lines.
  void Advance(size_t end) {
    if (end == position_) return;
    line_ += static_cast<int>(std::count(text_.begin() + static_cast<ptrdiff_t>(position_),
                                         text_.begin() + static_cast<ptrdiff_t>(end), '\n'));
    line_starting_ = text_[end - 1] == '\n';
    position_ = end;
  }

  bool LooksAt(std::string_view what, size_t at) const { return std::string_view(text_).substr(at).starts_with(what); }

  size_t SkipSpace(size_t at) const {
    while (at < text_.size()) {
      size_t next = at;
      if (!IsSpace(NextCodePoint(text_, &next))) break;
      at = next;
    }
    return at;
  }

  // Text up to the next tag, and the start of the tag.
  void Root() {
    const size_t tag = FindTag();
    if (tag == std::string::npos) {
      Add(TokenType::kData, text_.substr(position_));
      return Advance(text_.size());
    }
    const char opener = text_[tag + 1];
    size_t behind = tag + 2;
    char sign = 0;
    if (behind < text_.size() && (text_[behind] == '-' || text_[behind] == '+')) sign = text_[behind++];
    const size_t raw = opener == '%' ? RawBegin(behind) : std::string::npos;
    AddText(tag, sign, opener != '{');
    if (raw != std::string::npos) {
      Advance(raw);
      return Raw();
    }
    if (opener == '#') {
      Advance(behind);
      return Comment();
    }
    Advance(tag);
    Add(opener == '%' ? TokenType::kBlockBegin : TokenType::kVariableBegin);
    Advance(behind);
    Inside(opener == '%');
  }

  size_t FindTag() const {
    for (size_t at = text_.find('{', position_); at != std::string::npos; at = text_.find('{', at + 1)) {
      if (at + 1 < text_.size() && (text_[at + 1] == '%' || text_[at + 1] == '{' || text_[at + 1] == '#')) return at;
    }
    return std::string::npos;
  }

  // Adds the text before a tag at `end`, less what the tag strips from it.
  void AddText(size_t end, char sign, bool strips_line) {
    std::string_view data = std::string_view(text_).substr(position_, end - position_);
    if (sign == '-') {
      data = StripRight(data);
    } else if (sign != '+' && strips_line) {
      const size_t line_begin = data.rfind('\n') + 1;  // 0 where there is none
      if ((line_begin > 0 || line_starting_) && StripLeft(data.substr(line_begin)).empty()) {
        data = data.substr(0, line_begin);
      }
    }
    if (!data.empty()) Add(TokenType::kData, std::string(data));
    Advance(end);
  }

  // Where the text behind `{% raw %}` begins, if that is what begins at `at`.
  size_t RawBegin(size_t at) const {
    at = SkipSpace(at);
    if (!LooksAt("raw", at)) return std::string::npos;
    at = SkipSpace(at + 3);
    if (LooksAt("-%}", at)) return SkipSpace(at + 3);
    return LooksAt("%}", at) ? at + 2 : std::string::npos;
  }

  void Raw() {
    for (size_t at = text_.find("{%", position_); at != std::string::npos; at = text_.find("{%", at + 1)) {
      size_t end = at + 2;
      char sign = 0;
      if (end < text_.size() && (text_[end] == '-' || text_[end] == '+')) sign = text_[end++];
      end = SkipSpace(end);
      if (!LooksAt("endraw", end)) continue;
      end = TagEnd(SkipSpace(end + 6), "%}");
      if (end == std::string::npos) continue;
      AddText(at, sign, true);
      return Advance(end);
    }
    FailHere("Missing end of raw directive");
  }

  void Comment() {
    for (size_t at = position_; at < text_.size(); ++at) {
      const size_t end = TagEnd(at, "#}");
      if (end != std::string::npos) return Advance(end);
    }
    FailHere("Missing end of comment tag");
  }

  // The end of a block or comment tag that closes at `at`, with what it strips behind it; npos where none closes.
  size_t TagEnd(size_t at, std::string_view closer) const {
    if (at >= text_.size()) return std::string::npos;
    if (text_[at] == '+' && LooksAt(closer, at + 1)) return at + 3;
    if (text_[at] == '-' && LooksAt(closer, at + 1)) return SkipSpace(at + 3);
    if (!LooksAt(closer, at)) return std::string::npos;
    return at + 2 < text_.size() && text_[at + 2] == '\n' ? at + 3 : at + 2;
  }

  size_t VariableEnd(size_t at) const {
    if (LooksAt("-}}", at)) return SkipSpace(at + 3);
    return LooksAt("}}", at) ? at + 2 : std::string::npos;
  }

  // The tokens of one tag, up to its end.
  void Inside(bool block) {
    while (position_ < text_.size()) {
      if (open_.empty()) {
        const size_t end = block ? TagEnd(position_, "%}") : VariableEnd(position_);
        if (end != std::string::npos) {
          Add(block ? TokenType::kBlockEnd : TokenType::kVariableEnd);
          return Advance(end);
        }
      }
      const size_t behind_space = SkipSpace(position_);
      if (behind_space != position_) {
        Advance(behind_space);
      } else {
        Lexeme();
      }
    }
  }

  void Lexeme() {
    size_t at = position_;
    const char c = text_[position_];
    const char32_t first = NextCodePoint(text_, &at);
    if (IsAsciiDigit(c)) return Number();
    if (c == '\'' || c == '"') return String(c);
    if (IsIdentifierPart(first)) return Name();
    Operator();
  }

  void Name() {
    size_t end = position_;
    size_t next = position_;
    const bool starts_well = IsIdentifierStart(NextCodePoint(text_, &next));
    while (next <= text_.size()) {
      end = next;
      if (end == text_.size() || !IsIdentifierPart(NextCodePoint(text_, &next))) break;
    }
    if (!starts_well) FailHere("Invalid character in identifier");
    Add(TokenType::kName, text_.substr(position_, end - position_));
    Advance(end);
  }

  // The end of decimal digits with single underscores between them, from `at`; `at` where there are none.
  size_t Digits(size_t at) const {
    while (at < text_.size() && IsAsciiDigit(text_[at])) {
      ++at;
      if (at + 1 < text_.size() && text_[at] == '_' && IsAsciiDigit(text_[at + 1])) ++at;
    }
    return at;
  }

  void Number() {
    const size_t whole = Digits(position_);
    size_t end = whole;
    const bool behind_dot = position_ > 0 && text_[position_ - 1] == '.';
    if (!behind_dot) {
      if (end < text_.size() && text_[end] == '.' && Digits(end + 1) != end + 1) end = Digits(end + 1);
      if (end < text_.size() && (text_[end] == 'e' || text_[end] == 'E')) {
        size_t exponent = end + 1;
        if (exponent < text_.size() && (text_[exponent] == '+' || text_[exponent] == '-')) ++exponent;
        if (Digits(exponent) != exponent) end = Digits(exponent);
      }
    }
    if (end == whole) return WholeNumber();
    std::string digits = text_.substr(position_, end - position_);
    std::erase(digits, '_');
    Add(TokenType::kFloat, digits).real = std::strtod(digits.c_str(), nullptr);
    Advance(end);
  }

  void WholeNumber() {
    unsigned base = 10;
    size_t begin = position_;
    if (text_[begin] == '0' && begin + 1 < text_.size()) {
      const char prefix = static_cast<char>(text_[begin + 1] | 0x20);
      const unsigned other = prefix == 'x' ? 16 : prefix == 'o' ? 8 : prefix == 'b' ? 2 : 10;
      size_t first = begin + 2;
      if (first < text_.size() && text_[first] == '_') ++first;
      if (other != 10 && first < text_.size() && DigitValue(text_[first]) < static_cast<int>(other)) {
        base = other;
        begin = first;
      }
    }
    // A decimal that begins with zero is zeros only.
    const bool zeros = base == 10 && text_[begin] == '0';
    Integer value = 0;
    size_t end = begin;
    for (; end < text_.size(); ++end) {
      if (text_[end] == '_' && end + 1 < text_.size() && DigitValue(text_[end + 1]) < static_cast<int>(base)) continue;
      const int digit = DigitValue(text_[end]);
      if (digit >= static_cast<int>(base) || (zeros && digit != 0)) break;
      if (__builtin_mul_overflow(value, static_cast<Integer>(base), &value) ||
          __builtin_add_overflow(value, static_cast<Integer>(digit), &value)) {
        FailHere("a whole number beyond 128 bits");
      }
    }
    Add(TokenType::kInteger, text_.substr(position_, end - position_)).integer = value;
    Advance(end);
  }

  void String(char quote) {
    size_t end = position_ + 1;
    while (end < text_.size() && text_[end] != quote) end += text_[end] == '\\' ? 2 : 1;
    if (end >= text_.size()) FailHere(fmt::format("unexpected char '{}': the string does not end", quote));
    const std::string_view inside = std::string_view(text_).substr(position_ + 1, end - position_ - 1);
    Add(TokenType::kString, StringLiteral(inside, line_).Unescape());
    Advance(end + 1);
  }

  void Operator() {
    static constexpr std::array<std::string_view, 26> kOperators = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/",
                                                                    "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                                                    ">",  "<",  "=",  ".",  ":",  "|",  ",", ";"};
    const auto* found =
        std::find_if(kOperators.begin(), kOperators.end(), [&](std::string_view op) { return LooksAt(op, position_); });
    if (found == kOperators.end()) {
      size_t end = position_;
      NextCodePoint(text_, &end);
      FailHere(fmt::format("unexpected char '{}'", text_.substr(position_, end - position_)));
    }
    Balance((*found)[0]);
    Add(TokenType::kOperator, std::string(*found));
    Advance(position_ + found->size());
  }

  void Balance(char bracket) {
    if (bracket == '{' || bracket == '(' || bracket == '[') {
      open_ += bracket == '{' ? '}' : bracket == '(' ? ')' : ']';
    } else if (bracket == '}' || bracket == ')' || bracket == ']') {
      if (open_.empty()) FailHere(fmt::format("unexpected '{}'", bracket));
      if (open_.back() != bracket) FailHere(fmt::format("unexpected '{}', expected '{}'", bracket, open_.back()));
      open_.pop_back();
    }
  }

  const std::string text_;
  size_t position_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::string open_;  // the closing brackets that are due
  std::vector<Token> tokens_;
};

}  // namespace

std::string Describe(const Token& token) {
  switch (token.type) {
    case TokenType::kData:
      return "template data / text";
    case TokenType::kBlockBegin:
      return "begin of statement block";
    case TokenType::kBlockEnd:
      return "end of statement block";
    case TokenType::kVariableBegin:
      return "begin of print statement";
    case TokenType::kVariableEnd:
      return "end of print statement";
    case TokenType::kString:
      return "string";
    case TokenType::kInteger:
      return "integer";
    case TokenType::kFloat:
      return "float";
    case TokenType::kEnd:
      return "end of template";
    case TokenType::kName:
    case TokenType::kOperator:
      return token.text;
  }
  return token.text;
}

std::vector<Token> Tokenize(std::string_view source) {
  if (!IsValidUtf8(source)) Fail("the template is not valid UTF-8");
  return Lexer(source).Run();
}

}  // namespace moed::jinja
