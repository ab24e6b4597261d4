// Jinja's tests: what may stand behind `is`.
#include <cmath>
#include <map>

#include "tokenizer/jinja/builtins.h"
#include "tokenizer/jinja/evaluator.h"
#include "tokenizer/jinja/operators.h"
#include "tokenizer/jinja/text.h"

namespace moed::jinja {
namespace {

void TakeNoArguments(const Arguments& arguments) { const Parameters none("test", {}, arguments); }

const Value& OtherOperand(const Arguments& arguments) {
  if (arguments.positional.size() != 1 || !arguments.keyword.empty()) {
    Fail("the test takes 1 argument ({} given)", arguments.positional.size() + arguments.keyword.size());
  }
  return arguments.positional.front();
}

template <CompareOperator kOperator>
bool Compares(Evaluator& evaluator, const Value& input, Arguments& arguments) {
  return Compare(kOperator, input, OtherOperand(arguments), evaluator.budget());
}

// A test that looks at nothing but the value.
template <bool (*kTest)(const Value&)>
bool Simple(Evaluator&, const Value& input, Arguments& arguments) {
  TakeNoArguments(arguments);
  return kTest(input);
}

bool IsDefined(const Value& value) { return !value.IsUndefined(); }
bool IsUndefinedValue(const Value& value) { return value.IsUndefined(); }
bool IsNoneValue(const Value& value) { return value.IsNone(); }
bool IsBoolean(const Value& value) { return value.Is(Kind::kBool); }
bool IsTrue(const Value& value) { return value.Is(Kind::kBool) && value.AsBool(); }
bool IsFalse(const Value& value) { return value.Is(Kind::kBool) && !value.AsBool(); }
bool IsInteger(const Value& value) { return value.Is(Kind::kInt); }
bool IsFloat(const Value& value) { return value.Is(Kind::kFloat); }
bool IsNumber(const Value& value) { return value.IsNumber(); }
bool IsStringValue(const Value& value) { return value.IsString(); }
bool IsMapping(const Value& value) { return value.Is(Kind::kDict); }
bool IsSequence(const Value& value) {
  return HasLength(value) && !value.Is(Kind::kDictView) && !value.Is(Kind::kCallable);
}
bool IsCallable(const Value& value) {
  // jinja2's undefined has a __call__, though one that only fails.
  if (value.IsUndefined()) return true;
  return value.Is(Kind::kCallable) && value.As<CallableObject>().can_be_called();
}
bool IsEscaped(const Value& value) { return value.IsString() && value.string_object().markup; }

bool IsOddOrEven(Evaluator& evaluator, const Value& input, Arguments& arguments, Integer rest) {
  TakeNoArguments(arguments);
  const Value modulo = Arithmetic(BinaryOperator::kModulo, input, Value::Int(2), evaluator.budget());
  return Equal(modulo, Value::Int(rest), evaluator.budget());
}
bool IsOdd(Evaluator& evaluator, const Value& input, Arguments& arguments) {
  return IsOddOrEven(evaluator, input, arguments, 1);
}
bool IsEven(Evaluator& evaluator, const Value& input, Arguments& arguments) {
  return IsOddOrEven(evaluator, input, arguments, 0);
}

bool IsDivisibleBy(Evaluator& evaluator, const Value& input, Arguments& arguments) {
  const Parameters parameters("divisibleby", {"num"}, arguments, 1);
  const Value modulo = Arithmetic(BinaryOperator::kModulo, input, parameters[0], evaluator.budget());
  return Equal(modulo, Value::Int(0), evaluator.budget());
}

bool HasCase(Evaluator& evaluator, const Value& input, Arguments& arguments, std::string_view method) {
  const Value text = MakeString(Str(input, evaluator.budget()), evaluator.budget());
  return FindStringMethod(method)(evaluator, text, arguments).AsBool();
}
bool IsLower(Evaluator& evaluator, const Value& input, Arguments& arguments) {
  return HasCase(evaluator, input, arguments, "islower");
}
bool IsUpper(Evaluator& evaluator, const Value& input, Arguments& arguments) {
  return HasCase(evaluator, input, arguments, "isupper");
}

// Python's `is`: the same object. Small numbers and equal literals are one object there too; larger numbers and
// computed strings need not be, which no template can rely on.
bool IsSameAs(Evaluator& evaluator, const Value& input, Arguments& arguments) {
  const Parameters parameters("sameas", {"other"}, arguments, 1);
  const Value& other = parameters[0];
  if (input.kind() != other.kind()) return false;
  if (input.object() != nullptr && !input.IsString()) return input.object() == other.object();
  return Equal(input, other, evaluator.budget());
}

bool IsFilter(Evaluator&, const Value& input, Arguments& arguments) {
  TakeNoArguments(arguments);
  return input.IsString() && FindFilter(input.AsString()) != nullptr;
}

bool IsTest(Evaluator&, const Value& input, Arguments& arguments) {
  TakeNoArguments(arguments);
  return input.IsString() && FindTest(input.AsString()) != nullptr;
}

}  // namespace

TestFunction FindTest(std::string_view name) {
  static const std::map<std::string_view, TestFunction> kTests = {
      {"!=", Compares<CompareOperator::kNotEqual>},
      {"<", Compares<CompareOperator::kLess>},
      {"<=", Compares<CompareOperator::kLessEqual>},
      {"==", Compares<CompareOperator::kEqual>},
      {">", Compares<CompareOperator::kGreater>},
      {">=", Compares<CompareOperator::kGreaterEqual>},
      {"boolean", Simple<IsBoolean>},
      {"callable", Simple<IsCallable>},
      {"defined", Simple<IsDefined>},
      {"divisibleby", IsDivisibleBy},
      {"eq", Compares<CompareOperator::kEqual>},
      {"equalto", Compares<CompareOperator::kEqual>},
      {"escaped", Simple<IsEscaped>},
      {"even", IsEven},
      {"false", Simple<IsFalse>},
      {"filter", IsFilter},
      {"float", Simple<IsFloat>},
      {"ge", Compares<CompareOperator::kGreaterEqual>},
      {"greaterthan", Compares<CompareOperator::kGreater>},
      {"gt", Compares<CompareOperator::kGreater>},
      {"in", Compares<CompareOperator::kIn>},
      {"integer", Simple<IsInteger>},
      {"iterable", Simple<IsIterable>},
      {"le", Compares<CompareOperator::kLessEqual>},
      {"lessthan", Compares<CompareOperator::kLess>},
      {"lower", IsLower},
      {"lt", Compares<CompareOperator::kLess>},
      {"mapping", Simple<IsMapping>},
      {"ne", Compares<CompareOperator::kNotEqual>},
      {"none", Simple<IsNoneValue>},
      {"number", Simple<IsNumber>},
      {"odd", IsOdd},
      {"sameas", IsSameAs},
      {"sequence", Simple<IsSequence>},
      {"string", Simple<IsStringValue>},
      {"test", IsTest},
      {"true", Simple<IsTrue>},
      {"undefined", Simple<IsUndefinedValue>},
      {"upper", IsUpper},
  };
  const auto it = kTests.find(name);
  return it == kTests.end() ? nullptr : it->second;
}

}  // namespace moed::jinja
