// The variable `loop` of a {% for %} block.
#ifndef MOED_TOKENIZER_JINJA_LOOP_H_
#define MOED_TOKENIZER_JINJA_LOOP_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tokenizer/jinja/evaluator.h"

namespace moed::jinja {

struct LoopObject : CallableObject, std::enable_shared_from_this<LoopObject> {
  // loop(children): renders the body for them, in a loop marked `recursive`.
  Value Call(Evaluator& evaluator, Arguments& arguments) override;
  std::optional<Value> Attribute(std::string_view name) override;
  std::string_view type_name() const override { return "LoopContext"; }
  const std::vector<Value>* elements() const override { return &items; }
  std::string Repr() const override;

  Value Cycle(Arguments& arguments);
  Value Changed(Evaluator& evaluator, Arguments& arguments);

  const ForStmt* stmt = nullptr;
  std::shared_ptr<Scope> scope;  // around the loop, if it is recursive
  std::vector<Value> items;
  size_t index = 0;  // of the current item, from 0
  int recursion = 0;
  std::optional<std::vector<Value>> last_changed;
};

}  // namespace moed::jinja

#endif  // MOED_TOKENIZER_JINJA_LOOP_H_
