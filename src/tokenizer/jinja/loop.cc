#include "tokenizer/jinja/loop.h"

namespace moed::jinja {

Value LoopObject::Call(Evaluator& evaluator, Arguments& arguments) {
  const Parameters parameters("loop", {"iterable"}, arguments, 1);
  if (!stmt->recursive) Fail("The loop must have the 'recursive' marker to be called recursively.");
  return MakeString(evaluator.RunLoop(*stmt, scope, parameters[0], recursion + 1), evaluator.budget());
}

std::optional<Value> LoopObject::Attribute(std::string_view attribute) {
  const auto position = static_cast<Integer>(index);
  const auto count = static_cast<Integer>(items.size());
  if (attribute == "index") return Value::Int(position + 1);
  if (attribute == "index0") return Value::Int(position);
  if (attribute == "first") return Value::Bool(index == 0);
  if (attribute == "last") return Value::Bool(index + 1 == items.size());
  if (attribute == "length") return Value::Int(count);
  if (attribute == "revindex") return Value::Int(count - position);
  if (attribute == "revindex0") return Value::Int(count - position - 1);
  if (attribute == "depth") return Value::Int(recursion + 1);
  if (attribute == "depth0") return Value::Int(recursion);
  if (attribute == "previtem") {
    return index == 0 ? Value::Undefined("there is no previous item") : items[index - 1];
  }
  if (attribute == "nextitem") {
    return index + 1 >= items.size() ? Value::Undefined("there is no next item") : items[index + 1];
  }
  auto self = shared_from_this();
  if (attribute == "cycle") {
    return MakeFunction(
        "cycle", [self](Evaluator&, Arguments& arguments) { return self->Cycle(arguments); }, depth);
  }
  if (attribute == "changed") {
    return MakeFunction(
        "changed", [self](Evaluator& evaluator, Arguments& arguments) { return self->Changed(evaluator, arguments); },
        depth);
  }
  return std::nullopt;
}

Value LoopObject::Cycle(Arguments& arguments) {
  if (arguments.positional.empty()) Fail("no items for cycling given");
  return arguments.positional[index % arguments.positional.size()];
}

Value LoopObject::Changed(Evaluator& evaluator, Arguments& arguments) {
  bool changed = !last_changed.has_value() || last_changed->size() != arguments.positional.size();
  for (size_t i = 0; !changed && i < last_changed->size(); ++i) {
    changed = !Equal((*last_changed)[i], arguments.positional[i], evaluator.budget());
  }
  if (changed) {
    if (!last_changed.has_value()) evaluator.Own(shared_from_this());
    // Charged and checked for depth like any other container, since the loop now holds these values.
    last_changed = MakeTuple(arguments.positional, evaluator.budget()).items();
  }
  return Value::Bool(changed);
}

std::string LoopObject::Repr() const { return fmt::format("<LoopContext {}/{}>", index + 1, items.size()); }

}  // namespace moed::jinja
