#include "tokenizer/jinja/callable.h"

#include <algorithm>

namespace moed::jinja {

std::optional<Value> Arguments::TakeKeyword(std::string_view name) {
  const auto it = std::find_if(keyword.begin(), keyword.end(), [&](const auto& entry) { return entry.first == name; });
  if (it == keyword.end()) return std::nullopt;
  Value value = std::move(it->second);
  keyword.erase(it);
  return value;
}

Parameters::Parameters(std::string_view function, std::initializer_list<std::string_view> names,
                       const Arguments& arguments, size_t required)
    : function_(function), names_(names), values_(names.size()) {
  if (arguments.positional.size() > names_.size()) {
    Fail("{}() takes at most {} arguments ({} given)", function, names_.size(), arguments.positional.size());
  }
  std::copy(arguments.positional.begin(), arguments.positional.end(), values_.begin());
  for (const auto& [name, value] : arguments.keyword) {
    const auto it = std::find(names_.begin(), names_.end(), name);
    if (it == names_.end()) Fail("{}() got an unexpected keyword argument '{}'", function, name);
    std::optional<Value>& slot = values_[static_cast<size_t>(it - names_.begin())];
    if (slot.has_value()) Fail("{}() got multiple values for argument '{}'", function, name);
    slot = value;
  }
  for (size_t i = 0; i < required; ++i) {
    if (!values_[i].has_value()) Fail("{}() missing required argument '{}'", function, names_[i]);
  }
}

int64_t Parameters::Int(size_t index, int64_t fallback) const {
  if (!Has(index)) return fallback;
  const Value& value = *values_[index];
  if (!value.IsInteger()) {
    Fail("{}(): argument '{}' must be an integer, not '{}'", function_, names_[index], TypeName(value));
  }
  const Integer number = value.AsInteger();
  if (number > INT64_MAX || number < INT64_MIN) {
    Fail("{}(): argument '{}' is beyond 64 bits", function_, names_[index]);
  }
  return static_cast<int64_t>(number);
}

const std::string& Parameters::String(size_t index) const {
  const Value& value = *values_[index];
  if (!value.IsString()) {
    Fail("{}(): argument '{}' must be a string, not '{}'", function_, names_[index], TypeName(value));
  }
  return value.AsString();
}

std::optional<Value> CallableObject::Attribute(std::string_view) { return std::nullopt; }

std::string CallableObject::Repr() const { return fmt::format("<{} {}>", type_name(), name); }

Value MakeFunction(std::string name, NativeFunction::Body body, int depth) {
  auto function = std::make_shared<NativeFunction>();
  function->name = std::move(name);
  function->body = std::move(body);
  function->depth = depth;
  return Value::Of(Kind::kCallable, std::move(function));
}

}  // namespace moed::jinja
