// The attributes of values other than strings.
#include <algorithm>
#include <cmath>

#include "tokenizer/jinja/builtins.h"
#include "tokenizer/jinja/evaluator.h"
#include "tokenizer/jinja/operators.h"

namespace moed::jinja {
namespace {

// An attribute that exists and that the sandbox keeps away: it prints as nothing and fails when used.
Value Unsafe(const Value& value, std::string_view name) {
  return Value::Undefined(fmt::format("access to attribute '{}' of '{}' object is unsafe.", name, TypeName(value)));
}

// A method of `self` that takes no arguments.
template <class Body>
Value Bind(const Value& self, std::string_view name, Body body) {
  return MakeFunction(
      std::string(name),
      [self, name = std::string(name), body](Evaluator& evaluator, Arguments& arguments) {
        const Parameters none(name, {}, arguments);
        return body(evaluator, self);
      },
      self.depth() + 1);
}

Value View(const Value& dict, DictViewObject::Part part) {
  auto view = std::make_shared<DictViewObject>();
  view->source = dict;
  view->part = part;
  view->depth = dict.depth() + 1;
  return Value::Of(Kind::kDictView, std::move(view));
}

Value DictGet(const Value& self, Evaluator& evaluator, Arguments& arguments) {
  const Parameters parameters("get", {"key", "default"}, arguments, 1);
  const Value* found = self.dict().Find(parameters[0], evaluator.budget());
  return found != nullptr ? *found : parameters.Get(1, Value());
}

std::optional<Value> DictAttribute(const Value& self, std::string_view name) {
  if (name == "get") {
    return MakeFunction(
        "get", [self](Evaluator& evaluator, Arguments& arguments) { return DictGet(self, evaluator, arguments); },
        self.depth() + 1);
  }
  if (name == "items") {
    return Bind(self, name, [](Evaluator&, const Value& dict) { return View(dict, DictViewObject::Part::kItems); });
  }
  if (name == "keys") {
    return Bind(self, name, [](Evaluator&, const Value& dict) { return View(dict, DictViewObject::Part::kKeys); });
  }
  if (name == "values") {
    return Bind(self, name, [](Evaluator&, const Value& dict) { return View(dict, DictViewObject::Part::kValues); });
  }
  // Since no dict ever changes, a copy is the dict itself.
  if (name == "copy") return Bind(self, name, [](Evaluator&, const Value& dict) { return dict; });
  if (name == "fromkeys") return FindGlobal("dict")->Shared<CallableObject>()->Attribute(name);
  if (name == "pop" || name == "popitem" || name == "clear" || name == "update" || name == "setdefault") {
    return Unsafe(self, name);
  }
  return std::nullopt;
}

Value SequenceIndex(const Value& self, Evaluator& evaluator, Arguments& arguments) {
  const Parameters parameters("index", {"value", "start", "stop"}, arguments, 1);
  const std::vector<Value>& items = self.items();
  const auto size = static_cast<int64_t>(items.size());
  auto resolve = [&](int64_t position) {
    return std::clamp<int64_t>(position < 0 ? position + size : position, 0, size);
  };
  const int64_t stop = resolve(parameters.Int(2, size));
  for (int64_t i = resolve(parameters.Int(1, 0)); i < stop; ++i) {
    if (Equal(items[static_cast<size_t>(i)], parameters[0], evaluator.budget())) return Value::Int(i);
  }
  Fail("the value is not in the {}", TypeName(self));
}

Value SequenceCount(const Value& self, Evaluator& evaluator, Arguments& arguments) {
  const Parameters parameters("count", {"value"}, arguments, 1);
  Integer count = 0;
  for (const Value& item : self.items()) count += Equal(item, parameters[0], evaluator.budget()) ? 1 : 0;
  return Value::Int(count);
}

std::optional<Value> SequenceAttribute(const Value& self, std::string_view name) {
  if (name == "index") {
    return MakeFunction(
        "index",
        [self](Evaluator& evaluator, Arguments& arguments) { return SequenceIndex(self, evaluator, arguments); },
        self.depth() + 1);
  }
  if (name == "count") {
    return MakeFunction(
        "count",
        [self](Evaluator& evaluator, Arguments& arguments) { return SequenceCount(self, evaluator, arguments); },
        self.depth() + 1);
  }
  if (self.Is(Kind::kTuple)) {
    if (!self.As<SequenceObject>().group) return std::nullopt;
    if (name == "grouper") return self.items()[0];
    if (name == "list") return self.items()[1];
    return std::nullopt;
  }
  if (name == "copy") return Bind(self, name, [](Evaluator&, const Value& list) { return list; });
  static constexpr std::string_view kChanging[] = {"append", "clear", "pop",    "reverse",
                                                   "insert", "sort",  "extend", "remove"};
  if (std::find(std::begin(kChanging), std::end(kChanging), name) != std::end(kChanging)) return Unsafe(self, name);
  return std::nullopt;
}

std::optional<Value> NumberAttribute(const Value& self, std::string_view name) {
  if (name == "real") return self.Is(Kind::kFloat) ? self : Value::Int(self.AsInteger());
  if (name == "imag") return self.Is(Kind::kFloat) ? Value::Float(0) : Value::Int(0);
  if (self.Is(Kind::kFloat)) {
    if (name != "is_integer") return std::nullopt;
    return Bind(self, name, [](Evaluator&, const Value& number) {
      return Value::Bool(number.AsDouble() == std::floor(number.AsDouble()) && std::isfinite(number.AsDouble()));
    });
  }
  if (name == "numerator") return Value::Int(self.AsInteger());
  if (name == "denominator") return Value::Int(1);
  if (name == "bit_length") {
    return Bind(self, name, [](Evaluator&, const Value& number) {
      const Integer value = number.AsInteger();
      auto magnitude = static_cast<unsigned __int128>(value < 0 ? -value : value);
      Integer bits = 0;
      for (; magnitude != 0; magnitude >>= 1) ++bits;
      return Value::Int(bits);
    });
  }
  return std::nullopt;
}

std::optional<Value> RangeAttribute(const RangeObject& range, std::string_view name) {
  if (name == "start") return Value::Int(range.start);
  if (name == "stop") return Value::Int(range.stop);
  if (name == "step") return Value::Int(range.step);
  return std::nullopt;
}

std::optional<Value> StringAttribute(const Value& self, std::string_view name) {
  const StringMethod method = FindStringMethod(name);
  if (method == nullptr) return std::nullopt;
  return MakeFunction(std::string(name), [self, method](Evaluator& evaluator, Arguments& arguments) {
    return method(evaluator, self, arguments);
  });
}

}  // namespace

std::optional<Value> FindAttribute(const Value& value, std::string_view name) {
  if (value.Is(Kind::kNamespace)) {
    const Value* found = value.Shared<NamespaceObject>()->Find(name);
    return found == nullptr ? std::nullopt : std::optional<Value>(*found);
  }
  // Every object of Python has such attributes, and none of them is for templates.
  if (name.starts_with("__") && name.ends_with("__") && name.size() > 4) return Unsafe(value, name);
  switch (value.kind()) {
    case Kind::kString:
      return StringAttribute(value, name);
    case Kind::kDict:
      return DictAttribute(value, name);
    case Kind::kList:
    case Kind::kTuple:
      return SequenceAttribute(value, name);
    case Kind::kBool:
    case Kind::kInt:
    case Kind::kFloat:
      return NumberAttribute(value, name);
    case Kind::kRange:
      return RangeAttribute(value.As<RangeObject>(), name);
    case Kind::kCallable:
      return value.Shared<CallableObject>()->Attribute(name);
    default:
      return std::nullopt;
  }
}

}  // namespace moed::jinja
