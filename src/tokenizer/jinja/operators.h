// Python's operators on values: arithmetic, comparison, membership, subscription. Each fails as Python's does for types
// that it is not made for.
#ifndef MOED_TOKENIZER_JINJA_OPERATORS_H_
#define MOED_TOKENIZER_JINJA_OPERATORS_H_

#include <optional>
#include <string>

#include "tokenizer/jinja/ast.h"
#include "tokenizer/jinja/value.h"

namespace moed::jinja {

// `%` on a string formats it in the manner of printf (format.h).
Value Arithmetic(BinaryOperator op, const Value& a, const Value& b, Budget& budget);
Value Negate(const Value& value);
Value Positive(const Value& value);

// a < b.
bool Less(const Value& a, const Value& b, Budget& budget);
bool Compare(CompareOperator op, const Value& a, const Value& b, Budget& budget);
bool Contains(const Value& container, const Value& element, Budget& budget);

// value[start:stop:step].
Value Slice(const Value& value, const SliceObject& slice, Budget& budget);

// value[key] for a list, tuple, string, range or dict: nullopt where Python raises IndexError, KeyError or TypeError.
std::optional<Value> Subscript(const Value& value, const Value& key, Budget& budget);

// Text of `value` for joining with markup: escaped unless it is markup itself.
std::string EscapeUnlessMarkup(const Value& value, Budget& budget);

}  // namespace moed::jinja

#endif  // MOED_TOKENIZER_JINJA_OPERATORS_H_
