// Values as text, to the letter as Python prints them.
#ifndef MOED_TOKENIZER_JINJA_TEXT_H_
#define MOED_TOKENIZER_JINJA_TEXT_H_

#include <string>
#include <string_view>

#include "tokenizer/jinja/value.h"

namespace moed::jinja {

std::string IntegerToString(Integer value, unsigned base = 10);

// The shortest decimal text that reads back as the same double: "0.1", "1e-07", "2.0", "inf".
std::string FloatRepr(double value);

// Appends repr('text'): quotes, escapes, non-printable characters as \x, \u, \U.
void AppendStringRepr(std::string* out, std::string_view text);

// Appends str(value) and repr(value); a string within a list is printed by repr.
void AppendStr(std::string* out, const Value& value, Budget& budget);
void AppendRepr(std::string* out, const Value& value, Budget& budget);

std::string Str(const Value& value, Budget& budget);
std::string Repr(const Value& value, Budget& budget);

// `text` with & < > ' " replaced by character references, as markupsafe.escape does.
std::string EscapeHtml(std::string_view text);

// Appends json.dumps(value, …).
struct JsonStyle {
  bool ensure_ascii = false;
  bool sort_keys = false;
  bool multiline = false;  // with line breaks and `indent` repeated by depth
  std::string indent;
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};
void AppendJson(std::string* out, const Value& value, const JsonStyle& style, Budget& budget);

}  // namespace moed::jinja

#endif  // MOED_TOKENIZER_JINJA_TEXT_H_
