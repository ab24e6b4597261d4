// Walks the syntax tree of a template once, for one rendering. Not shared between threads.
#ifndef MOED_TOKENIZER_JINJA_EVALUATOR_H_
#define MOED_TOKENIZER_JINJA_EVALUATOR_H_

#include <absl/time/time.h>

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tokenizer/jinja/ast.h"
#include "tokenizer/jinja/builtins.h"
#include "tokenizer/jinja/callable.h"
#include "tokenizer/jinja/value.h"

namespace moed::jinja {

struct LoopObject;

// The variables of a block. Loops, macros, {% with %} and captured blocks open a scope; {% if %} does not. A name is
// looked up outwards, and assigned in the innermost scope.
struct Scope {
  Value* Find(NameId name);
  void Set(NameId name, Value value);

  std::shared_ptr<Scope> parent;
  std::vector<std::pair<NameId, Value>> variables;
};

class Evaluator {
 public:
  // `tree`, `input` (a dict: the variables given from outside) and `budget` outlive the evaluator.
  Evaluator(const SyntaxTree& tree, const Value& input, absl::Time now, Budget& budget);
  ~Evaluator();
  Evaluator(const Evaluator&) = delete;
  Evaluator& operator=(const Evaluator&) = delete;

  // The rendered text. Throws TemplateError; line() then tells where.
  std::string Render();
  int line() const { return line_; }

  // ---- For builtins ----

  Budget& budget() { return budget_; }
  absl::Time now() const { return now_; }

  Value Call(const Value& callee, Arguments& arguments);
  Value CallFilter(std::string_view name, const Value& input, Arguments& arguments);
  bool CallTest(std::string_view name, const Value& input, Arguments& arguments);
  // object.name and object[key] by the rules of the sandbox: attribute before item, and item before attribute.
  Value GetAttribute(const Value& object, std::string_view name);
  Value GetItem(const Value& object, const Value& key);
  // Namespaces may hold themselves; the evaluator empties them at the end.
  void Own(std::shared_ptr<NamespaceObject> object) { namespaces_.push_back(std::move(object)); }
  // So may loops, by loop.changed(loop).
  void Own(std::shared_ptr<LoopObject> loop) { loops_.push_back(std::move(loop)); }

  // ---- For macros and recursive loops ----

  std::string CallMacro(const MacroDefinition& definition, const std::shared_ptr<Scope>& closure, Arguments& arguments);
  std::string RunLoop(const ForStmt& loop, const std::shared_ptr<Scope>& scope, const Value& iterable, int depth);

 private:
  enum class Flow : uint8_t { kNormal, kBreak, kContinue };
  class DepthGuard;
  class ScopeGuard;
  class CaptureGuard;

  Flow Execute(const Body& body);
  Flow Execute(const Stmt& stmt);
  Flow ExecuteIf(const IfStmt& stmt);
  void ExecuteFor(const ForStmt& stmt);
  Flow IterateLoop(const ForStmt& stmt, const Value& iterable, int depth);
  std::vector<Value> LoopItems(const ForStmt& stmt, const Value& iterable);
  void ExecuteSet(const SetStmt& stmt);
  void ExecuteSetBlock(const SetBlockStmt& stmt);
  void ExecuteCallBlock(const CallBlockStmt& stmt);
  void ExecuteFilterBlock(const FilterBlockStmt& stmt);
  Flow ExecuteWith(const WithStmt& stmt);
  void ExecuteScope(const ScopeStmt& stmt);
  // Notes that a value refers to the current scope.
  void KeepScope();
  Value MakeMacro(const MacroDefinition& definition);
  void BindMacroParameters(const MacroDefinition& definition, Arguments& arguments);
  void CheckNamespaces(const Target& target);
  void Assign(const Target& target, const Value& value);
  void Emit(std::string_view text);

  Value Eval(const Expr& expr);
  Value EvalName(const NameExpr& expr);
  std::vector<Value> EvalAll(const std::vector<ExprPtr>& exprs);
  Value EvalDict(const DictExpr& expr);
  Value EvalConcat(const ConcatExpr& expr);
  bool EvalCompare(const CompareExpr& expr);
  Value EvalConditional(const ConditionalExpr& expr);
  Value EvalItem(const ItemExpr& expr);
  Value EvalCall(const CallExpr& expr, const Value* caller);
  Value EvalFilter(const FilterExpr& expr);
  Value EvalTest(const TestExpr& expr);
  Arguments EvalArguments(const CallArguments& arguments);

  const SyntaxTree& tree_;
  const DictObject& input_;
  const absl::Time now_;
  Budget& budget_;
  int line_ = 0;
  int depth_ = 0;
  std::string* out_ = nullptr;       // what is printed goes here
  const Value* captured_ = nullptr;  // the input of a filter over a captured block
  std::shared_ptr<Scope> root_;
  std::shared_ptr<Scope> scope_;
  // Kept apart from the values, so that cycles and long chains through them can be undone without recursion.
  std::vector<std::shared_ptr<NamespaceObject>> namespaces_;
  std::vector<std::shared_ptr<LoopObject>> loops_;
  std::vector<std::shared_ptr<Scope>> captured_scopes_;  // of macros and recursive loops
};

}  // namespace moed::jinja

#endif  // MOED_TOKENIZER_JINJA_EVALUATOR_H_
