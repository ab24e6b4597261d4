#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>

#include "tokenizer/jinja/evaluator.h"
#include "tokenizer/jinja/filters.h"
#include "tokenizer/jinja/format.h"
#include "tokenizer/jinja/operators.h"
#include "tokenizer/jinja/string_methods.h"
#include "tokenizer/jinja/text.h"
#include "tokenizer/jinja/unicode.h"

namespace moed::jinja {
namespace {

bool IsMarkup(const Value& value) { return value.IsString() && value.string_object().markup; }

// str(input), which stays markup where it is.
Value SoftString(const Value& input, Evaluator& evaluator) {
  return input.IsString() ? input : MakeString(Str(input, evaluator.budget()), evaluator.budget());
}

Value Upper(Evaluator& evaluator, const Value& input, Arguments& arguments) {
  return FindStringMethod("upper")(evaluator, SoftString(input, evaluator), arguments);
}

Value Lower(Evaluator& evaluator, const Value& input, Arguments& arguments) {
  return FindStringMethod("lower")(evaluator, SoftString(input, evaluator), arguments);
}

Value Capitalize(Evaluator& evaluator, const Value& input, Arguments& arguments) {
  return FindStringMethod("capitalize")(evaluator, SoftString(input, evaluator), arguments);
}

Value Trim(Evaluator& evaluator, const Value& input, Arguments& arguments) {
  return FindStringMethod("strip")(evaluator, SoftString(input, evaluator), arguments);
}

// Jinja's own title case: words also begin behind hyphens and opening brackets, and nowhere else.
Value Title(Evaluator& evaluator, const Value& input, Arguments& arguments) {
  const Parameters none("title", {}, arguments);
  const Value text = SoftString(input, evaluator);
  evaluator.budget().Step(text.AsString().size() / 8);
  auto separates = [](char32_t c) { return IsSpace(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<'; };
  std::string result;
  const std::string& source = text.AsString();
  for (size_t position = 0; position < source.size();) {
    size_t end = position;
    const char32_t first = NextCodePoint(source, &end);
    const bool separator = separates(first);
    size_t behind_first = end;
    for (size_t next = end; next < source.size(); end = next) {
      if (separates(NextCodePoint(source, &next)) != separator) break;
      end = next;
    }
    result += ToUpper(std::string_view(source).substr(position, behind_first - position));
    result += ToLower(std::string_view(source).substr(behind_first, end - behind_first));
    position = end;
  }
  return MakeString(std::move(result), evaluator.budget());
}

Value String(Evaluator& evaluator, const Value& input, Arguments& arguments) {
  const Parameters none("string", {}, arguments);
  return SoftString(input, evaluator);
}

Value Safe(Evaluator& evaluator, const Value& input, Arguments& arguments) {
  const Parameters none("safe", {}, arguments);
  return MakeString(Str(input, evaluator.budget()), evaluator.budget(), true);
}

Value Escape(Evaluator& evaluator, const Value& input, Arguments& arguments) {
  const Parameters none("escape", {}, arguments);
  if (IsMarkup(input)) return input;
  return MakeString(EscapeUnlessMarkup(input, evaluator.budget()), evaluator.budget(), true);
}

Value ForceEscape(Evaluator& evaluator, const Value& input, Arguments& arguments) {
  const Parameters none("forceescape", {}, arguments);
  return MakeString(EscapeHtml(Str(input, evaluator.budget())), evaluator.budget(), true);
}

Value Replace(Evaluator& evaluator, const Value& input, Arguments& arguments) {
  const Parameters parameters("replace", {"old", "new", "count"}, arguments, 2);
  Budget& budget = evaluator.budget();
  const int64_t count = parameters.Given(2) ? parameters.Int(2, -1) : -1;
  return MakeString(Replace(Str(input, budget), Str(parameters[0], budget), Str(parameters[1], budget), count, budget),
                    budget);
}

Value Indent(Evaluator& evaluator, const Value& input, Arguments& arguments) {
  const Parameters parameters("indent", {"width", "first", "blank"}, arguments);
  if (!input.IsString()) Fail("indent: the input must be a string, not '{}'", TypeName(input));
  Budget& budget = evaluator.budget();
  std::string indention;
  if (parameters.Has(0) && parameters[0].IsString()) {
    indention = parameters[0].AsString();
  } else {
    const int64_t width = std::max<int64_t>(parameters.Int(0, 4), 0);
    budget.Allocate(static_cast<size_t>(width));
    indention.assign(static_cast<size_t>(width), ' ');
  }
  const bool blank = parameters.Truth(2, false);
  std::string result;
  bool first_line = true;
  for (const std::string& line : SplitLines(input.AsString() + "\n", false, budget)) {
    const bool indented = first_line ? parameters.Truth(1, false) : blank || !line.empty();
    if (!first_line) result += '\n';
    if (indented) {
      budget.Allocate(indention.size());
      result += indention;
    }
    result += line;
    first_line = false;
  }
  return MakeString(std::move(result), budget, IsMarkup(input));
}

Value Center(Evaluator& evaluator, const Value& input, Arguments& arguments) {
  const Parameters parameters("center", {"width"}, arguments);
  const Value text = SoftString(input, evaluator);
  return MakeString(JustifyText(text.AsString(), text.string_object().length, parameters.Int(0, 80), " ",
                                Justify::kCenter, evaluator.budget()),
                    evaluator.budget(), IsMarkup(text));
}

Value Truncate(Evaluator& evaluator, const Value& input, Arguments& arguments) {
  const Parameters parameters("truncate", {"length", "killwords", "end", "leeway"}, arguments);
  const int64_t length = parameters.Int(0, 255);
  const std::string end = parameters.Has(2) ? parameters.String(2) : "...";
  const int64_t leeway = parameters.Given(3) ? parameters.Int(3, 5) : 5;
  const auto end_length = static_cast<int64_t>(CountCodePoints(end));
  if (length < end_length) Fail("expected length >= {}, got {}", end_length, length);
  if (leeway < 0) Fail("expected leeway >= 0, got {}", leeway);
  if (static_cast<int64_t>(Length(input)) - leeway <= length) return input;
  if (!input.IsString()) Fail("truncate: the input must be a string, not '{}'", TypeName(input));
  const StringObject& string = input.string_object();
  std::string kept = string.text.substr(0, ByteOffset(string.text, static_cast<size_t>(length - end_length)));
  if (!parameters.Truth(1, false)) {
    const size_t space = kept.rfind(' ');
    if (space != std::string::npos) kept.resize(space);
  }
  return MakeString(kept + end, evaluator.budget());
}

Value WordCount(Evaluator& evaluator, const Value& input, Arguments& arguments) {
  const Parameters none("wordcount", {}, arguments);
  const Value text = SoftString(input, evaluator);
  evaluator.budget().Step(text.AsString().size() / 8);
  Integer words = 0;
  bool inside = false;
  for (size_t position = 0; position < text.AsString().size();) {
    const char32_t c = NextCodePoint(text.AsString(), &position);
    const bool word = c == '_' || IsAlpha(c) || IsNumeric(c);
    words += word && !inside ? 1 : 0;
    inside = word;
  }
  return Value::Int(words);
}

std::string QuoteForUrl(std::string_view text, bool query) {
  std::string quoted;
  for (char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte < 0x80 && std::isalnum(byte) != 0) || c == '-' || c == '_' || c == '.' || c == '~' ||
        (c == '/' && !query)) {
      quoted += c;
    } else if (c == ' ' && query) {
      quoted += '+';
    } else {
      quoted += fmt::format("%{:02X}", byte);
    }
  }
  return quoted;
}

Value UrlEncode(Evaluator& evaluator, const Value& input, Arguments& arguments) {
  const Parameters none("urlencode", {}, arguments);
  Budget& budget = evaluator.budget();
  if (input.IsString() || !IsIterable(input)) return MakeString(QuoteForUrl(Str(input, budget), false), budget);
  Arguments no_arguments;
  const Value pairs = input.Is(Kind::kDict) ? evaluator.CallFilter("items", input, no_arguments) : input;
  std::string query;
  for (const Value& pair : Iterate(pairs, budget)) {
    const std::vector<Value> parts = Iterate(pair, budget);
    if (parts.size() != 2) Fail("urlencode: expected pairs of key and value");
    if (!query.empty()) query += '&';
    query += QuoteForUrl(Str(parts[0], budget), true) + "=" + QuoteForUrl(Str(parts[1], budget), true);
  }
  return MakeString(std::move(query), budget);
}

Value FormatFilter(Evaluator& evaluator, const Value& input, Arguments& arguments) {
  if (!arguments.positional.empty() && !arguments.keyword.empty()) {
    Fail("can't handle positional and keyword arguments at the same time");
  }
  Budget& budget = evaluator.budget();
  const Value text = SoftString(input, evaluator);
  if (arguments.keyword.empty()) return FormatPrintf(text, MakeTuple(arguments.positional, budget), budget);
  DictBuilder named(budget);
  for (const auto& [key, value] : arguments.keyword) named.Set(key, value);
  return FormatPrintf(text, named.Finish(), budget);
}

// The tojson of chat templates: json.dumps without the HTML escapes of jinja2's own.
Value ToJson(Evaluator& evaluator, const Value& input, Arguments& arguments) {
  const Parameters parameters("tojson", {"ensure_ascii", "indent", "separators", "sort_keys"}, arguments);
  JsonStyle style;
  style.ensure_ascii = parameters.Truth(0, false);
  style.sort_keys = parameters.Truth(3, false);
  if (parameters.Given(1)) {
    style.multiline = true;
    style.item_separator = ",";
    if (parameters[1].IsString()) {
      style.indent = parameters[1].AsString();
    } else {
      const int64_t width = std::max<int64_t>(parameters.Int(1, 0), 0);
      evaluator.budget().Allocate(static_cast<size_t>(width));
      style.indent.assign(static_cast<size_t>(width), ' ');
    }
  }
  if (parameters.Given(2)) {
    const std::vector<Value> separators = Iterate(parameters[2], evaluator.budget());
    if (separators.size() != 2 || !separators[0].IsString() || !separators[1].IsString()) {
      Fail("tojson: separators must be a pair of strings");
    }
    style.item_separator = separators[0].AsString();
    style.key_separator = separators[1].AsString();
  }
  std::string text;
  AppendJson(&text, input, style, evaluator.budget());
  return MakeString(std::move(text), evaluator.budget());
}

// ---- Numbers ----

// The digits of a number in text without blanks around and single underscores between digits; nothing where that is not
// how Python writes numbers.
std::optional<std::string> NumberText(std::string_view text) {
  text = StripLeft(StripRight(text));
  std::string digits;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      digits += text[i];
      continue;
    }
    const bool between = i > 0 && i + 1 < text.size() && std::isalnum(static_cast<unsigned char>(text[i - 1])) != 0 &&
                         std::isalnum(static_cast<unsigned char>(text[i + 1])) != 0;
    if (!between) return std::nullopt;
  }
  return digits;
}

std::optional<double> ParseFloat(std::string_view text) {
  const std::optional<std::string> digits = NumberText(text);
  if (!digits.has_value() || digits->empty()) return std::nullopt;
  std::string_view rest = *digits;
  if (rest[0] == '+' || rest[0] == '-') rest.remove_prefix(1);
  const std::string word = ToLower(rest);
  const bool named = word == "inf" || word == "infinity" || word == "nan";
  // strtod would also take hexadecimal and "nan(…)".
  if (!named && rest.find_first_not_of("0123456789.eE+-") != std::string_view::npos) return std::nullopt;
  char* end = nullptr;
  const double value = std::strtod(digits->c_str(), &end);
  if (end != digits->c_str() + digits->size()) return std::nullopt;
  return value;
}

int DigitValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  c = static_cast<char>(c | 0x20);
  return c >= 'a' && c <= 'z' ? c - 'a' + 10 : 99;
}

// int(text, base).
std::optional<Integer> ParseInteger(std::string_view text, int base) {
  if (base != 0 && (base < 2 || base > 36)) return std::nullopt;
  std::string_view trimmed = StripLeft(StripRight(text));
  const bool negative = trimmed.starts_with('-');
  if (negative || trimmed.starts_with('+')) trimmed.remove_prefix(1);
  if (trimmed.size() > 1 && trimmed[0] == '0') {
    const char letter = static_cast<char>(trimmed[1] | 0x20);
    const int prefixed = letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 0;
    if (prefixed != 0 && (base == prefixed || base == 0)) {
      trimmed.remove_prefix(2);
      if (trimmed.starts_with('_')) trimmed.remove_prefix(1);
      base = prefixed;
    }
  }
  if (base == 0) base = 10;
  const std::optional<std::string> digits = NumberText(trimmed);
  if (!digits.has_value() || digits->empty() || IsSpace(static_cast<unsigned char>(trimmed[0]))) return std::nullopt;
  Integer value = 0;
  for (char c : *digits) {
    const int digit = DigitValue(c);
    if (digit >= base) return std::nullopt;
    if (__builtin_mul_overflow(value, static_cast<Integer>(base), &value) ||
        __builtin_add_overflow(value, static_cast<Integer>(digit), &value)) {
      Fail("integer overflow: whole numbers beyond 128 bits are not supported");
    }
  }
  return negative ? -value : value;
}

std::optional<Integer> Truncated(double value) {
  if (!std::isfinite(value)) return std::nullopt;
  if (std::abs(value) > 1e37) Fail("integer overflow: whole numbers beyond 128 bits are not supported");
  return static_cast<Integer>(value);
}

Value Int(Evaluator& evaluator, const Value& input, Arguments& arguments) {
  if (input.IsString()) evaluator.budget().Step(input.AsString().size());
  const Parameters parameters("int", {"default", "base"}, arguments);
  const Value fallback = parameters.Get(0, Value::Int(0));
  if (input.IsUndefined()) Fail("{}", input.undefined_message());
  if (input.IsInteger()) return Value::Int(input.AsInteger());
  std::optional<Integer> number;
  if (input.Is(Kind::kFloat)) {
    if (std::isinf(input.AsDouble())) Fail("cannot convert float infinity to integer");
    number = Truncated(input.AsDouble());
  } else if (input.IsString()) {
    number = ParseInteger(input.AsString(), static_cast<int>(parameters.Int(1, 10)));
    if (!number.has_value()) {
      const std::optional<double> real = ParseFloat(input.AsString());
      if (real.has_value()) number = Truncated(*real);
    }
  }
  return number.has_value() ? Value::Int(*number) : fallback;
}

Value Float(Evaluator& evaluator, const Value& input, Arguments& arguments) {
  if (input.IsString()) evaluator.budget().Step(input.AsString().size());
  const Parameters parameters("float", {"default"}, arguments);
  if (input.IsUndefined()) Fail("{}", input.undefined_message());
  if (input.IsNumber()) return Value::Float(input.AsDouble());
  if (input.IsString()) {
    if (const std::optional<double> value = ParseFloat(input.AsString())) return Value::Float(*value);
  }
  return parameters.Get(0, Value::Float(0));
}

Value Abs(Evaluator&, const Value& input, Arguments& arguments) {
  const Parameters none("abs", {}, arguments);
  if (input.IsUndefined()) Fail("{}", input.undefined_message());
  if (input.Is(Kind::kFloat)) return Value::Float(std::abs(input.AsDouble()));
  if (!input.IsInteger()) Fail("bad operand type for abs(): '{}'", TypeName(input));
  return input.AsInteger() < 0 ? Negate(input) : Value::Int(input.AsInteger());
}

// round(): half to even, on the exact decimal value of the double, as printf rounds.
double RoundFloat(double value, int64_t precision) {
  if (!std::isfinite(value) || precision > 320) return value;
  if (precision < -320) return std::copysign(0.0, value);
  if (precision < 0) {
    const double scale = std::pow(10.0, static_cast<double>(-precision));
    return std::nearbyint(value / scale) * scale;
  }
  return std::strtod(fmt::format("{:.{}f}", value, precision).c_str(), nullptr);
}

Integer RoundInteger(Integer value, int64_t precision) {
  if (precision >= 0) return value;
  if (precision < -37) return 0;
  Integer scale = 1;
  for (int64_t i = 0; i < -precision; ++i) scale *= 10;
  Integer rest = value % scale;
  if (rest < 0) rest += scale;
  Integer rounded = 0;
  bool overflow = __builtin_sub_overflow(value, rest, &rounded);
  const bool up = rest * 2 > scale || (rest * 2 == scale && (rounded / scale) % 2 != 0);
  if (up) overflow |= __builtin_add_overflow(rounded, scale, &rounded);
  if (overflow) Fail("integer overflow: whole numbers beyond 128 bits are not supported");
  return rounded;
}

Value Round(Evaluator&, const Value& input, Arguments& arguments) {
  const Parameters parameters("round", {"precision", "method"}, arguments);
  const int64_t precision = parameters.Int(0, 0);
  const std::string method = parameters.Has(1) ? parameters.String(1) : "common";
  if (method != "common" && method != "ceil" && method != "floor") Fail("method must be common, ceil or floor");
  if (input.IsUndefined()) Fail("{}", input.undefined_message());
  if (!input.IsNumber()) Fail("type {} doesn't define __round__ method", TypeName(input));
  if (method == "common") {
    if (input.IsInteger()) return Value::Int(RoundInteger(input.AsInteger(), precision));
    return Value::Float(RoundFloat(input.AsDouble(), precision));
  }
  const double scale = std::pow(10.0, static_cast<double>(precision));
  const double scaled = input.AsDouble() * scale;
  return Value::Float((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale);
}

Value FileSizeFormat(Evaluator& evaluator, const Value& input, Arguments& arguments) {
  const Parameters parameters("filesizeformat", {"binary"}, arguments);
  if (input.IsUndefined()) Fail("{}", input.undefined_message());
  if (!input.IsNumber() && !input.IsString()) {
    Fail("float() argument must be a string or a real number, not '{}'", TypeName(input));
  }
  const std::optional<double> size = input.IsString() ? ParseFloat(input.AsString()) : input.AsDouble();
  if (!size.has_value()) Fail("could not convert string to float: {}", Repr(input, evaluator.budget()));
  const double bytes = *size;
  const bool binary = parameters.Truth(0, false);
  const double base = binary ? 1024 : 1000;
  std::string text;
  if (bytes == 1) {
    text = "1 Byte";
  } else if (bytes < base) {
    text = fmt::format("{} Bytes", static_cast<int64_t>(bytes));
  } else {
    static constexpr std::string_view kLetters = "kMGTPEZY";
    double unit = base * base;
    size_t letter = 0;
    while (bytes >= unit && letter + 1 < kLetters.size()) {
      unit *= base;
      ++letter;
    }
    const char shown = binary && letter == 0 ? 'K' : kLetters[letter];
    text = fmt::format("{:.1f} {}{}B", base * bytes / unit, shown, binary ? "i" : "");
  }
  return MakeString(std::move(text), evaluator.budget());
}

template <const char* kName>
Value LeftOut(Evaluator&, const Value&, Arguments&) {
  FailUnimplemented("the filter '{}'", kName);
}
constexpr char kPrettyPrint[] = "pprint";
constexpr char kRandom[] = "random";
constexpr char kStripTags[] = "striptags";
constexpr char kUrlize[] = "urlize";
constexpr char kWordWrap[] = "wordwrap";
constexpr char kXmlAttributes[] = "xmlattr";

}  // namespace

const FilterTable& TextFilters() {
  static const FilterTable kTable = {
      {"abs", Abs},
      {"capitalize", Capitalize},
      {"center", Center},
      {"e", Escape},
      {"escape", Escape},
      {"filesizeformat", FileSizeFormat},
      {"float", Float},
      {"forceescape", ForceEscape},
      {"format", FormatFilter},
      {"indent", Indent},
      {"int", Int},
      {"lower", Lower},
      {"pprint", LeftOut<kPrettyPrint>},
      {"random", LeftOut<kRandom>},
      {"replace", Replace},
      {"round", Round},
      {"safe", Safe},
      {"string", String},
      {"striptags", LeftOut<kStripTags>},
      {"title", Title},
      {"tojson", ToJson},
      {"trim", Trim},
      {"truncate", Truncate},
      {"upper", Upper},
      {"urlencode", UrlEncode},
      {"urlize", LeftOut<kUrlize>},
      {"wordcount", WordCount},
      {"wordwrap", LeftOut<kWordWrap>},
      {"xmlattr", LeftOut<kXmlAttributes>},
  };
  return kTable;
}

FilterFunction FindFilter(std::string_view name) {
  for (const FilterTable* table : {&TextFilters(), &SequenceFilters()}) {
    const auto it = table->find(name);
    if (it != table->end()) return it->second;
  }
  return nullptr;
}

}  // namespace moed::jinja
