#include "tokenizer/jinja/format.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <optional>

#include "tokenizer/jinja/evaluator.h"
#include "tokenizer/jinja/text.h"
#include "tokenizer/jinja/unicode.h"

namespace moed::jinja {
namespace {

// Beyond this a width or precision is a mistake or an attack.
constexpr int kMaxWidth = 1'000'000;
constexpr int kMaxPrecision = 400;

// Reads a number at `*position`, if one stands there.
std::optional<int> ReadNumber(std::string_view text, size_t* position) {
  std::optional<int> number;
  while (*position < text.size() && text[*position] >= '0' && text[*position] <= '9') {
    number = number.value_or(0) * 10 + (text[*position] - '0');
    if (*number > kMaxWidth) FailLimit("a format's width or precision is more than {}", kMaxWidth);
    ++*position;
  }
  return number;
}

// What stands between "%" and the letter, or what a format spec holds.
struct Layout {
  std::string fill = " ";
  char align = 0;  // '<', '>', '=', '^'; 0: as the type has it
  char sign = '-';
  bool alternate = false;
  std::optional<int> width;
  char grouping = 0;
  std::optional<int> precision;
  char type = 0;
};

std::string Pad(const Layout& layout, std::string_view prefix, const std::string& body, char default_align,
                Budget& budget) {
  const size_t length = CountCodePoints(prefix) + CountCodePoints(body);
  const auto width = static_cast<size_t>(layout.width.value_or(0));
  if (length >= width) return std::string(prefix) + body;
  const size_t missing = width - length;
  budget.AllocateRepeated(missing, layout.fill.size());
  auto filling = [&](size_t count) {
    std::string text;
    for (size_t i = 0; i < count; ++i) text += layout.fill;
    return text;
  };
  switch (layout.align == 0 ? default_align : layout.align) {
    case '<':
      return std::string(prefix) + body + filling(missing);
    case '^':
      return filling(missing / 2) + std::string(prefix) + body + filling(missing - missing / 2);
    case '=':
      return std::string(prefix) + filling(missing) + body;
    default:
      return filling(missing) + std::string(prefix) + body;
  }
}

std::string_view SignText(bool negative, char sign) {
  if (negative) return "-";
  return sign == '+' ? "+" : sign == ' ' ? " " : "";
}

void InsertGrouping(std::string* digits, char separator, size_t every) {
  size_t whole = std::min(digits->find_first_of(".e"), digits->size());
  while (whole > every) {
    whole -= every;
    digits->insert(whole, 1, separator);
  }
}

std::string PrintDouble(double value, char type, int precision, bool alternate) {
  const std::string format = std::string("%") + (alternate ? "#" : "") + ".*" + type;
  std::string text(static_cast<size_t>(precision) + 350, '\0');
  const int size = std::snprintf(text.data(), text.size(), format.c_str(), precision, value);
  text.resize(static_cast<size_t>(size));
  return text;
}

// The digits of |value| for one of the types e, f, g, %, their upper case, or 0 (a float without a type).
std::string FloatDigits(double value, const Layout& layout) {
  const double magnitude = std::abs(value);
  const char type = layout.type;
  if (!std::isfinite(value)) {
    const bool upper = type == 'E' || type == 'F' || type == 'G';
    return std::string(std::isnan(value) ? (upper ? "NAN" : "nan") : (upper ? "INF" : "inf")) +
           (type == '%' ? "%" : "");
  }
  const int precision = std::min(layout.precision.value_or(6), kMaxPrecision);
  if (type == '%') return PrintDouble(magnitude * 100, 'f', precision, layout.alternate) + "%";
  if (type != 0) return PrintDouble(magnitude, type, precision, layout.alternate);
  if (!layout.precision.has_value()) return FloatRepr(magnitude);
  std::string digits = PrintDouble(magnitude, 'g', std::max(precision, 1), layout.alternate);
  if (digits.find_first_of(".en") == std::string::npos) digits += ".0";
  return digits;
}

std::string FormatFloat(double value, const Layout& layout, Budget& budget) {
  std::string digits = FloatDigits(value, layout);
  if (layout.grouping != 0) InsertGrouping(&digits, layout.grouping, 3);
  return Pad(layout, SignText(std::signbit(value) && !std::isnan(value), layout.sign), digits, '>', budget);
}

std::string FormatInteger(Integer value, const Layout& layout, Budget& budget) {
  unsigned base = 10;
  std::string prefix(SignText(value < 0, layout.sign));
  switch (layout.type) {
    case 'b':
      base = 2;
      break;
    case 'o':
      base = 8;
      break;
    case 'x':
    case 'X':
      base = 16;
      break;
    default:
      break;
  }
  if (layout.alternate && base != 10) prefix += std::string("0") + layout.type;
  std::string digits = IntegerToString(value, base);
  if (digits[0] == '-') digits.erase(0, 1);
  if (layout.type == 'X') digits = ToUpper(digits);
  if (layout.grouping != 0) InsertGrouping(&digits, layout.grouping, base == 10 ? 3 : 4);
  return Pad(layout, prefix, digits, '>', budget);
}

std::string Truncated(std::string text, const std::optional<int>& precision) {
  if (precision.has_value()) text.resize(ByteOffset(text, static_cast<size_t>(*precision)));
  return text;
}

// ---- printf ----

class PrintfFormatter {
 public:
  PrintfFormatter(const Value& format, const Value& values, Budget& budget)
      : format_(format.AsString()), values_(values), budget_(budget) {}

  std::string Run() {
    while (position_ < format_.size()) {
      const size_t percent = std::min(format_.find('%', position_), format_.size());
      out_.append(format_, position_, percent - position_);
      position_ = percent + 1;
      if (percent < format_.size()) Conversion();
    }
    const bool all_used = !values_.Is(Kind::kTuple) ? used_ > 0 || AcceptsUnused() : used_ >= values_.items().size();
    if (!all_used) Fail("not all arguments converted during string formatting");
    return std::move(out_);
  }

 private:
  // A mapping need not be used, nor a sequence.
  bool AcceptsUnused() const {
    return by_name_ || values_.Is(Kind::kDict) || values_.Is(Kind::kList) || values_.Is(Kind::kRange) ||
           values_.IsUndefined();
  }

  char Peek() const {
    if (position_ >= format_.size()) Fail("incomplete format");
    return format_[position_];
  }

  const Value& NextValue() {
    if (!values_.Is(Kind::kTuple)) {
      if (used_++ > 0) Fail("not enough arguments for format string");
      return values_;
    }
    if (used_ >= values_.items().size()) Fail("not enough arguments for format string");
    return values_.items()[used_++];
  }

  const Value* NamedValue() {
    if (Peek() != '(') return nullptr;
    const size_t end = format_.find(')', position_);
    if (end == std::string::npos) Fail("incomplete format key");
    const std::string_view name = std::string_view(format_).substr(position_ + 1, end - position_ - 1);
    if (!values_.Is(Kind::kDict)) Fail("format requires a mapping");
    position_ = end + 1;
    by_name_ = true;
    const Value* value = values_.dict().Find(name);
    if (value == nullptr) Fail("format key '{}' is missing", name);
    return value;
  }

  std::optional<int> WidthOrStar() {
    if (Peek() != '*') return ReadNumber(format_, &position_);
    ++position_;
    const Value& value = NextValue();
    if (!value.IsInteger()) Fail("* wants int");
    const Integer number = value.AsInteger();
    if (number > kMaxWidth || number < -kMaxWidth) FailLimit("a format's width is more than {}", kMaxWidth);
    return static_cast<int>(number);
  }

  void Conversion() {
    Layout layout;
    const Value* value = NamedValue();
    bool zero = false;
    for (;; ++position_) {
      const char flag = Peek();
      if (flag == '-') {
        layout.align = '<';
      } else if (flag == '0') {
        zero = true;
      } else if (flag == '#') {
        layout.alternate = true;
      } else if (flag == '+' || (flag == ' ' && layout.sign != '+')) {
        layout.sign = flag;
      } else if (flag != ' ') {
        break;
      }
    }
    layout.width = WidthOrStar();
    if (layout.width.value_or(0) < 0) {
      layout.align = '<';
      layout.width = -*layout.width;
    }
    if (Peek() == '.') {
      ++position_;
      layout.precision = std::max(WidthOrStar().value_or(0), 0);
    }
    while (Peek() == 'l' || Peek() == 'h' || Peek() == 'L') ++position_;
    layout.type = Peek();
    ++position_;
    if (layout.type == '%') {
      out_ += '%';
      return;
    }
    Convert(value != nullptr ? *value : NextValue(), layout, zero);
  }

  void Convert(const Value& value, Layout layout, bool zero) {
    switch (layout.type) {
      case 's':
        out_ += Pad(layout, "", Truncated(Str(value, budget_), layout.precision), '>', budget_);
        return;
      case 'r':
      case 'a':
        out_ += Pad(layout, "", Truncated(Repr(value, budget_), layout.precision), '>', budget_);
        return;
      case 'c':
        out_ += Pad(layout, "", Character(value), '>', budget_);
        return;
      case 'd':
      case 'i':
      case 'u':
      case 'o':
      case 'x':
      case 'X':
        out_ += IntegerConversion(value, layout, zero);
        return;
      case 'e':
      case 'E':
      case 'f':
      case 'F':
      case 'g':
      case 'G':
        if (!value.IsNumber()) Fail("must be real number, not {}", TypeName(value));
        if (zero && layout.align == 0) {
          layout.align = '=';
          layout.fill = "0";
        }
        out_ += FormatFloat(value.AsDouble(), layout, budget_);
        return;
      default:
        Fail("unsupported format character '{}' (0x{:x})", layout.type, static_cast<unsigned char>(layout.type));
    }
  }

  static std::string Character(const Value& value) {
    if (value.IsString() && value.string_object().length == 1) return value.AsString();
    if (!value.IsInteger()) Fail("%c requires int or char");
    const Integer code = value.AsInteger();
    if (code < 0 || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) Fail("%c arg not in range(0x110000)");
    std::string character;
    AppendUtf8(&character, static_cast<char32_t>(code));
    return character;
  }

  std::string IntegerConversion(const Value& value, const Layout& layout, bool zero) {
    const bool decimal = layout.type == 'd' || layout.type == 'i' || layout.type == 'u';
    if (!value.IsInteger() && !(decimal && value.IsNumber())) {
      Fail("%{} format: {} is required, not {}", layout.type, decimal ? "a real number" : "an integer",
           TypeName(value));
    }
    Integer number = 0;
    if (value.IsInteger()) {
      number = value.AsInteger();
    } else {
      const double real = value.AsDouble();
      if (!std::isfinite(real) || std::abs(real) > 1e37) Fail("cannot convert float {} to integer", FloatRepr(real));
      number = static_cast<Integer>(real);
    }
    const unsigned base = decimal ? 10 : layout.type == 'o' ? 8 : 16;
    std::string digits = IntegerToString(number < 0 ? -number : number, base);
    if (layout.type == 'X') digits = ToUpper(digits);
    const auto wanted = static_cast<size_t>(layout.precision.value_or(0));
    if (digits.size() < wanted) {
      budget_.Allocate(wanted);
      digits.insert(0, wanted - digits.size(), '0');
    }
    std::string prefix(SignText(number < 0, layout.sign));
    if (layout.alternate && !decimal) prefix += std::string("0") + layout.type;
    Layout padded = layout;
    if (zero && layout.align == 0) {
      padded.align = '=';
      padded.fill = "0";
    }
    return Pad(padded, prefix, digits, '>', budget_);
  }

  const std::string& format_;
  const Value& values_;
  Budget& budget_;
  size_t position_ = 0;
  size_t used_ = 0;
  bool by_name_ = false;
  std::string out_;
};

// ---- str.format ----

bool IsAlign(char c) { return c == '<' || c == '>' || c == '=' || c == '^'; }

Layout ParseSpec(std::string_view spec) {
  Layout layout;
  size_t position = 0;
  size_t behind_first = 0;
  if (!spec.empty()) NextCodePoint(spec, &behind_first);
  if (behind_first < spec.size() && IsAlign(spec[behind_first])) {
    layout.fill = spec.substr(0, behind_first);
    layout.align = spec[behind_first];
    position = behind_first + 1;
  } else if (!spec.empty() && IsAlign(spec[0])) {
    layout.align = spec[0];
    position = 1;
  }
  auto next_is = [&](std::string_view any_of) {
    return position < spec.size() && any_of.find(spec[position]) != std::string_view::npos;
  };
  if (next_is("+- ")) layout.sign = spec[position++];
  if (next_is("#")) {
    layout.alternate = true;
    ++position;
  }
  if (next_is("0")) {
    if (layout.align == 0) {
      layout.align = '=';
      layout.fill = "0";
    }
    ++position;
  }
  layout.width = ReadNumber(spec, &position);
  if (next_is(",_")) layout.grouping = spec[position++];
  if (next_is(".")) {
    ++position;
    layout.precision = ReadNumber(spec, &position);
    if (!layout.precision.has_value()) Fail("Format specifier missing precision");
  }
  if (position < spec.size()) layout.type = spec[position++];
  if (position < spec.size()) Fail("Invalid format specifier '{}'", spec);
  return layout;
}

class BraceFormatter {
 public:
  BraceFormatter(Evaluator& evaluator, const Arguments& arguments) : evaluator_(evaluator), arguments_(arguments) {}

  std::string Run(std::string_view format, int depth = 2) {
    if (depth < 0) Fail("Max string recursion exceeded");
    std::string out;
    size_t position = 0;
    while (position < format.size()) {
      const char c = format[position++];
      if (c != '{' && c != '}') {
        out += c;
      } else if (position < format.size() && format[position] == c) {
        out += c;
        ++position;
      } else if (c == '}') {
        Fail("Single '}}' encountered in format string");
      } else {
        const size_t end = FieldEnd(format, position);
        out += Field(format.substr(position, end - position), depth);
        position = end + 1;
      }
    }
    return out;
  }

 private:
  static size_t FieldEnd(std::string_view format, size_t begin) {
    int open = 1;
    for (size_t i = begin; i < format.size(); ++i) {
      if (format[i] == '{') ++open;
      if (format[i] == '}' && --open == 0) return i;
    }
    Fail("expected '}}' before end of string");
  }

  std::string Field(std::string_view field, int depth) {
    const size_t name_end = std::min(field.find_first_of("!:"), field.size());
    std::string_view rest = field.substr(name_end);
    Value value = Lookup(field.substr(0, name_end));
    if (rest.starts_with('!')) {
      if (rest.size() < 2 || (rest[1] != 's' && rest[1] != 'r' && rest[1] != 'a')) {
        Fail("Unknown conversion specifier in '{}'", field);
      }
      value = MakeString(rest[1] == 's' ? Str(value, budget()) : Repr(value, budget()), budget());
      rest = rest.substr(2);
    }
    if (!rest.empty() && rest[0] != ':') Fail("expected ':' after conversion specifier");
    const std::string spec = rest.empty() ? "" : Run(rest.substr(1), depth - 1);
    return FormatWithSpec(value, spec, budget());
  }

  // "0.name[key]": an argument, then attributes and items of it.
  Value Lookup(std::string_view name) {
    const size_t first_end = std::min(name.find_first_of(".["), name.size());
    Value value = Argument(name.substr(0, first_end));
    size_t position = first_end;
    while (position < name.size()) {
      if (name[position] == '.') {
        const size_t end = std::min(name.find_first_of(".[", position + 1), name.size());
        value = evaluator_.GetAttribute(value, name.substr(position + 1, end - position - 1));
        position = end;
      } else if (name[position] == '[') {
        const size_t end = name.find(']', position);
        if (end == std::string_view::npos) Fail("Missing ']' in format string");
        value = evaluator_.GetItem(value, Key(name.substr(position + 1, end - position - 1)));
        position = end + 1;
      } else {
        Fail("Only '.' or '[' may follow ']' in format field specifier");
      }
    }
    return value;
  }

  static Value Key(std::string_view text) {
    size_t position = 0;
    const std::optional<int> number = ReadNumber(text, &position);
    if (number.has_value() && position == text.size()) return Value::Int(*number);
    return Value::String(std::string(text));
  }

  Value Argument(std::string_view name) {
    size_t position = 0;
    std::optional<int> index = ReadNumber(name, &position);
    if (name.empty()) index = next_++;
    if (index.has_value() && position == name.size()) {
      const auto at = static_cast<size_t>(*index);
      if (at < arguments_.positional.size()) return arguments_.positional[at];
      Fail("Replacement index {} out of range for positional args tuple", at);
    }
    for (const auto& [key, value] : arguments_.keyword) {
      if (key == name) return value;
    }
    Fail("'{}' is not an argument of format()", name);
  }

  Budget& budget() { return evaluator_.budget(); }

  Evaluator& evaluator_;
  const Arguments& arguments_;
  int next_ = 0;
};

}  // namespace

std::string FormatWithSpec(const Value& value, std::string_view spec, Budget& budget) {
  if (spec.empty()) return Str(value, budget);
  const Layout layout = ParseSpec(spec);
  static constexpr std::string_view kFloatTypes = "eEfFgG%";
  const bool as_float = layout.type != 0 && kFloatTypes.find(layout.type) != std::string_view::npos;
  if (value.IsString()) {
    if ((layout.type != 0 && layout.type != 's') || layout.align == '=') {
      if (layout.fill != "0") Fail("Unknown format code '{}' for object of type 'str'", layout.type);
    }
    Layout text = layout;
    if (text.align == '=') text.align = '<';
    return Pad(text, "", Truncated(value.AsString(), layout.precision), '<', budget);
  }
  if (value.Is(Kind::kFloat) || (value.IsInteger() && as_float)) {
    if (layout.type != 0 && !as_float) Fail("Unknown format code '{}' for object of type 'float'", layout.type);
    return FormatFloat(value.AsDouble(), layout, budget);
  }
  if (value.IsInteger()) {
    static constexpr std::string_view kIntegerTypes = "bdoxXn";
    if (layout.type != 0 && kIntegerTypes.find(layout.type) == std::string_view::npos) {
      Fail("Unknown format code '{}' for object of type '{}'", layout.type, TypeName(value));
    }
    if (layout.precision.has_value()) Fail("Precision not allowed in integer format specifier");
    return FormatInteger(value.AsInteger(), layout, budget);
  }
  Fail("unsupported format string passed to {}.__format__", TypeName(value));
}

Value FormatPrintf(const Value& format, const Value& values, Budget& budget) {
  budget.Allocate(format.AsString().size());
  std::string text = PrintfFormatter(format, values, budget).Run();
  return MakeString(std::move(text), budget, format.string_object().markup);
}

Value FormatBraces(Evaluator& evaluator, const Value& format, const Arguments& arguments) {
  evaluator.budget().Allocate(format.AsString().size());
  return MakeString(BraceFormatter(evaluator, arguments).Run(format.AsString()), evaluator.budget());
}

}  // namespace moed::jinja
