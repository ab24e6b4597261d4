#include "tokenizer/jinja/text.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "tokenizer/jinja/callable.h"
#include "tokenizer/jinja/operators.h"
#include "tokenizer/jinja/unicode.h"

namespace moed::jinja {
namespace {

void AppendReprs(std::string* out, const std::vector<Value>& items, Budget& budget) {
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) *out += ", ";
    AppendRepr(out, items[i], budget);
  }
}

void AppendDictRepr(std::string* out, const DictObject& dict, Budget& budget) {
  *out += '{';
  bool first = true;
  for (const auto& [key, value] : dict.entries) {
    if (!first) *out += ", ";
    first = false;
    AppendRepr(out, key, budget);
    *out += ": ";
    AppendRepr(out, value, budget);
  }
  *out += '}';
}

// While it lives the namespace is being printed.
class PrintingGuard {
 public:
  PrintingGuard(NamespaceObject* object, Budget& budget) : object_(object), budget_(budget) {
    for (const auto& [name, attribute] : object->attributes) levels_ = std::max(levels_, attribute.depth() + 1);
    budget_.Nest(levels_);
    object_->printing = true;
  }
  ~PrintingGuard() {
    object_->printing = false;
    budget_.Unnest(levels_);
  }
  PrintingGuard(const PrintingGuard&) = delete;
  PrintingGuard& operator=(const PrintingGuard&) = delete;

 private:
  NamespaceObject* object_;
  Budget& budget_;
  int levels_ = 1;
};

void AppendNamespaceRepr(std::string* out, const Value& value, Budget& budget) {
  const auto object = value.Shared<NamespaceObject>();
  if (object->printing) {  // it holds itself
    *out += "<Namespace {...}>";
    return;
  }
  const PrintingGuard guard(object.get(), budget);
  *out += "<Namespace {";
  bool first = true;
  for (const auto& [name, attribute] : object->attributes) {
    if (!first) *out += ", ";
    first = false;
    budget.Allocate(name.size());
    AppendStringRepr(out, name);
    *out += ": ";
    AppendRepr(out, attribute, budget);
  }
  *out += "}>";
}

void AppendViewRepr(std::string* out, const Value& view, Budget& budget) {
  *out += TypeName(view);
  *out += "([";
  AppendReprs(out, Iterate(view, budget), budget);
  *out += "])";
}

void AppendRangeRepr(std::string* out, const RangeObject& range) {
  *out += fmt::format("range({}, {}", range.start, range.stop);
  if (range.step != 1) *out += fmt::format(", {}", range.step);
  *out += ')';
}

void AppendHexEscape(std::string* out, char32_t c) {
  const auto code = static_cast<uint32_t>(c);
  if (code < 0x100) {
    *out += fmt::format("\\x{:02x}", code);
  } else if (code < 0x10000) {
    *out += fmt::format("\\u{:04x}", code);
  } else {
    *out += fmt::format("\\U{:08x}", code);
  }
}

// The escapes that JSON has names for; 0 for others.
char JsonShortEscape(char32_t c) {
  switch (c) {
    case '"':
      return '"';
    case '\\':
      return '\\';
    case '\n':
      return 'n';
    case '\r':
      return 'r';
    case '\t':
      return 't';
    case '\b':
      return 'b';
    case '\f':
      return 'f';
    default:
      return 0;
  }
}

void AppendJsonString(std::string* out, std::string_view text, bool ensure_ascii) {
  *out += '"';
  for (size_t position = 0; position < text.size();) {
    const size_t begin = position;
    const char32_t c = NextCodePoint(text, &position);
    if (const char escape = JsonShortEscape(c)) {
      *out += '\\';
      *out += escape;
    } else if (c >= 0x20 && (c < 0x7F || !ensure_ascii)) {
      out->append(text.substr(begin, position - begin));
    } else if (c < 0x10000) {
      *out += fmt::format("\\u{:04x}", static_cast<uint32_t>(c));
    } else {
      const auto offset = static_cast<uint32_t>(c) - 0x10000;
      *out += fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + (offset >> 10), 0xDC00 + (offset & 0x3FF));
    }
  }
  *out += '"';
}

std::string JsonFloat(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  return FloatRepr(value);
}

class JsonWriter {
 public:
  JsonWriter(std::string* out, const JsonStyle& style, Budget& budget) : out_(out), style_(style), budget_(budget) {}

  void Write(const Value& value) {
    budget_.Step();
    switch (value.kind()) {
      case Kind::kNone:
        *out_ += "null";
        return;
      case Kind::kBool:
        *out_ += value.AsBool() ? "true" : "false";
        return;
      case Kind::kInt:
        *out_ += IntegerToString(value.AsInteger());
        return;
      case Kind::kFloat:
        *out_ += JsonFloat(value.AsDouble());
        return;
      case Kind::kString:
        budget_.Allocate(value.AsString().size());
        AppendJsonString(out_, value.AsString(), style_.ensure_ascii);
        return;
      case Kind::kList:
      case Kind::kTuple:
        return WriteList(value.items());
      case Kind::kDict:
        return WriteDict(value.dict());
      default:
        Fail("Object of type {} is not JSON serializable", TypeName(value));
    }
  }

 private:
  void WriteList(const std::vector<Value>& items) {
    if (items.empty()) {
      *out_ += "[]";
      return;
    }
    *out_ += '[';
    ++level_;
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) Separate(style_.item_separator);
      BreakLine();
      Write(items[i]);
    }
    --level_;
    BreakLine();
    *out_ += ']';
  }

  void WriteDict(const DictObject& dict) {
    if (dict.entries.empty()) {
      *out_ += "{}";
      return;
    }
    *out_ += '{';
    ++level_;
    bool first = true;
    for (const auto* entry : Ordered(dict)) {
      if (!first) Separate(style_.item_separator);
      first = false;
      BreakLine();
      WriteKey(entry->first);
      Separate(style_.key_separator);
      Write(entry->second);
    }
    --level_;
    BreakLine();
    *out_ += '}';
  }

  std::vector<const std::pair<Value, Value>*> Ordered(const DictObject& dict) {
    std::vector<const std::pair<Value, Value>*> entries;
    entries.reserve(dict.entries.size());
    for (const auto& entry : dict.entries) entries.push_back(&entry);
    if (style_.sort_keys) {
      std::stable_sort(entries.begin(), entries.end(),
                       [&](const auto* a, const auto* b) { return Less(a->first, b->first, budget_); });
    }
    return entries;
  }

  void WriteKey(const Value& key) {
    budget_.Step();
    switch (key.kind()) {
      case Kind::kString:
        budget_.Allocate(key.AsString().size());
        return AppendJsonString(out_, key.AsString(), style_.ensure_ascii);
      case Kind::kNone:
      case Kind::kBool:
      case Kind::kInt:
      case Kind::kFloat:
        *out_ += '"';
        Write(key);
        *out_ += '"';
        return;
      default:
        Fail("keys must be str, int, float, bool or None, not {}", TypeName(key));
    }
  }

  void Separate(const std::string& separator) {
    budget_.Allocate(separator.size());
    *out_ += separator;
  }

  void BreakLine() {
    if (!style_.multiline) return;
    budget_.AllocateRepeated(level_, style_.indent.size());
    *out_ += '\n';
    for (size_t i = 0; i < level_; ++i) *out_ += style_.indent;
  }

  std::string* out_;
  const JsonStyle& style_;
  Budget& budget_;
  size_t level_ = 0;
};

}  // namespace

std::string IntegerToString(Integer value, unsigned base) {
  auto magnitude = static_cast<unsigned __int128>(value);
  if (value < 0) magnitude = -magnitude;
  std::string digits;
  do {
    digits += "0123456789abcdef"[static_cast<unsigned>(magnitude % base)];
    magnitude /= base;
  } while (magnitude != 0);
  if (value < 0) digits += '-';
  std::reverse(digits.begin(), digits.end());
  return digits;
}

std::string FloatRepr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char buffer[400];
  const double magnitude = std::abs(value);
  const bool fixed = magnitude == 0 || (magnitude >= 1e-4 && magnitude < 1e16);
  const auto format = fixed ? std::chars_format::fixed : std::chars_format::scientific;
  const auto [end, error] = std::to_chars(buffer, buffer + sizeof(buffer), value, format);
  std::string text(buffer, end);
  if (fixed && text.find('.') == std::string::npos) text += ".0";
  return text;
}

void AppendStringRepr(std::string* out, std::string_view text) {
  const bool has_single = text.find('\'') != std::string_view::npos;
  const char quote = has_single && text.find('"') == std::string_view::npos ? '"' : '\'';
  *out += quote;
  for (size_t position = 0; position < text.size();) {
    const size_t begin = position;
    const char32_t c = NextCodePoint(text, &position);
    if (c == static_cast<char32_t>(quote) || c == '\\') {
      *out += '\\';
      *out += static_cast<char>(c);
    } else if (c == '\n' || c == '\r' || c == '\t') {
      *out += c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t";
    } else if (IsPrintable(c)) {
      out->append(text.substr(begin, position - begin));
    } else {
      AppendHexEscape(out, c);
    }
  }
  *out += quote;
}

void AppendRepr(std::string* out, const Value& value, Budget& budget) {
  budget.Step();
  switch (value.kind()) {
    case Kind::kUndefined:
      *out += "Undefined";
      return;
    case Kind::kNone:
      *out += "None";
      return;
    case Kind::kBool:
      *out += value.AsBool() ? "True" : "False";
      return;
    case Kind::kInt:
      *out += IntegerToString(value.AsInteger());
      return;
    case Kind::kFloat:
      *out += FloatRepr(value.AsDouble());
      return;
    case Kind::kString: {
      budget.Allocate(value.AsString().size());
      const bool markup = value.string_object().markup;
      if (markup) *out += "Markup(";
      AppendStringRepr(out, value.AsString());
      if (markup) *out += ')';
      return;
    }
    case Kind::kList:
      *out += '[';
      AppendReprs(out, value.items(), budget);
      *out += ']';
      return;
    case Kind::kTuple:
      *out += '(';
      AppendReprs(out, value.items(), budget);
      *out += value.items().size() == 1 ? ",)" : ")";
      return;
    case Kind::kDict:
      return AppendDictRepr(out, value.dict(), budget);
    case Kind::kRange:
      return AppendRangeRepr(out, value.As<RangeObject>());
    case Kind::kDictView:
      return AppendViewRepr(out, value, budget);
    case Kind::kNamespace:
      return AppendNamespaceRepr(out, value, budget);
    case Kind::kIterator:
    case Kind::kSlice:
      *out += fmt::format("<{} object>", TypeName(value));
      return;
    case Kind::kCallable:
      *out += value.As<CallableObject>().Repr();
      return;
  }
}

void AppendStr(std::string* out, const Value& value, Budget& budget) {
  if (value.IsUndefined()) return;
  if (!value.IsString()) return AppendRepr(out, value, budget);
  budget.Allocate(value.AsString().size());
  *out += value.AsString();
}

std::string Str(const Value& value, Budget& budget) {
  std::string text;
  AppendStr(&text, value, budget);
  return text;
}

std::string Repr(const Value& value, Budget& budget) {
  std::string text;
  AppendRepr(&text, value, budget);
  return text;
}

std::string EscapeHtml(std::string_view text) {
  std::string escaped;
  escaped.reserve(text.size());
  for (char c : text) {
    switch (c) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '\'':
        escaped += "&#39;";
        break;
      case '"':
        escaped += "&#34;";
        break;
      default:
        escaped += c;
    }
  }
  return escaped;
}

void AppendJson(std::string* out, const Value& value, const JsonStyle& style, Budget& budget) {
  JsonWriter(out, style, budget).Write(value);
}

}  // namespace moed::jinja
