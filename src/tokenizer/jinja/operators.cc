#include "tokenizer/jinja/operators.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "tokenizer/jinja/format.h"
#include "tokenizer/jinja/text.h"
#include "tokenizer/jinja/unicode.h"

namespace moed::jinja {
namespace {

std::string_view Symbol(BinaryOperator op) {
  switch (op) {
    case BinaryOperator::kAdd:
      return "+";
    case BinaryOperator::kSubtract:
      return "-";
    case BinaryOperator::kMultiply:
      return "*";
    case BinaryOperator::kDivide:
      return "/";
    case BinaryOperator::kFloorDivide:
      return "//";
    case BinaryOperator::kModulo:
      return "%";
    case BinaryOperator::kPower:
      return "** or pow()";
  }
  return "?";
}

void RequireDefined(const Value& value) {
  if (value.IsUndefined()) Fail("{}", value.undefined_message());
}

[[noreturn]] void FailOverflow() { Fail("integer overflow: whole numbers beyond 128 bits are not supported"); }

[[noreturn]] void FailOperands(BinaryOperator op, const Value& a, const Value& b) {
  if (op == BinaryOperator::kAdd && a.IsString()) {
    Fail("can only concatenate str (not \"{}\") to str", TypeName(b));
  }
  if (op == BinaryOperator::kAdd && a.IsSequence()) {
    Fail("can only concatenate {} (not \"{}\") to {}", TypeName(a), TypeName(b), TypeName(a));
  }
  Fail("unsupported operand type(s) for {}: '{}' and '{}'", Symbol(op), TypeName(a), TypeName(b));
}

Integer FloorDivide(Integer a, Integer b) {
  Integer quotient = a / b;
  if (a % b != 0 && (a < 0) != (b < 0)) --quotient;
  return quotient;
}

Integer FloorModulo(Integer a, Integer b) {
  Integer rest = a % b;
  if (rest != 0 && (rest < 0) != (b < 0)) rest += b;
  return rest;
}

Integer IntegerPower(Integer base, Integer exponent) {
  Integer result = 1;
  while (exponent > 0) {
    if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) FailOverflow();
    exponent >>= 1;
    if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) {
      if (base == 0 || base == 1) continue;
      FailOverflow();
    }
  }
  return result;
}

Value IntegerArithmetic(BinaryOperator op, Integer a, Integer b) {
  Integer result = 0;
  bool overflow = false;
  switch (op) {
    case BinaryOperator::kAdd:
      overflow = __builtin_add_overflow(a, b, &result);
      break;
    case BinaryOperator::kSubtract:
      overflow = __builtin_sub_overflow(a, b, &result);
      break;
    case BinaryOperator::kMultiply:
      overflow = __builtin_mul_overflow(a, b, &result);
      break;
    case BinaryOperator::kDivide:
      if (b == 0) Fail("division by zero");
      return Value::Float(static_cast<double>(a) / static_cast<double>(b));
    case BinaryOperator::kFloorDivide:
    case BinaryOperator::kModulo:
      if (b == 0) Fail("integer division or modulo by zero");
      if (b == -1)
        return op == BinaryOperator::kModulo ? Value::Int(0) : IntegerArithmetic(BinaryOperator::kSubtract, 0, a);
      return Value::Int(op == BinaryOperator::kModulo ? FloorModulo(a, b) : FloorDivide(a, b));
    case BinaryOperator::kPower:
      if (b < 0) {
        if (a == 0) Fail("0.0 cannot be raised to a negative power");
        return Value::Float(std::pow(static_cast<double>(a), static_cast<double>(b)));
      }
      result = IntegerPower(a, b);
      break;
  }
  // Not the least number of all either, whose negative there is not.
  if (overflow || result == std::numeric_limits<Integer>::min()) FailOverflow();
  return Value::Int(result);
}

double FloatModulo(double a, double b) {
  double rest = std::fmod(a, b);
  if (rest != 0) {
    if ((rest < 0) != (b < 0)) rest += b;
    return rest;
  }
  return std::copysign(0.0, b);
}

double FloatFloorDivide(double a, double b) {
  const double rest = FloatModulo(a, b);
  const double quotient = (a - rest) / b;
  if (quotient == 0) return std::copysign(0.0, a / b);
  const double floor = std::floor(quotient);
  return quotient - floor > 0.5 ? floor + 1 : floor;
}

Value FloatArithmetic(BinaryOperator op, double a, double b) {
  switch (op) {
    case BinaryOperator::kAdd:
      return Value::Float(a + b);
    case BinaryOperator::kSubtract:
      return Value::Float(a - b);
    case BinaryOperator::kMultiply:
      return Value::Float(a * b);
    case BinaryOperator::kDivide:
      if (b == 0) Fail("float division by zero");
      return Value::Float(a / b);
    case BinaryOperator::kFloorDivide:
      if (b == 0) Fail("float floor division by zero");
      return Value::Float(FloatFloorDivide(a, b));
    case BinaryOperator::kModulo:
      if (b == 0) Fail("float modulo");
      return Value::Float(FloatModulo(a, b));
    case BinaryOperator::kPower: {
      if (a == 0 && b < 0) Fail("0.0 cannot be raised to a negative power");
      if (a < 0 && b != std::floor(b)) FailUnimplemented("a root of a negative number (Python's complex numbers)");
      const double power = std::pow(a, b);
      if (std::isinf(power) && !std::isinf(a) && !std::isinf(b)) Fail("(34, 'Numerical result out of range')");
      return Value::Float(power);
    }
  }
  return Value();
}

Value Repeat(const Value& value, const Value& count, Budget& budget) {
  const Integer wanted = std::max<Integer>(count.AsInteger(), 0);
  const uint64_t times = wanted > UINT32_MAX ? UINT32_MAX : static_cast<uint64_t>(wanted);
  if (value.IsString()) {
    const std::string& text = value.AsString();
    if (text.empty()) return value;
    budget.AllocateRepeated(times, text.size());
    std::string repeated;
    repeated.reserve(text.size() * times);
    for (uint64_t i = 0; i < times; ++i) repeated += text;
    return Value::String(std::move(repeated), value.string_object().markup);
  }
  const std::vector<Value>& items = value.items();
  budget.AllocateRepeated(times, items.size() * sizeof(Value));
  std::vector<Value> repeated;
  if (!items.empty()) {
    repeated.reserve(items.size() * times);
    for (uint64_t i = 0; i < times; ++i) repeated.insert(repeated.end(), items.begin(), items.end());
  }
  return MakeSequence(value.kind(), std::move(repeated), budget);
}

Value Concatenate(const Value& a, const Value& b, Budget& budget) {
  if (a.IsString()) {
    const bool markup = a.string_object().markup || b.string_object().markup;
    budget.Allocate(a.AsString().size() + b.AsString().size());
    if (markup) return MakeString(EscapeUnlessMarkup(a, budget) + EscapeUnlessMarkup(b, budget), budget, true);
    return Value::String(a.AsString() + b.AsString());
  }
  budget.AllocateRepeated(a.items().size() + b.items().size(), sizeof(Value));
  std::vector<Value> items = a.items();
  items.insert(items.end(), b.items().begin(), b.items().end());
  return MakeSequence(a.kind(), std::move(items), budget);
}

bool IsRepeatable(const Value& value) { return value.IsString() || value.IsSequence(); }

bool LessSequences(const std::vector<Value>& a, const std::vector<Value>& b, bool or_equal, Budget& budget) {
  const size_t common = std::min(a.size(), b.size());
  for (size_t i = 0; i < common; ++i) {
    if (Equal(a[i], b[i], budget)) continue;
    return or_equal ? Compare(CompareOperator::kLessEqual, a[i], b[i], budget) : Less(a[i], b[i], budget);
  }
  return or_equal ? a.size() <= b.size() : a.size() < b.size();
}

// a < b or a <= b; nothing where the types have no order.
std::optional<bool> Ordered(const Value& a, const Value& b, bool or_equal, Budget& budget) {
  budget.Step();
  if (a.IsInteger() && b.IsInteger()) {
    return or_equal ? a.AsInteger() <= b.AsInteger() : a.AsInteger() < b.AsInteger();
  }
  if (a.IsNumber() && b.IsNumber()) return or_equal ? a.AsDouble() <= b.AsDouble() : a.AsDouble() < b.AsDouble();
  if (a.kind() != b.kind()) return std::nullopt;
  if (a.IsString()) {
    // The order of UTF-8 is the order of code points.
    budget.Scan(std::min(a.AsString().size(), b.AsString().size()));
    const int order = a.AsString().compare(b.AsString());
    return or_equal ? order <= 0 : order < 0;
  }
  if (a.IsSequence()) return LessSequences(a.items(), b.items(), or_equal, budget);
  return std::nullopt;
}

bool RangeContains(const RangeObject& range, const Value& element) {
  if (!element.IsNumber()) return false;
  if (element.Is(Kind::kFloat) && element.AsDouble() != std::floor(element.AsDouble())) return false;
  const Integer number = element.Is(Kind::kFloat) ? static_cast<Integer>(std::clamp(element.AsDouble(), -1e18, 1e18))
                                                  : element.AsInteger();
  if (range.size() == 0) return false;
  const Integer last = range.At(range.size() - 1);
  const Integer low = std::min<Integer>(range.start, last);
  const Integer high = std::max<Integer>(range.start, last);
  return number >= low && number <= high && (number - range.start) % range.step == 0;
}

// Start, stop and step of a slice over `length` elements, as slice.indices() gives them.
struct SliceIndices {
  int64_t start, stop, step;
};

int64_t SliceNumber(const Value& value) {
  if (!value.IsInteger()) Fail("slice indices must be integers or None or have an __index__ method");
  return static_cast<int64_t>(std::clamp<Integer>(value.AsInteger(), INT64_MIN / 4, INT64_MAX / 4));
}

SliceIndices Indices(const SliceObject& slice, int64_t length) {
  const int64_t step = slice.step.IsNone() ? 1 : SliceNumber(slice.step);
  if (step == 0) Fail("slice step cannot be zero");
  const int64_t lowest = step > 0 ? 0 : -1;
  const int64_t highest = step > 0 ? length : length - 1;
  auto resolve = [&](const Value& value, int64_t fallback) {
    if (value.IsNone()) return fallback;
    int64_t index = SliceNumber(value);
    if (index < 0) index += length;
    return std::clamp(index, lowest, highest);
  };
  return {resolve(slice.start, step > 0 ? lowest : highest), resolve(slice.stop, step > 0 ? highest : lowest), step};
}

Value SliceString(const StringObject& string, const SliceIndices& indices, Budget& budget) {
  if (indices.step == 1) {
    if (indices.start >= indices.stop) return MakeString("", budget, string.markup);
    const auto start = static_cast<size_t>(indices.start);
    const auto count = static_cast<size_t>(indices.stop - indices.start);
    if (string.ascii()) return MakeString(string.text.substr(start, count), budget, string.markup);
    budget.Scan(string.text.size());
    const size_t begin = ByteOffset(string.text, start);
    const size_t bytes = ByteOffset(std::string_view(string.text).substr(begin), count);
    return MakeString(string.text.substr(begin, bytes), budget, string.markup);
  }
  budget.AllocateRepeated(string.length, sizeof(char32_t));
  const std::u32string code_points = ToCodePoints(string.text);
  std::u32string picked;
  for (int64_t i = indices.start; indices.step > 0 ? i < indices.stop : i > indices.stop; i += indices.step) {
    picked.push_back(code_points[static_cast<size_t>(i)]);
  }
  return MakeString(ToUtf8(picked), budget, string.markup);
}

Value SliceRange(const RangeObject& range, const SliceIndices& indices) {
  auto sliced = std::make_shared<RangeObject>();
  sliced->start = range.At(indices.start);
  sliced->stop = range.At(indices.stop);
  // A step beyond the range's size takes the first element only, whatever it is; the product stays within 64 bits.
  const int64_t size = std::max<int64_t>(range.size(), 1);
  sliced->step = range.step * std::clamp(indices.step, -size, size);
  return Value::Of(Kind::kRange, std::move(sliced));
}

bool IsHashable(const Value& value) {
  if (value.Is(Kind::kTuple)) return std::all_of(value.items().begin(), value.items().end(), IsHashable);
  return !value.Is(Kind::kList) && !value.Is(Kind::kDict) && !value.Is(Kind::kSlice);
}

Value CharacterAt(const StringObject& string, size_t index, Budget& budget) {
  if (string.ascii()) return Value::String(string.text.substr(index, 1), string.markup);
  budget.Scan(string.text.size());
  const size_t begin = ByteOffset(string.text, index);
  size_t end = begin;
  NextCodePoint(string.text, &end);
  return Value::String(string.text.substr(begin, end - begin), string.markup);
}

}  // namespace

Value Arithmetic(BinaryOperator op, const Value& a, const Value& b, Budget& budget) {
  RequireDefined(a);
  if (op == BinaryOperator::kModulo && a.IsString()) return FormatPrintf(a, b, budget);
  RequireDefined(b);
  if (a.IsInteger() && b.IsInteger()) return IntegerArithmetic(op, a.AsInteger(), b.AsInteger());
  if (a.IsNumber() && b.IsNumber()) return FloatArithmetic(op, a.AsDouble(), b.AsDouble());
  if (op == BinaryOperator::kAdd && a.kind() == b.kind() && IsRepeatable(a)) return Concatenate(a, b, budget);
  if (op == BinaryOperator::kMultiply && IsRepeatable(a) && b.IsInteger()) return Repeat(a, b, budget);
  if (op == BinaryOperator::kMultiply && a.IsInteger() && IsRepeatable(b)) return Repeat(b, a, budget);
  FailOperands(op, a, b);
}

Value Negate(const Value& value) {
  RequireDefined(value);
  if (value.IsInteger()) return IntegerArithmetic(BinaryOperator::kSubtract, 0, value.AsInteger());
  if (value.Is(Kind::kFloat)) return Value::Float(-value.AsDouble());
  Fail("bad operand type for unary -: '{}'", TypeName(value));
}

Value Positive(const Value& value) {
  RequireDefined(value);
  if (value.IsInteger()) return Value::Int(value.AsInteger());
  if (value.Is(Kind::kFloat)) return value;
  Fail("bad operand type for unary +: '{}'", TypeName(value));
}

bool Less(const Value& a, const Value& b, Budget& budget) { return Compare(CompareOperator::kLess, a, b, budget); }

bool Compare(CompareOperator op, const Value& a, const Value& b, Budget& budget) {
  std::optional<bool> result;
  std::string_view symbol;
  switch (op) {
    case CompareOperator::kEqual:
      return Equal(a, b, budget);
    case CompareOperator::kNotEqual:
      return !Equal(a, b, budget);
    case CompareOperator::kIn:
      return Contains(b, a, budget);
    case CompareOperator::kNotIn:
      return !Contains(b, a, budget);
    case CompareOperator::kLess:
      symbol = "<";
      result = Ordered(a, b, false, budget);
      break;
    case CompareOperator::kLessEqual:
      symbol = "<=";
      result = Ordered(a, b, true, budget);
      break;
    case CompareOperator::kGreater:
      symbol = ">";
      result = Ordered(b, a, false, budget);
      break;
    case CompareOperator::kGreaterEqual:
      symbol = ">=";
      result = Ordered(b, a, true, budget);
      break;
  }
  if (result.has_value()) return *result;
  RequireDefined(a);
  RequireDefined(b);
  Fail("'{}' not supported between instances of '{}' and '{}'", symbol, TypeName(a), TypeName(b));
}

bool Contains(const Value& container, const Value& element, Budget& budget) {
  budget.Step();
  switch (container.kind()) {
    case Kind::kString:
      if (element.IsUndefined()) Fail("{}", element.undefined_message());
      if (!element.IsString()) {
        Fail("'in <string>' requires string as left operand, not {}", TypeName(element));
      }
      budget.Search(container.AsString().size(), element.AsString().size());
      return container.AsString().find(element.AsString()) != std::string::npos;
    case Kind::kDict:
      return container.dict().Find(element, budget) != nullptr;
    case Kind::kRange:
      return RangeContains(container.As<RangeObject>(), element);
    case Kind::kList:
    case Kind::kTuple:
      return std::any_of(container.items().begin(), container.items().end(),
                         [&](const Value& item) { return Equal(item, element, budget); });
    case Kind::kIterator: {
      // Walks the iterator up to the element and no further.
      auto iterator = container.Shared<IteratorObject>();
      while (iterator->next < iterator->items.size()) {
        if (Equal(iterator->items[iterator->next++], element, budget)) return true;
      }
      return false;
    }
    default:
      break;
  }
  if (!IsIterable(container)) Fail("argument of type '{}' is not iterable", TypeName(container));
  for (const Value& item : Iterate(container, budget)) {
    if (Equal(item, element, budget)) return true;
  }
  return false;
}

Value Slice(const Value& value, const SliceObject& slice, Budget& budget) {
  RequireDefined(value);
  if (value.IsString()) {
    const StringObject& string = value.string_object();
    return SliceString(string, Indices(slice, static_cast<int64_t>(string.length)), budget);
  }
  if (value.Is(Kind::kRange)) {
    const auto& range = value.As<RangeObject>();
    return SliceRange(range, Indices(slice, range.size()));
  }
  if (value.Is(Kind::kDict)) Fail("unhashable type: 'slice'");
  if (!value.IsSequence()) Fail("'{}' object is not subscriptable", TypeName(value));
  const std::vector<Value>& items = value.items();
  const SliceIndices indices = Indices(slice, static_cast<int64_t>(items.size()));
  std::vector<Value> picked;
  for (int64_t i = indices.start; indices.step > 0 ? i < indices.stop : i > indices.stop; i += indices.step) {
    picked.push_back(items[static_cast<size_t>(i)]);
  }
  return MakeSequence(value.kind(), std::move(picked), budget);
}

std::optional<Value> Subscript(const Value& value, const Value& key, Budget& budget) {
  if (value.Is(Kind::kDict)) {
    if (!IsHashable(key)) return std::nullopt;
    const Value* found = value.dict().Find(key, budget);
    return found == nullptr ? std::nullopt : std::optional<Value>(*found);
  }
  if (!key.IsInteger()) return std::nullopt;
  if (!value.IsString() && !value.IsSequence() && !value.Is(Kind::kRange)) return std::nullopt;
  const auto length = static_cast<Integer>(Length(value));
  Integer index = key.AsInteger();
  if (index < 0) index += length;
  if (index < 0 || index >= length) return std::nullopt;
  const auto position = static_cast<size_t>(index);
  if (value.IsString()) return CharacterAt(value.string_object(), position, budget);
  if (value.IsSequence()) return value.items()[position];
  return Value::Int(value.As<RangeObject>().At(static_cast<int64_t>(position)));
}

std::string EscapeUnlessMarkup(const Value& value, Budget& budget) {
  if (value.IsString() && value.string_object().markup) return value.AsString();
  std::string text = Str(value, budget);
  budget.Allocate(text.size());
  return EscapeHtml(text);
}

}  // namespace moed::jinja
