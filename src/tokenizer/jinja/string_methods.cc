#include "tokenizer/jinja/string_methods.h"

#include <algorithm>
#include <map>

#include "tokenizer/jinja/builtins.h"
#include "tokenizer/jinja/evaluator.h"
#include "tokenizer/jinja/format.h"
#include "tokenizer/jinja/operators.h"
#include "tokenizer/jinja/text.h"
#include "tokenizer/jinja/unicode.h"

namespace moed::jinja {
namespace {

// A string result that is markup where `self` is.
Value Like(const Value& self, std::string text, Evaluator& evaluator) {
  return MakeString(std::move(text), evaluator.budget(), self.string_object().markup);
}

Value ListLike(const Value& self, std::vector<std::string> parts, Evaluator& evaluator) {
  std::vector<Value> values;
  values.reserve(parts.size());
  for (std::string& part : parts) values.push_back(Like(self, std::move(part), evaluator));
  return MakeList(std::move(values), evaluator.budget());
}

// ---- Case ----

template <std::string (*kMap)(std::string_view)>
Value MapText(Evaluator& evaluator, const Value& self, Arguments& arguments) {
  const Parameters none("method", {}, arguments);
  evaluator.budget().AllocateRepeated(4, self.AsString().size());
  return Like(self, kMap(self.AsString()), evaluator);
}

// ---- Strip ----

template <bool kLeft, bool kRight>
Value StripMethod(Evaluator& evaluator, const Value& self, Arguments& arguments) {
  const Parameters parameters("strip", {"chars"}, arguments);
  std::optional<std::string> chars;
  if (parameters.Given(0)) chars = parameters.String(0);
  // Each character is looked for among the unwanted ones.
  evaluator.budget().Search(self.AsString().size(), chars.has_value() ? chars->size() : 0);
  return Like(self, std::string(Strip(self.AsString(), chars, kLeft, kRight)), evaluator);
}

// ---- Split and join ----

// Room for one more piece of a text. Charged piece by piece, since a small text may have very many.
void ChargePiece(Budget& budget) { budget.Allocate(sizeof(std::string)); }

std::vector<std::string> SplitSpace(std::string_view text, int64_t limit, Budget& budget) {
  std::vector<std::string> parts;
  text = StripLeft(text);
  while (!text.empty()) {
    ChargePiece(budget);
    if (limit >= 0 && static_cast<int64_t>(parts.size()) == limit) {
      parts.emplace_back(text);
      break;
    }
    size_t end = 0;
    while (end < text.size()) {
      size_t next = end;
      if (IsSpace(NextCodePoint(text, &next))) break;
      end = next;
    }
    parts.emplace_back(text.substr(0, end));
    text = StripLeft(text.substr(end));
  }
  return parts;
}

std::vector<std::string> SplitSpaceFromRight(std::string_view text, int64_t limit, Budget& budget) {
  std::vector<std::string> parts;
  text = StripRight(text);
  while (!text.empty()) {
    ChargePiece(budget);
    if (limit >= 0 && static_cast<int64_t>(parts.size()) == limit) {
      parts.emplace_back(text);
      break;
    }
    size_t begin = text.size();
    while (begin > 0) {
      size_t previous = begin;
      if (IsSpace(PreviousCodePoint(text, &previous))) break;
      begin = previous;
    }
    parts.emplace_back(text.substr(begin));
    text = StripRight(text.substr(0, begin));
  }
  std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<std::string> SplitAt(std::string_view text, std::string_view separator, int64_t limit, Budget& budget) {
  std::vector<std::string> parts;
  while (limit < 0 || static_cast<int64_t>(parts.size()) < limit) {
    const size_t found = text.find(separator);
    if (found == std::string_view::npos) break;
    ChargePiece(budget);
    parts.emplace_back(text.substr(0, found));
    text = text.substr(found + separator.size());
  }
  parts.emplace_back(text);
  return parts;
}

std::vector<std::string> SplitAtFromRight(std::string_view text, std::string_view separator, int64_t limit,
                                          Budget& budget) {
  std::vector<std::string> parts;
  while (limit < 0 || static_cast<int64_t>(parts.size()) < limit) {
    const size_t found = text.size() < separator.size() ? std::string_view::npos : text.rfind(separator);
    if (found == std::string_view::npos) break;
    ChargePiece(budget);
    parts.emplace_back(text.substr(found + separator.size()));
    text = text.substr(0, found);
  }
  parts.emplace_back(text);
  std::reverse(parts.begin(), parts.end());
  return parts;
}

template <bool kFromRight>
Value Split(Evaluator& evaluator, const Value& self, Arguments& arguments) {
  const Parameters parameters("split", {"sep", "maxsplit"}, arguments);
  const int64_t limit = parameters.Int(1, -1);
  const std::string& text = self.AsString();
  Budget& budget = evaluator.budget();
  if (!parameters.Given(0)) {
    budget.Scan(text.size());
    return ListLike(self, kFromRight ? SplitSpaceFromRight(text, limit, budget) : SplitSpace(text, limit, budget),
                    evaluator);
  }
  const std::string& separator = parameters.String(0);
  if (separator.empty()) Fail("empty separator");
  budget.Search(text.size(), separator.size());
  auto parts = kFromRight ? SplitAtFromRight(text, separator, limit, budget) : SplitAt(text, separator, limit, budget);
  return ListLike(self, std::move(parts), evaluator);
}

Value SplitLinesMethod(Evaluator& evaluator, const Value& self, Arguments& arguments) {
  const Parameters parameters("splitlines", {"keepends"}, arguments);
  return ListLike(self, SplitLines(self.AsString(), parameters.Truth(0, false), evaluator.budget()), evaluator);
}

template <bool kFromRight>
Value Partition(Evaluator& evaluator, const Value& self, Arguments& arguments) {
  const Parameters parameters("partition", {"sep"}, arguments, 1);
  const std::string& text = self.AsString();
  const std::string& separator = parameters.String(0);
  if (separator.empty()) Fail("empty separator");
  evaluator.budget().Search(text.size(), separator.size());
  const size_t found = kFromRight ? text.rfind(separator) : text.find(separator);
  std::vector<Value> parts;
  if (found == std::string::npos) {
    parts = {Like(self, kFromRight ? "" : text, evaluator), Like(self, "", evaluator),
             Like(self, kFromRight ? text : "", evaluator)};
  } else {
    parts = {Like(self, text.substr(0, found), evaluator), Like(self, separator, evaluator),
             Like(self, text.substr(found + separator.size()), evaluator)};
  }
  return MakeTuple(std::move(parts), evaluator.budget());
}

Value Join(Evaluator& evaluator, const Value& self, Arguments& arguments) {
  const Parameters parameters("join", {"iterable"}, arguments, 1);
  if (!IsIterable(parameters[0])) Fail("can only join an iterable");
  std::string text;
  size_t index = 0;
  for (const Value& item : Iterate(parameters[0], evaluator.budget())) {
    if (!item.IsString()) Fail("sequence item {}: expected str instance, {} found", index, TypeName(item));
    if (index++ > 0) AppendStr(&text, self, evaluator.budget());
    AppendStr(&text, item, evaluator.budget());
  }
  return Like(self, std::move(text), evaluator);
}

// ---- Search ----

// The bytes of text[start:end], and the code points before them.
struct Window {
  std::string_view text;
  size_t offset = 0;
  bool empty_range = false;  // start lies behind end, where not even "" is found
};

Window ClipTo(const Value& self, const Parameters& parameters) {
  const StringObject& string = self.string_object();
  const auto length = static_cast<int64_t>(string.length);
  auto resolve = [&](size_t index, int64_t fallback) {
    int64_t position = parameters.Given(index) ? parameters.Int(index, fallback) : fallback;
    if (position < 0) position = std::max<int64_t>(position + length, 0);
    return position;
  };
  const int64_t start = resolve(1, 0);
  const int64_t end = std::min(resolve(2, length), length);
  Window window;
  window.empty_range = start > end;
  if (window.empty_range) return window;
  const size_t begin = ByteOffset(string.text, static_cast<size_t>(start));
  const size_t bytes = ByteOffset(std::string_view(string.text).substr(begin), static_cast<size_t>(end - start));
  window.text = std::string_view(string.text).substr(begin, bytes);
  window.offset = static_cast<size_t>(start);
  return window;
}

template <bool kFromRight, bool kMustFind>
Value Find(Evaluator& evaluator, const Value& self, Arguments& arguments) {
  const Parameters parameters("find", {"sub", "start", "end"}, arguments, 1);
  const std::string& needle = parameters.String(0);
  evaluator.budget().Search(self.AsString().size(), needle.size());
  const Window window = ClipTo(self, parameters);
  const size_t found = window.empty_range ? std::string_view::npos
                       : kFromRight       ? window.text.rfind(needle)
                                          : window.text.find(needle);
  if (found == std::string_view::npos) {
    if (kMustFind) Fail("substring not found");
    return Value::Int(-1);
  }
  return Value::Int(static_cast<Integer>(window.offset) +
                    static_cast<Integer>(CountCodePoints(window.text.substr(0, found))));
}

Value Count(Evaluator& evaluator, const Value& self, Arguments& arguments) {
  const Parameters parameters("count", {"sub", "start", "end"}, arguments, 1);
  const std::string& needle = parameters.String(0);
  evaluator.budget().Search(self.AsString().size(), needle.size());
  const Window window = ClipTo(self, parameters);
  if (window.empty_range) return Value::Int(0);
  if (needle.empty()) return Value::Int(static_cast<Integer>(CountCodePoints(window.text)) + 1);
  Integer count = 0;
  for (size_t at = window.text.find(needle); at != std::string_view::npos;
       at = window.text.find(needle, at + needle.size())) {
    ++count;
  }
  return Value::Int(count);
}

template <bool kAtEnd>
Value StartsOrEndsWith(Evaluator& evaluator, const Value& self, Arguments& arguments) {
  constexpr std::string_view kName = kAtEnd ? "endswith" : "startswith";
  const Parameters parameters(kName, {"prefix", "start", "end"}, arguments, 1);
  evaluator.budget().Scan(self.AsString().size());
  const Window window = ClipTo(self, parameters);
  auto matches = [&](const Value& affix) {
    if (!affix.IsString()) {
      Fail("{} first arg must be str or a tuple of str, not {}", kName, TypeName(affix));
    }
    evaluator.budget().Step();
    evaluator.budget().Scan(affix.AsString().size());
    if (window.empty_range) return false;
    return kAtEnd ? window.text.ends_with(affix.AsString()) : window.text.starts_with(affix.AsString());
  };
  if (!parameters[0].Is(Kind::kTuple)) return Value::Bool(matches(parameters[0]));
  const std::vector<Value>& affixes = parameters[0].items();
  return Value::Bool(std::any_of(affixes.begin(), affixes.end(), matches));
}

// ---- Replace and pad ----

Value ReplaceMethod(Evaluator& evaluator, const Value& self, Arguments& arguments) {
  const Parameters parameters("replace", {"old", "new", "count"}, arguments, 2);
  return Like(
      self,
      Replace(self.AsString(), parameters.String(0), parameters.String(1), parameters.Int(2, -1), evaluator.budget()),
      evaluator);
}

template <bool kPrefix>
Value RemoveAffix(Evaluator& evaluator, const Value& self, Arguments& arguments) {
  const Parameters parameters(kPrefix ? "removeprefix" : "removesuffix", {"affix"}, arguments, 1);
  std::string_view text = self.AsString();
  const std::string& affix = parameters.String(0);
  if (kPrefix && text.starts_with(affix)) text.remove_prefix(affix.size());
  if (!kPrefix && text.ends_with(affix)) text.remove_suffix(affix.size());
  return Like(self, std::string(text), evaluator);
}

template <Justify kJustify>
Value JustifyMethod(Evaluator& evaluator, const Value& self, Arguments& arguments) {
  const Parameters parameters("center", {"width", "fillchar"}, arguments, 1);
  const std::string fill = parameters.Has(1) ? parameters.String(1) : " ";
  if (CountCodePoints(fill) != 1) Fail("The fill character must be exactly one character long");
  const StringObject& string = self.string_object();
  return Like(self, JustifyText(string.text, string.length, parameters.Int(0, 0), fill, kJustify, evaluator.budget()),
              evaluator);
}

Value ZeroFill(Evaluator& evaluator, const Value& self, Arguments& arguments) {
  const Parameters parameters("zfill", {"width"}, arguments, 1);
  const StringObject& string = self.string_object();
  const bool has_sign = string.text.starts_with('-') || string.text.starts_with('+');
  const std::string padded =
      JustifyText(std::string_view(string.text).substr(has_sign ? 1 : 0), string.length - (has_sign ? 1 : 0),
                  parameters.Int(0, 0) - (has_sign ? 1 : 0), "0", Justify::kRight, evaluator.budget());
  return Like(self, string.text.substr(0, has_sign ? 1 : 0) + padded, evaluator);
}

Value ExpandTabs(Evaluator& evaluator, const Value& self, Arguments& arguments) {
  const Parameters parameters("expandtabs", {"tabsize"}, arguments);
  const int64_t size = parameters.Int(0, 8);
  std::string text;
  int64_t column = 0;
  for (size_t position = 0; position < self.AsString().size();) {
    const char32_t c = NextCodePoint(self.AsString(), &position);
    if (c == '\t') {
      const int64_t blanks = size > 0 ? size - column % size : 0;
      evaluator.budget().AllocateRepeated(static_cast<uint64_t>(blanks), 1);
      text.append(static_cast<size_t>(blanks), ' ');
      column += blanks;
    } else {
      AppendUtf8(&text, c);
      column = c == '\n' || c == '\r' ? 0 : column + 1;
    }
  }
  return Like(self, std::move(text), evaluator);
}

// ---- Properties ----

// Every character has the property, and there is one.
template <bool (*kProperty)(char32_t)>
Value AllAre(Evaluator& evaluator, const Value& self, Arguments& arguments) {
  const Parameters none("method", {}, arguments);
  const std::string& text = self.AsString();
  evaluator.budget().Step(text.size() / 8);
  for (size_t position = 0; position < text.size();) {
    if (!kProperty(NextCodePoint(text, &position))) return Value::Bool(false);
  }
  return Value::Bool(!text.empty());
}

bool IsAlphanumeric(char32_t c) { return IsAlpha(c) || IsDecimal(c) || IsDigit(c) || IsNumeric(c); }

Value IsAsciiMethod(Evaluator& evaluator, const Value& self, Arguments& arguments) {
  const Parameters none("isascii", {}, arguments);
  evaluator.budget().Step();
  return Value::Bool(self.string_object().ascii());
}

Value IsPrintableMethod(Evaluator& evaluator, const Value& self, Arguments& arguments) {
  if (self.AsString().empty()) return Value::Bool(true);
  return AllAre<IsPrintable>(evaluator, self, arguments);
}

Value IsIdentifier(Evaluator& evaluator, const Value& self, Arguments& arguments) {
  size_t position = 0;
  const std::string& text = self.AsString();
  if (text.empty() || !IsIdentifierStart(NextCodePoint(text, &position))) return Value::Bool(false);
  return AllAre<IsIdentifierPart>(evaluator, self, arguments);
}

// There is a cased character, and none of the other cases.
template <bool (*kWanted)(char32_t), bool (*kOther)(char32_t)>
Value IsCase(Evaluator& evaluator, const Value& self, Arguments& arguments) {
  const Parameters none("method", {}, arguments);
  const std::string& text = self.AsString();
  evaluator.budget().Step(text.size() / 8);
  bool found = false;
  for (size_t position = 0; position < text.size();) {
    const char32_t c = NextCodePoint(text, &position);
    if (kOther(c) || IsTitle(c)) return Value::Bool(false);
    found |= kWanted(c);
  }
  return Value::Bool(found);
}

Value IsTitleMethod(Evaluator& evaluator, const Value& self, Arguments& arguments) {
  const Parameters none("istitle", {}, arguments);
  const std::string& text = self.AsString();
  evaluator.budget().Step(text.size() / 8);
  bool found = false;
  bool behind_cased = false;
  for (size_t position = 0; position < text.size();) {
    const char32_t c = NextCodePoint(text, &position);
    const bool begins = IsUpper(c) || IsTitle(c);
    if ((begins && behind_cased) || (IsLower(c) && !behind_cased)) return Value::Bool(false);
    behind_cased = begins || IsLower(c);
    found |= behind_cased;
  }
  return Value::Bool(found);
}

// ---- Format ----

Value FormatMethod(Evaluator& evaluator, const Value& self, Arguments& arguments) {
  return FormatBraces(evaluator, self, arguments);
}

Value FormatMap(Evaluator& evaluator, const Value& self, Arguments& arguments) {
  const Parameters parameters("format_map", {"mapping"}, arguments, 1);
  if (!parameters[0].Is(Kind::kDict)) Fail("format_map() needs a dict, not {}", TypeName(parameters[0]));
  Arguments named;
  for (const auto& [key, value] : parameters[0].dict().entries) {
    if (key.IsString()) named.keyword.emplace_back(key.AsString(), value);
  }
  return FormatBraces(evaluator, self, named);
}

Value NotImplemented(Evaluator&, const Value&, Arguments&) {
  FailUnimplemented("the string methods encode, translate and maketrans");
}

}  // namespace

std::string_view Strip(std::string_view text, const std::optional<std::string>& chars, bool left, bool right) {
  if (!chars.has_value()) {
    if (left) text = StripLeft(text);
    return right ? StripRight(text) : text;
  }
  const std::u32string unwanted = ToCodePoints(*chars);
  auto is_unwanted = [&](char32_t c) { return unwanted.find(c) != std::u32string::npos; };
  while (left && !text.empty()) {
    size_t next = 0;
    if (!is_unwanted(NextCodePoint(text, &next))) break;
    text.remove_prefix(next);
  }
  while (right && !text.empty()) {
    size_t begin = text.size();
    if (!is_unwanted(PreviousCodePoint(text, &begin))) break;
    text = text.substr(0, begin);
  }
  return text;
}

std::string Replace(std::string_view text, std::string_view old, std::string_view replacement, int64_t count,
                    Budget& budget) {
  budget.Allocate(text.size());
  budget.Search(text.size(), old.size());
  std::string result;
  int64_t done = 0;
  size_t position = 0;
  auto may_go_on = [&] { return count < 0 || done < count; };
  if (old.empty()) {
    // Between all characters, and at both ends.
    while (may_go_on()) {
      budget.Allocate(replacement.size());
      result += replacement;
      ++done;
      if (position == text.size()) return result;
      const size_t begin = position;
      NextCodePoint(text, &position);
      result += text.substr(begin, position - begin);
    }
    return result.append(text.substr(position));
  }
  while (may_go_on()) {
    const size_t found = text.find(old, position);
    if (found == std::string_view::npos) break;
    budget.Allocate(replacement.size());
    result += text.substr(position, found - position);
    result += replacement;
    position = found + old.size();
    ++done;
  }
  return result.append(text.substr(position));
}

std::vector<std::string> SplitLines(std::string_view text, bool keep_ends, Budget& budget) {
  std::vector<std::string> lines;
  size_t begin = 0;
  budget.Scan(text.size());
  for (size_t position = 0; position < text.size();) {
    const size_t end = position;
    const char32_t c = NextCodePoint(text, &position);
    if (!IsLineBreak(c)) continue;
    if (c == '\r' && position < text.size() && text[position] == '\n') ++position;
    ChargePiece(budget);
    lines.emplace_back(text.substr(begin, (keep_ends ? position : end) - begin));
    begin = position;
  }
  if (begin < text.size()) lines.emplace_back(text.substr(begin));
  return lines;
}

std::string JustifyText(std::string_view text, size_t length, int64_t width, std::string_view fill, Justify justify,
                        Budget& budget) {
  if (width <= static_cast<int64_t>(length)) return std::string(text);
  const auto missing = static_cast<uint64_t>(width) - length;
  budget.AllocateRepeated(missing, fill.size());
  // Python puts the odd blank of a centred text on the left where the width is odd.
  const uint64_t left = justify == Justify::kLeft    ? 0
                        : justify == Justify::kRight ? missing
                                                     : missing / 2 + (missing & static_cast<uint64_t>(width) & 1);
  std::string result;
  for (uint64_t i = 0; i < left; ++i) result += fill;
  result += text;
  for (uint64_t i = left; i < missing; ++i) result += fill;
  return result;
}

StringMethod FindStringMethod(std::string_view name) {
  static const std::map<std::string_view, StringMethod> kMethods = {
      {"capitalize", MapText<ToCapitalized>},
      {"casefold", MapText<CaseFold>},
      {"center", JustifyMethod<Justify::kCenter>},
      {"count", Count},
      {"encode", NotImplemented},
      {"endswith", StartsOrEndsWith<true>},
      {"expandtabs", ExpandTabs},
      {"find", Find<false, false>},
      {"format", FormatMethod},
      {"format_map", FormatMap},
      {"index", Find<false, true>},
      {"isalnum", AllAre<IsAlphanumeric>},
      {"isalpha", AllAre<IsAlpha>},
      {"isascii", IsAsciiMethod},
      {"isdecimal", AllAre<IsDecimal>},
      {"isdigit", AllAre<IsDigit>},
      {"isidentifier", IsIdentifier},
      {"islower", IsCase<IsLower, IsUpper>},
      {"isnumeric", AllAre<IsNumeric>},
      {"isprintable", IsPrintableMethod},
      {"isspace", AllAre<IsSpace>},
      {"istitle", IsTitleMethod},
      {"isupper", IsCase<IsUpper, IsLower>},
      {"join", Join},
      {"ljust", JustifyMethod<Justify::kLeft>},
      {"lower", MapText<ToLower>},
      {"lstrip", StripMethod<true, false>},
      {"maketrans", NotImplemented},
      {"partition", Partition<false>},
      {"removeprefix", RemoveAffix<true>},
      {"removesuffix", RemoveAffix<false>},
      {"replace", ReplaceMethod},
      {"rfind", Find<true, false>},
      {"rindex", Find<true, true>},
      {"rjust", JustifyMethod<Justify::kRight>},
      {"rpartition", Partition<true>},
      {"rsplit", Split<true>},
      {"rstrip", StripMethod<false, true>},
      {"split", Split<false>},
      {"splitlines", SplitLinesMethod},
      {"startswith", StartsOrEndsWith<false>},
      {"strip", StripMethod<true, true>},
      {"swapcase", MapText<SwapCase>},
      {"title", MapText<ToTitle>},
      {"translate", NotImplemented},
      {"upper", MapText<ToUpper>},
      {"zfill", ZeroFill},
  };
  const auto it = kMethods.find(name);
  return it == kMethods.end() ? nullptr : it->second;
}

}  // namespace moed::jinja
