#include "tokenizer/regex_syntax.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <cctype>
#include <cstdint>
#include <utility>
#include <vector>

#include "base/status.h"
#include "base/utf8.h"

namespace moed {
namespace {

// These end in a range, so that a "-" that follows in a class stays a hyphen.

// What \s means: the property White_Space. (PCRE2 adds U+180E, which Unicode 6.3 took out.)
constexpr std::string_view kSpace =
    R"(\x20\x85\xA0\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}\t-\r)";
constexpr std::string_view kNotSpace =
    R"(\x00-\x08\x0E-\x1F\x21-\x84\x86-\x9F\xA1-\x{167F}\x{1681}-\x{1FFF}\x{200B}-\x{2027}\x{202A}-\x{202E})"
    R"(\x{2030}-\x{205E}\x{2060}-\x{2FFF}\x{3001}-\x{10FFFF})";
// What \w means: Alphabetic, marks, decimal digits, connectors. (PCRE2 takes letters, numbers and "_".) The ranges are
// the symbols that are Alphabetic.
constexpr std::string_view kWord =
    R"(\p{L}\p{M}\p{Nl}\p{Nd}\p{Pc}\x{24B6}-\x{24E9}\x{1F130}-\x{1F149}\x{1F150}-\x{1F169}\x{1F170}-\x{1F189})";
// Outside of a class, Oniguruma counts the superscripts and fractions of Latin-1 too.
constexpr std::string_view kLatin1Numbers = R"(\xB2\xB3\xB9\xBC-\xBE)";
constexpr std::string_view kHexDigit = "0-9a-fA-F";
constexpr int kMaxClassDepth = 16;

// PCRE2 knows general categories by their short names only.
std::string_view ShortCategory(std::string_view name) {
  constexpr std::pair<std::string_view, std::string_view> kNames[] = {
      {"Letter", "L"},
      {"Uppercase_Letter", "Lu"},
      {"Lowercase_Letter", "Ll"},
      {"Titlecase_Letter", "Lt"},
      {"Modifier_Letter", "Lm"},
      {"Other_Letter", "Lo"},
      {"Mark", "M"},
      {"Nonspacing_Mark", "Mn"},
      {"Number", "N"},
      {"Decimal_Number", "Nd"},
      {"Letter_Number", "Nl"},
      {"Other_Number", "No"},
      {"Punctuation", "P"},
      {"Symbol", "S"},
      {"Separator", "Z"},
      {"Space_Separator", "Zs"},
      {"Other", "C"},
      {"Control", "Cc"},
      {"Format", "Cf"},
  };
  for (const auto& [long_name, short_name] : kNames) {
    if (name == long_name) return short_name;
  }
  return name;
}

// Whether \p{name} is a script. PCRE2 takes its name alone for its extensions, so that \p{Han} would be "。" too.
bool IsScript(std::string_view name) {
  const std::string pattern = fmt::format("\\p{{sc:{}}}", name);
  int error = 0;
  size_t offset = 0;
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), PCRE2_UTF, &error, &offset, nullptr);
  pcre2_code_free(code);
  return code != nullptr;
}

// What [:name:] means, for between brackets; "" when there is no such name.
std::string_view PosixItems(std::string_view name) {
  const std::pair<std::string_view, std::string_view> kItems[] = {
      {"alpha", R"(\p{Alphabetic})"},
      {"alnum", R"(\p{Alphabetic}\p{Nd})"},
      {"digit", R"(\p{Nd})"},
      {"upper", R"(\p{Uppercase})"},
      {"lower", R"(\p{Lowercase})"},
      {"cntrl", R"(\p{Cc})"},
      {"space", kSpace},
      {"word", kWord},
      {"xdigit", kHexDigit},
      {"blank", R"(\p{Zs}\t)"},
      {"punct", R"(\p{P}\p{S})"},
  };
  for (const auto& [known, items] : kItems) {
    if (name == known) return items;
  }
  return "";
}

class Translator {
 public:
  explicit Translator(std::string_view pattern) : pattern_(pattern) {}

  absl::StatusOr<std::string> Run() {
    groups_.push_back({0, 0});
    while (!AtEnd()) MOED_RETURN_IF_ERROR(Next());
    if (groups_.size() != 1) return Malformed("a group is not closed");
    out_.append(groups_.back().extra_closes, ')');
    return std::move(out_);
  }

 private:
  struct Group {
    size_t begin;      // in out_
    int extra_closes;  // groups opened for an isolated option such as (?i)
  };

  bool AtEnd() const { return position_ >= pattern_.size(); }
  char Peek(size_t ahead = 0) const { return position_ + ahead < pattern_.size() ? pattern_[position_ + ahead] : '\0'; }
  bool Consume(std::string_view expected) {
    if (pattern_.substr(position_, expected.size()) != expected) return false;
    position_ += expected.size();
    return true;
  }
  absl::Status Malformed(std::string_view what) const {
    return InvalidArgument("regular expression '{}': {} (at byte {})", pattern_, what, position_);
  }
  absl::Status Unsupported(std::string_view what) const {
    return Unimplemented("regular expression '{}': {} is not supported (at byte {})", pattern_, what, position_);
  }

  // The character at position_, whole.
  std::string_view TakeCharacter() {
    const std::string_view c = pattern_.substr(position_, Utf8Length(Peek()));
    position_ += c.size();
    return c;
  }

  absl::Status Next() {
    switch (Peek()) {
      case '\\': {
        atom_ = out_.size();
        return Escape();
      }
      case '[': {
        atom_ = out_.size();
        MOED_ASSIGN_OR_RETURN(const std::string set, Class(0));
        out_ += set;
        return absl::OkStatus();
      }
      case '(':
        return OpenGroup();
      case ')':
        return CloseGroup();
      case '{':
        return Interval();
      case '*':
      case '+':
      case '?':
      case '|':
      case '^':
      case '$':
        out_ += pattern_[position_++];
        return absl::OkStatus();
      default:
        atom_ = out_.size();
        out_ += TakeCharacter();
        return absl::OkStatus();
    }
  }

  absl::Status OpenGroup() {
    if (pattern_.substr(position_, 2) == "(*") return Unsupported("'(*'");
    if (Consume("(?#")) {
      while (!AtEnd() && Peek() != ')') ++position_;
      if (!Consume(")")) return Malformed("a comment is not closed");
      return absl::OkStatus();
    }
    groups_.push_back({out_.size(), 0});
    for (const std::string_view head : {"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!"}) {
      if (Consume(head)) {
        out_ += head;
        return absl::OkStatus();
      }
    }
    if (Consume("(?<")) {  // a named group
      out_ += "(?<";
      return absl::OkStatus();
    }
    if (Consume("(?")) return Options();
    position_ += 1;
    out_ += '(';
    return absl::OkStatus();
  }

  // After "(?": i, m, x, and "-"; Ruby's m is what others call s. An isolated (?i) holds to the end of its group, over
  // the "|" that follow.
  absl::Status Options() {
    std::string options;
    while (!AtEnd() && Peek() != ':' && Peek() != ')') {
      const char c = pattern_[position_];
      if (c != 'i' && c != 'm' && c != 'x' && c != '-') return Unsupported(fmt::format("'(?{}'", c));
      options += c == 'm' ? 's' : c;
      ++position_;
    }
    out_ += "(?" + options + ":";
    if (Consume(")")) {
      groups_.pop_back();
      ++groups_.back().extra_closes;
      return absl::OkStatus();
    }
    return Consume(":") ? absl::OkStatus() : Malformed("an option group is not closed");
  }

  absl::Status CloseGroup() {
    if (groups_.size() == 1) return Malformed("')' without '('");
    out_.append(groups_.back().extra_closes + 1, ')');
    atom_ = groups_.back().begin;
    groups_.pop_back();
    ++position_;
    return absl::OkStatus();
  }

  // {n}, {n,}, {n,m}, {,m}. In Ruby's syntax a "+" behind it repeats the whole instead of making it possessive.
  absl::Status Interval() {
    size_t end = position_ + 1;
    std::string low, high;
    const auto number = [&](std::string* digits) {
      while (end < pattern_.size() && std::isdigit(static_cast<unsigned char>(pattern_[end])) != 0) {
        *digits += pattern_[end++];
      }
    };
    number(&low);
    const bool comma = end < pattern_.size() && pattern_[end] == ',';
    if (comma) {
      ++end;
      number(&high);
    }
    const bool interval = end < pattern_.size() && pattern_[end] == '}' && (!low.empty() || !high.empty());
    if (!interval) {  // a brace that is meant
      atom_ = out_.size();
      out_ += "\\{";
      ++position_;
      return absl::OkStatus();
    }
    position_ = end + 1;
    out_ += fmt::format("{{{}{}{}}}", low.empty() ? "0" : low, comma ? "," : "", high);
    if (Peek() == '+') {
      out_.insert(atom_, "(?:");
      out_ += ')';
    }
    return absl::OkStatus();
  }

  // An escape outside of a class.
  absl::Status Escape() {
    const auto set = [&](std::string_view items, bool negated) {
      out_ += fmt::format("[{}{}]", negated ? "^" : "", items);
      position_ += 2;
      return absl::OkStatus();
    };
    const std::string word = fmt::format("{}{}", kWord, kLatin1Numbers);
    const auto border = [&](bool negated) {
      out_ += negated ? fmt::format("(?:(?<=[{0}])(?=[{0}])|(?<![{0}])(?![{0}]))", word)
                      : fmt::format("(?:(?<=[{0}])(?![{0}])|(?<![{0}])(?=[{0}]))", word);
      position_ += 2;
      return absl::OkStatus();
    };
    const auto verbatim = [&](size_t length) {
      out_ += pattern_.substr(position_, length);
      position_ += length;
      return absl::OkStatus();
    };
    const char c = Peek(1);
    switch (c) {
      case 's':
      case 'S':
        return set(kSpace, c == 'S');
      case 'w':
      case 'W':
        return set(word, c == 'W');
      case 'h':
      case 'H':
        return set(kHexDigit, c == 'H');
      case 'b':
      case 'B':
        return border(c == 'B');
      case 'A':
      case 'z':
      case 'Z':
      case 'G':
      case 'K':
      case 'R':
      case 'X':
      case 'k':
      case 'g':
        return verbatim(2);
      default:
        if (c >= '1' && c <= '9') return verbatim(2);
        return CommonEscape(&out_);
    }
  }

  // What means the same inside of a class and outside: characters, \d, \p.
  absl::Status CommonEscape(std::string* out) {
    const char c = Peek(1);
    if (c == '\0') return Malformed("it ends in a backslash");
    switch (c) {
      case 'd':
      case 'D':
      case 't':
      case 'n':
      case 'r':
      case 'f':
      case 'a':
      case 'e':
        *out += pattern_.substr(position_, 2);
        position_ += 2;
        return absl::OkStatus();
      case 'v':
        *out += "\\x0B";
        position_ += 2;
        return absl::OkStatus();
      case 'p':
      case 'P':
        return Property(out);
      case 'x':
      case 'u':
        return CodePoint(out);
      case '0':
        *out += "\\x00";
        position_ += 2;
        return absl::OkStatus();
      default:
        break;
    }
    if (std::isalnum(static_cast<unsigned char>(c)) != 0) return Unsupported(fmt::format("'\\{}'", c));
    ++position_;
    const std::string_view character = TakeCharacter();
    if (character.size() == 1 && c != ' ') *out += '\\';
    *out += character;
    return absl::OkStatus();
  }

  absl::Status Property(std::string* out) {
    const size_t close = pattern_.find('}', position_);
    if (Peek(2) != '{' || close == std::string_view::npos) return Malformed("\\p needs a name in braces");
    std::string_view name = pattern_.substr(position_ + 3, close - position_ - 3);
    bool negated = Peek(1) == 'P';
    if (!name.empty() && name[0] == '^') {
      negated = !negated;
      name.remove_prefix(1);
    }
    *out += fmt::format("\\{}{{{}{}}}", negated ? 'P' : 'p', IsScript(name) ? "sc:" : "", ShortCategory(name));
    position_ = close + 1;
    return absl::OkStatus();
  }

  // \xHH, \x{H…}, \uHHHH
  absl::Status CodePoint(std::string* out) {
    const bool braces = Peek(1) == 'x' && Peek(2) == '{';
    const size_t wanted = braces ? 8 : Peek(1) == 'u' ? 4 : 2;
    position_ += braces ? 3 : 2;
    std::string digits;
    while (digits.size() < wanted && std::isxdigit(static_cast<unsigned char>(Peek())) != 0) {
      digits += pattern_[position_++];
    }
    if (digits.empty() || (braces && !Consume("}"))) return Malformed("hexadecimal digits are missing");
    *out += "\\x{" + digits + "}";
    return absl::OkStatus();
  }

  // One operand of a class's intersections.
  struct Operand {
    std::string items;                // for between brackets
    std::vector<std::string> others;  // expressions of one character each, united with the items

    std::string Expression() const {
      if (others.empty()) return "[" + items + "]";
      std::string alternatives = items.empty() ? "" : "[" + items + "]";
      for (const std::string& other : others) {
        if (!alternatives.empty()) alternatives += '|';
        alternatives += other;
      }
      return "(?:" + alternatives + ")";
    }
  };

  // A class, from its "[" to its "]": an expression of one character.
  absl::StatusOr<std::string> Class(int depth) {
    if (depth > kMaxClassDepth) return Malformed("classes are nested too deeply");
    ++position_;
    const bool negated = Consume("^");
    std::vector<Operand> operands(1);
    for (bool first = true; Peek() != ']' || first; first = false) {
      if (AtEnd()) return Malformed("a class is not closed");
      if (Consume("&&")) {
        operands.emplace_back();
      } else {
        MOED_RETURN_IF_ERROR(ClassItem(depth, &operands.back()));
      }
    }
    ++position_;
    for (const Operand& operand : operands) {
      if (operand.items.empty() && operand.others.empty()) return Malformed("a class is empty");
    }
    if (operands.size() == 1 && operands[0].others.empty()) {
      return fmt::format("[{}{}]", negated ? "^" : "", operands[0].items);
    }
    std::string set = "(?:";
    for (size_t i = 1; i < operands.size(); ++i) set += "(?=" + operands[i].Expression() + ")";
    set += operands[0].Expression() + ")";
    return negated ? "(?:(?!" + set + ")(?s:.))" : set;
  }

  absl::Status ClassItem(int depth, Operand* operand) {
    const auto items = [&](std::string_view text) {
      operand->items += text;
      position_ += 2;
      return absl::OkStatus();
    };
    const auto complement = [&](std::string_view text) {
      operand->others.push_back(fmt::format("[^{}]", text));
      position_ += 2;
      return absl::OkStatus();
    };
    if (Peek() == '[') {
      if (Peek(1) == ':') return PosixBracket(operand);
      MOED_ASSIGN_OR_RETURN(std::string nested, Class(depth + 1));
      operand->others.push_back(std::move(nested));
      return absl::OkStatus();
    }
    if (Peek() == '\\') {
      switch (Peek(1)) {
        case 's':
          return items(kSpace);
        case 'S':
          return items(kNotSpace);
        case 'w':
          return items(kWord);
        case 'W':
          return complement(kWord);
        case 'h':
          return items(kHexDigit);
        case 'H':
          return complement(kHexDigit);
        case 'b':
          return items("\\x08");
        default:
          return CommonEscape(&operand->items);
      }
    }
    if (Peek() == ']' || Peek() == '^') operand->items += '\\';
    operand->items += TakeCharacter();
    return absl::OkStatus();
  }

  // [:name:] or [:^name:], inside of a class.
  absl::Status PosixBracket(Operand* operand) {
    const size_t close = pattern_.find(":]", position_);
    if (close == std::string_view::npos) return Malformed("'[:' without ':]'");
    std::string_view name = pattern_.substr(position_ + 2, close - position_ - 2);
    const bool negated = !name.empty() && name[0] == '^';
    if (negated) name.remove_prefix(1);
    const std::string_view items = PosixItems(name);
    if (items.empty()) return Unsupported(fmt::format("'[:{}:]'", name));
    position_ = close + 2;
    if (negated) {
      operand->others.push_back(fmt::format("[^{}]", items));
    } else {
      operand->items += items;
    }
    return absl::OkStatus();
  }

  std::string_view pattern_;
  size_t position_ = 0;
  std::string out_;
  size_t atom_ = 0;  // where in out_ the last atom begins, for Interval()
  std::vector<Group> groups_;
};

}  // namespace

absl::StatusOr<std::string> TranslateToPcre2(std::string_view pattern) {
  if (FindInvalidUtf8(pattern) != std::string_view::npos) {
    return InvalidArgument("a regular expression is not valid UTF-8");
  }
  return Translator(pattern).Run();
}

}  // namespace moed
