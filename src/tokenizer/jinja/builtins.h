// What a template finds without defining it: filters, tests, global functions, and the attributes and methods of
// values. Each is made after jinja2's, with the signature, the defaults and the failures of that.
#ifndef MOED_TOKENIZER_JINJA_BUILTINS_H_
#define MOED_TOKENIZER_JINJA_BUILTINS_H_

#include <optional>
#include <string_view>

#include "tokenizer/jinja/callable.h"
#include "tokenizer/jinja/value.h"

namespace moed::jinja {

using FilterFunction = Value (*)(Evaluator& evaluator, const Value& input, Arguments& arguments);
using TestFunction = bool (*)(Evaluator& evaluator, const Value& input, Arguments& arguments);

// Null where there is none of that name.
FilterFunction FindFilter(std::string_view name);
TestFunction FindTest(std::string_view name);

// range, dict, namespace, cycler, joiner, raise_exception, strftime_now.
std::optional<Value> FindGlobal(std::string_view name);

// The attribute that Python's getattr() finds on a value: mostly methods, bound to it. Methods that would change a list
// or dict and names that begin with an underscore give an undefined value that fails when used, as in jinja2's sandbox.
std::optional<Value> FindAttribute(const Value& value, std::string_view name);

// The methods of strings (string_methods.cc); null where there is none of that name.
using StringMethod = Value (*)(Evaluator& evaluator, const Value& self, Arguments& arguments);
StringMethod FindStringMethod(std::string_view name);

}  // namespace moed::jinja

#endif  // MOED_TOKENIZER_JINJA_BUILTINS_H_
