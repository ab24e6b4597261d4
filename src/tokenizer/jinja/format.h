// Python's two ways of formatting text: 'printf-style' % and str.format().
#ifndef MOED_TOKENIZER_JINJA_FORMAT_H_
#define MOED_TOKENIZER_JINJA_FORMAT_H_

#include <string>
#include <string_view>

#include "tokenizer/jinja/callable.h"
#include "tokenizer/jinja/value.h"

namespace moed::jinja {

// format % values: a tuple gives the values one by one, a dict by name, anything else is the one value.
Value FormatPrintf(const Value& format, const Value& values, Budget& budget);

// format.format(*arguments), as jinja2's sandbox does it: fields look up attributes by the rules of the sandbox.
Value FormatBraces(Evaluator& evaluator, const Value& format, const Arguments& arguments);

// format(value, spec), such as format(3.14159, ".2f").
std::string FormatWithSpec(const Value& value, std::string_view spec, Budget& budget);

}  // namespace moed::jinja

#endif  // MOED_TOKENIZER_JINJA_FORMAT_H_
