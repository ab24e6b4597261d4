#include "tokenizer/jinja/value.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "tokenizer/jinja/callable.h"
#include "tokenizer/jinja/unicode.h"

namespace moed::jinja {
namespace {

// Below this many entries a dict is searched from end to end.
constexpr size_t kIndexedDictSize = 8;

Value ViewElement(const DictViewObject& view, const std::pair<Value, Value>& entry, Budget& budget) {
  switch (view.part) {
    case DictViewObject::Part::kKeys:
      return entry.first;
    case DictViewObject::Part::kValues:
      return entry.second;
    case DictViewObject::Part::kItems:
      return MakeTuple({entry.first, entry.second}, budget);
  }
  return Value();
}

std::vector<Value> Characters(const StringObject& string, Budget& budget) {
  budget.AllocateRepeated(string.length, sizeof(Value) + sizeof(StringObject));
  budget.Step(string.length);
  std::vector<Value> characters;
  characters.reserve(string.length);
  for (size_t position = 0; position < string.text.size();) {
    const size_t begin = position;
    NextCodePoint(string.text, &position);
    characters.push_back(Value::String(string.text.substr(begin, position - begin)));
  }
  return characters;
}

bool EqualSequences(const std::vector<Value>& a, const std::vector<Value>& b, Budget& budget) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!Equal(a[i], b[i], budget)) return false;
  }
  return true;
}

bool EqualDicts(const DictObject& a, const DictObject& b, Budget& budget) {
  if (a.entries.size() != b.entries.size()) return false;
  for (const auto& [key, value] : a.entries) {
    const Value* other = b.Find(key, budget);
    if (other == nullptr || !Equal(value, *other, budget)) return false;
  }
  return true;
}

bool EqualRanges(const RangeObject& a, const RangeObject& b) {
  if (a.size() != b.size()) return false;
  if (a.size() == 0) return true;
  return a.start == b.start && (a.size() == 1 || a.step == b.step);
}

bool EqualNumbers(const Value& a, const Value& b) {
  if (a.IsInteger() && b.IsInteger()) return a.AsInteger() == b.AsInteger();
  return a.AsDouble() == b.AsDouble();
}

}  // namespace

Value Value::Bool(bool value) {
  Value result;
  result.kind_ = Kind::kBool;
  result.scalar_.boolean = value;
  return result;
}

Value Value::Int(Integer value) {
  Value result;
  result.kind_ = Kind::kInt;
  result.scalar_.integer = {static_cast<uint64_t>(value), static_cast<int64_t>(value >> 64)};
  return result;
}

Value Value::Float(double value) {
  Value result;
  result.kind_ = Kind::kFloat;
  result.scalar_.real = value;
  return result;
}

Value Value::String(std::string text, bool markup) {
  auto object = std::make_shared<StringObject>();
  object->length = CountCodePoints(text);
  object->text = std::move(text);
  object->markup = markup;
  return Of(Kind::kString, std::move(object));
}

Value Value::Undefined(std::string message) {
  auto object = std::make_shared<UndefinedObject>();
  object->message = std::move(message);
  return Of(Kind::kUndefined, std::move(object));
}

Value Value::Of(Kind kind, std::shared_ptr<const Object> object) {
  Value result;
  result.kind_ = kind;
  result.object_ = std::move(object);
  return result;
}

Integer Value::AsInteger() const {
  if (kind_ == Kind::kBool) return scalar_.boolean ? 1 : 0;
  return (static_cast<Integer>(scalar_.integer.high) << 64) | scalar_.integer.low;
}

double Value::AsDouble() const { return kind_ == Kind::kFloat ? scalar_.real : static_cast<double>(AsInteger()); }

const StringObject& Value::string_object() const { return As<StringObject>(); }
const std::string& Value::AsString() const { return As<StringObject>().text; }
const std::vector<Value>& Value::items() const { return As<SequenceObject>().items; }
const DictObject& Value::dict() const { return As<DictObject>(); }
const std::string& Value::undefined_message() const { return As<UndefinedObject>().message; }

int64_t RangeObject::size() const {
  if (step > 0) return start < stop ? (stop - start - 1) / step + 1 : 0;
  return start > stop ? (start - stop - 1) / -step + 1 : 0;
}

const Value* DictObject::Find(std::string_view key) const {
  if (index.empty()) {
    for (const auto& [name, value] : entries) {
      if (name.IsString() && name.AsString() == key) return &value;
    }
    return nullptr;
  }
  const auto [begin, end] = index.equal_range(std::hash<std::string_view>()(key));
  for (auto it = begin; it != end; ++it) {
    const auto& [name, value] = entries[it->second];
    if (name.IsString() && name.AsString() == key) return &value;
  }
  return nullptr;
}

const Value* DictObject::Find(const Value& key, Budget& budget) const {
  if (key.IsString()) return Find(std::string_view(key.AsString()));
  const size_t hash = Hash(key, budget);  // fails for lists and dicts, even when there is nothing to find
  if (index.empty()) {
    for (const auto& [name, value] : entries) {
      if (Equal(name, key, budget)) return &value;
    }
    return nullptr;
  }
  const auto [begin, end] = index.equal_range(hash);
  for (auto it = begin; it != end; ++it) {
    const auto& [name, value] = entries[it->second];
    if (Equal(name, key, budget)) return &value;
  }
  return nullptr;
}

void DictBuilder::Set(Value key, Value value) {
  if (const Value* found = dict_->Find(key, budget_)) {
    *const_cast<Value*>(found) = std::move(value);  // still being built, and built by us
    return;
  }
  budget_.Allocate(2 * sizeof(Value) + 16);
  dict_->entries.emplace_back(std::move(key), std::move(value));
  const size_t size = dict_->entries.size();
  if (size < kIndexedDictSize) return;
  const size_t first = size == kIndexedDictSize ? 0 : size - 1;
  for (size_t i = first; i < size; ++i) {
    dict_->index.emplace(Hash(dict_->entries[i].first, budget_), static_cast<uint32_t>(i));
  }
}

Value DictBuilder::Finish() {
  int depth = 0;
  for (const auto& [key, value] : dict_->entries) depth = std::max({depth, key.depth(), value.depth()});
  if (depth >= budget_.limits().max_value_depth) {
    FailLimit("values are nested more than {} deep (max_value_depth)", budget_.limits().max_value_depth);
  }
  dict_->depth = depth + 1;
  return Value::Of(Kind::kDict, std::move(dict_));
}

Value* NamespaceObject::Find(std::string_view name) {
  for (auto& [key, value] : attributes) {
    if (key == name) return &value;
  }
  return nullptr;
}

void SetDepth(Object& object, const std::vector<Value>& parts, const Budget& budget) {
  int depth = 0;
  for (const Value& part : parts) depth = std::max(depth, part.depth());
  if (depth >= budget.limits().max_value_depth) {
    FailLimit("values are nested more than {} deep (max_value_depth)", budget.limits().max_value_depth);
  }
  object.depth = depth + 1;
}

Value MakeString(std::string text, Budget& budget, bool markup) {
  budget.Allocate(text.size() + sizeof(StringObject));
  return Value::String(std::move(text), markup);
}

Value MakeSequence(Kind kind, std::vector<Value> items, Budget& budget) {
  budget.AllocateRepeated(items.size() + 1, sizeof(Value));
  auto object = std::make_shared<SequenceObject>();
  SetDepth(*object, items, budget);
  object->items = std::move(items);
  return Value::Of(kind, std::move(object));
}

Value MakeList(std::vector<Value> items, Budget& budget) { return MakeSequence(Kind::kList, std::move(items), budget); }

Value MakeTuple(std::vector<Value> items, Budget& budget) {
  return MakeSequence(Kind::kTuple, std::move(items), budget);
}

Value MakeIterator(std::vector<Value> items, Budget& budget, std::string_view type_name) {
  budget.AllocateRepeated(items.size() + 1, sizeof(Value));
  auto object = std::make_shared<IteratorObject>();
  SetDepth(*object, items, budget);
  object->items = std::move(items);
  object->type_name = type_name;
  return Value::Of(Kind::kIterator, std::move(object));
}

std::string_view TypeName(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
      return "Undefined";
    case Kind::kNone:
      return "NoneType";
    case Kind::kBool:
      return "bool";
    case Kind::kInt:
      return "int";
    case Kind::kFloat:
      return "float";
    case Kind::kString:
      return value.string_object().markup ? "Markup" : "str";
    case Kind::kList:
      return "list";
    case Kind::kTuple:
      return "tuple";
    case Kind::kDict:
      return "dict";
    case Kind::kRange:
      return "range";
    case Kind::kDictView:
      switch (value.As<DictViewObject>().part) {
        case DictViewObject::Part::kKeys:
          return "dict_keys";
        case DictViewObject::Part::kValues:
          return "dict_values";
        case DictViewObject::Part::kItems:
          return "dict_items";
      }
      return "dict_items";
    case Kind::kIterator:
      return value.As<IteratorObject>().type_name;
    case Kind::kNamespace:
      return "TemplateNamespace";
    case Kind::kSlice:
      return "slice";
    case Kind::kCallable:
      return value.As<CallableObject>().type_name();
  }
  return "object";
}

bool HasLength(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
    case Kind::kString:
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kDict:
    case Kind::kRange:
    case Kind::kDictView:
      return true;
    case Kind::kCallable:
      return value.As<CallableObject>().elements() != nullptr;
    default:
      return false;
  }
}

size_t Length(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
      return 0;
    case Kind::kString:
      return value.string_object().length;
    case Kind::kList:
    case Kind::kTuple:
      return value.items().size();
    case Kind::kDict:
      return value.dict().entries.size();
    case Kind::kRange:
      return static_cast<size_t>(value.As<RangeObject>().size());
    case Kind::kDictView:
      return value.As<DictViewObject>().source.dict().entries.size();
    case Kind::kCallable:
      if (const std::vector<Value>* elements = value.As<CallableObject>().elements()) return elements->size();
      break;
    default:
      break;
  }
  Fail("object of type '{}' has no len()", TypeName(value));
}

bool Truthy(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return false;
    case Kind::kBool:
      return value.AsBool();
    case Kind::kInt:
      return value.AsInteger() != 0;
    case Kind::kFloat:
      return value.AsDouble() != 0;
    default:
      return !HasLength(value) || Length(value) != 0;
  }
}

bool IsIterable(const Value& value) { return value.Is(Kind::kIterator) || HasLength(value); }

std::vector<Value> Iterate(const Value& value, Budget& budget) {
  if (!IsIterable(value)) Fail("'{}' object is not iterable", TypeName(value));
  if (value.IsString()) return Characters(value.string_object(), budget);
  if (value.Is(Kind::kIterator)) {
    auto iterator = value.Shared<IteratorObject>();
    std::vector<Value> rest(iterator->items.begin() + static_cast<ptrdiff_t>(iterator->next), iterator->items.end());
    iterator->next = iterator->items.size();
    budget.Step(rest.size());
    return rest;
  }
  const size_t length = Length(value);
  budget.Step(length);
  budget.AllocateRepeated(length, sizeof(Value));
  if (value.IsSequence()) return value.items();
  std::vector<Value> elements;
  elements.reserve(length);
  if (value.Is(Kind::kDict)) {
    for (const auto& entry : value.dict().entries) elements.push_back(entry.first);
  } else if (value.Is(Kind::kRange)) {
    const auto& range = value.As<RangeObject>();
    for (int64_t i = 0; i < range.size(); ++i) elements.push_back(Value::Int(range.At(i)));
  } else if (value.Is(Kind::kDictView)) {
    const auto& view = value.As<DictViewObject>();
    for (const auto& entry : view.source.dict().entries) elements.push_back(ViewElement(view, entry, budget));
  } else if (value.Is(Kind::kCallable)) {
    elements = *value.As<CallableObject>().elements();
  }
  return elements;
}

bool Equal(const Value& a, const Value& b, Budget& budget) {
  budget.Step();
  if (a.IsNumber() && b.IsNumber()) return EqualNumbers(a, b);
  if (a.kind() != b.kind()) return false;
  if (a.object() != nullptr && a.object() == b.object()) return true;
  switch (a.kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return true;
    case Kind::kString:
      budget.Scan(a.AsString().size());
      return a.AsString() == b.AsString();
    case Kind::kList:
    case Kind::kTuple:
      return EqualSequences(a.items(), b.items(), budget);
    case Kind::kDict:
      return EqualDicts(a.dict(), b.dict(), budget);
    case Kind::kRange:
      return EqualRanges(a.As<RangeObject>(), b.As<RangeObject>());
    case Kind::kDictView: {
      const auto& view = a.As<DictViewObject>();
      const auto& other = b.As<DictViewObject>();
      if (view.part == DictViewObject::Part::kValues || view.part != other.part) return false;
      if (view.part == DictViewObject::Part::kItems) return Equal(view.source, other.source, budget);
      if (Length(a) != Length(b)) return false;
      for (const auto& entry : view.source.dict().entries) {
        if (other.source.dict().Find(entry.first, budget) == nullptr) return false;
      }
      return true;
    }
    default:
      return false;
  }
}

size_t Hash(const Value& value, Budget& budget) {
  budget.Step();
  switch (value.kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return static_cast<size_t>(value.kind());
    case Kind::kBool:
    case Kind::kInt:
      return std::hash<int64_t>()(static_cast<int64_t>(value.AsInteger()));
    case Kind::kFloat: {
      // A float that is an integer is the same key as that integer.
      const double real = value.AsDouble();
      if (real == std::floor(real) && std::abs(real) < 9e18) return std::hash<int64_t>()(static_cast<int64_t>(real));
      return std::hash<double>()(real);
    }
    case Kind::kString:
      budget.Scan(value.AsString().size());
      return std::hash<std::string_view>()(value.AsString());
    case Kind::kTuple: {
      size_t hash = value.items().size();
      for (const Value& item : value.items()) hash = hash * 1000003 + Hash(item, budget);
      return hash;
    }
    case Kind::kList:
    case Kind::kDict:
    case Kind::kSlice:
      Fail("unhashable type: '{}'", TypeName(value));
    default:
      return std::hash<const void*>()(value.object());
  }
}

}  // namespace moed::jinja
