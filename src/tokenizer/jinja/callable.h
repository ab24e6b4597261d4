// What a template can call: functions, methods bound to their object, macros, `loop`, cyclers and joiners.
#ifndef MOED_TOKENIZER_JINJA_CALLABLE_H_
#define MOED_TOKENIZER_JINJA_CALLABLE_H_

#include <functional>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tokenizer/jinja/value.h"

namespace moed::jinja {

class Evaluator;

// The arguments of a call, filter or test.
struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> keyword;

  // Takes a keyword argument out of the list.
  std::optional<Value> TakeKeyword(std::string_view name);
};

// Arguments matched with a signature: `Parameters("indent", {"width", "first", "blank"}, arguments)`.
class Parameters {
 public:
  // The first `required` names must be given. Fails, as Python does, for too many, unknown or repeated arguments.
  Parameters(std::string_view function, std::initializer_list<std::string_view> names, const Arguments& arguments,
             size_t required = 0);

  bool Has(size_t index) const { return values_[index].has_value(); }
  const Value& operator[](size_t index) const { return *values_[index]; }
  Value Get(size_t index, const Value& fallback) const { return Has(index) ? *values_[index] : fallback; }
  bool Truth(size_t index, bool fallback) const { return Has(index) ? Truthy(*values_[index]) : fallback; }
  // Has a value that is not none.
  bool Given(size_t index) const { return Has(index) && !values_[index]->IsNone(); }
  // Fail where the argument is of another type.
  int64_t Int(size_t index, int64_t fallback) const;
  const std::string& String(size_t index) const;

 private:
  std::string_view function_;
  std::vector<std::string_view> names_;
  std::vector<std::optional<Value>> values_;
};

struct CallableObject : Object {
  virtual Value Call(Evaluator& evaluator, Arguments& arguments) = 0;
  // An attribute of the object (`loop.index`, `macro.name`); nothing where it has none of that name.
  virtual std::optional<Value> Attribute(std::string_view name);
  virtual std::string_view type_name() const { return "function"; }
  virtual bool can_be_called() const { return true; }
  // Of an object that can be iterated over (`loop`).
  virtual const std::vector<Value>* elements() const { return nullptr; }
  virtual std::string Repr() const;

  std::string name;
};

// A C++ function. `depth` must be set where it captures values.
struct NativeFunction : CallableObject {
  using Body = std::function<Value(Evaluator&, Arguments&)>;
  Value Call(Evaluator& evaluator, Arguments& arguments) override { return body(evaluator, arguments); }

  Body body;
};

Value MakeFunction(std::string name, NativeFunction::Body body, int depth = 1);

}  // namespace moed::jinja

#endif  // MOED_TOKENIZER_JINJA_CALLABLE_H_
