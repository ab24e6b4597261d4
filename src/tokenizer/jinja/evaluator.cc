#include "tokenizer/jinja/evaluator.h"

#include <algorithm>

#include "tokenizer/jinja/loop.h"
#include "tokenizer/jinja/operators.h"
#include "tokenizer/jinja/text.h"

namespace moed::jinja {

Value* Scope::Find(NameId name) {
  for (auto& [id, value] : variables) {
    if (id == name) return &value;
  }
  return nullptr;
}

void Scope::Set(NameId name, Value value) {
  if (Value* found = Find(name)) {
    *found = std::move(value);
  } else {
    variables.emplace_back(name, std::move(value));
  }
}

class Evaluator::DepthGuard {
 public:
  explicit DepthGuard(Evaluator* evaluator) : evaluator_(evaluator) {
    evaluator_->budget_.Step();
    const int limit = evaluator_->budget_.limits().max_call_depth;
    if (++evaluator_->depth_ > limit) {
      --evaluator_->depth_;
      FailLimit("the template calls itself more than {} levels deep (max_call_depth)", limit);
    }
  }
  ~DepthGuard() { --evaluator_->depth_; }
  DepthGuard(const DepthGuard&) = delete;
  DepthGuard& operator=(const DepthGuard&) = delete;

 private:
  Evaluator* evaluator_;
};

// Opens a scope within `parent`, and returns to the one that was current.
class Evaluator::ScopeGuard {
 public:
  ScopeGuard(Evaluator* evaluator, std::shared_ptr<Scope> parent)
      : evaluator_(evaluator), outer_(std::move(evaluator->scope_)) {
    evaluator_->scope_ = std::make_shared<Scope>();
    evaluator_->scope_->parent = std::move(parent);
  }
  explicit ScopeGuard(Evaluator* evaluator) : ScopeGuard(evaluator, evaluator->scope_) {}
  ~ScopeGuard() { evaluator_->scope_ = std::move(outer_); }
  ScopeGuard(const ScopeGuard&) = delete;
  ScopeGuard& operator=(const ScopeGuard&) = delete;

  const std::shared_ptr<Scope>& outer() const { return outer_; }

 private:
  Evaluator* evaluator_;
  std::shared_ptr<Scope> outer_;
};

// Sends what is printed into a string of its own.
class Evaluator::CaptureGuard {
 public:
  explicit CaptureGuard(Evaluator* evaluator) : evaluator_(evaluator), outer_(evaluator->out_) {
    evaluator_->out_ = &text_;
  }
  ~CaptureGuard() { evaluator_->out_ = outer_; }
  CaptureGuard(const CaptureGuard&) = delete;
  CaptureGuard& operator=(const CaptureGuard&) = delete;

  std::string Take() { return std::move(text_); }

 private:
  Evaluator* evaluator_;
  std::string* outer_;
  std::string text_;
};

namespace {

struct MacroObject : CallableObject {
  Value Call(Evaluator& evaluator, Arguments& arguments) override {
    return MakeString(evaluator.CallMacro(*definition, closure, arguments), evaluator.budget());
  }

  std::optional<Value> Attribute(std::string_view attribute) override {
    if (attribute == "name") return name.empty() ? Value() : Value::String(name);
    if (attribute == "caller") return Value::Bool(definition->uses_caller);
    if (attribute == "catch_kwargs") return Value::Bool(definition->uses_kwargs);
    if (attribute == "catch_varargs") return Value::Bool(definition->uses_varargs);
    return std::nullopt;
  }

  std::string_view type_name() const override { return "Macro"; }
  std::string Repr() const override { return name.empty() ? "<Macro anonymous>" : fmt::format("<Macro '{}'>", name); }

  const MacroDefinition* definition = nullptr;
  std::shared_ptr<Scope> closure;
};

}  // namespace

Evaluator::Evaluator(const SyntaxTree& tree, const Value& input, absl::Time now, Budget& budget)
    : tree_(tree), input_(input.dict()), now_(now), budget_(budget), root_(std::make_shared<Scope>()), scope_(root_) {}

Evaluator::~Evaluator() {
  for (const auto& object : namespaces_) object->attributes.clear();
  for (const auto& loop : loops_) loop->last_changed.reset();
  for (const auto& scope : captured_scopes_) {
    scope->variables.clear();
    scope->parent.reset();
  }
}

std::string Evaluator::Render() {
  std::string text;
  out_ = &text;
  Execute(tree_.body);
  return text;
}

// ---- Statements ----

Evaluator::Flow Evaluator::Execute(const Body& body) {
  for (const StmtPtr& stmt : body) {
    const Flow flow = Execute(*stmt);
    if (flow != Flow::kNormal) return flow;
  }
  return Flow::kNormal;
}

Evaluator::Flow Evaluator::Execute(const Stmt& stmt) {
  const DepthGuard guard(this);
  line_ = stmt.line;
  switch (stmt.kind) {
    case StmtKind::kText:
      Emit(static_cast<const TextStmt&>(stmt).text);
      return Flow::kNormal;
    case StmtKind::kPrint: {
      const Value value = Eval(*static_cast<const PrintStmt&>(stmt).value);
      if (value.IsString()) {
        Emit(value.AsString());
      } else {
        Emit(Str(value, budget_));
      }
      return Flow::kNormal;
    }
    case StmtKind::kIf:
      return ExecuteIf(static_cast<const IfStmt&>(stmt));
    case StmtKind::kFor:
      ExecuteFor(static_cast<const ForStmt&>(stmt));
      return Flow::kNormal;
    case StmtKind::kSet:
      ExecuteSet(static_cast<const SetStmt&>(stmt));
      return Flow::kNormal;
    case StmtKind::kSetBlock:
      ExecuteSetBlock(static_cast<const SetBlockStmt&>(stmt));
      return Flow::kNormal;
    case StmtKind::kMacro: {
      const auto& macro = static_cast<const MacroStmt&>(stmt);
      scope_->Set(macro.name, MakeMacro(macro.definition));
      return Flow::kNormal;
    }
    case StmtKind::kCallBlock:
      ExecuteCallBlock(static_cast<const CallBlockStmt&>(stmt));
      return Flow::kNormal;
    case StmtKind::kFilterBlock:
      ExecuteFilterBlock(static_cast<const FilterBlockStmt&>(stmt));
      return Flow::kNormal;
    case StmtKind::kWith:
      return ExecuteWith(static_cast<const WithStmt&>(stmt));
    case StmtKind::kScope:
    case StmtKind::kBlock:
      ExecuteScope(static_cast<const ScopeStmt&>(stmt));
      return Flow::kNormal;
    case StmtKind::kBreak:
      return Flow::kBreak;
    case StmtKind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNormal;
}

void Evaluator::Emit(std::string_view text) {
  budget_.Scan(text.size());
  const size_t limit = budget_.limits().max_output_bytes;
  if (text.size() > limit - std::min(limit, out_->size())) {
    FailLimit("the template prints more than {} bytes (max_output_bytes)", limit);
  }
  out_->append(text);
}

Evaluator::Flow Evaluator::ExecuteIf(const IfStmt& stmt) {
  for (const auto& [test, body] : stmt.branches) {
    if (Truthy(Eval(*test))) return Execute(body);
  }
  return Execute(stmt.otherwise);
}

void Evaluator::ExecuteFor(const ForStmt& stmt) {
  const Value iterable = Eval(*stmt.iterable);
  line_ = stmt.line;
  IterateLoop(stmt, iterable, 0);
}

std::string Evaluator::RunLoop(const ForStmt& loop, const std::shared_ptr<Scope>& scope, const Value& iterable,
                               int depth) {
  const DepthGuard guard(this);
  CaptureGuard capture(this);
  std::shared_ptr<Scope> outer = std::exchange(scope_, scope);
  IterateLoop(loop, iterable, depth);
  scope_ = std::move(outer);
  return capture.Take();
}

// What the loop goes over, once its condition has picked from it.
std::vector<Value> Evaluator::LoopItems(const ForStmt& stmt, const Value& iterable) {
  std::vector<Value> items = Iterate(iterable, budget_);
  if (stmt.condition == nullptr) return items;
  std::vector<Value> picked;
  for (Value& item : items) {
    const ScopeGuard guard(this);
    Assign(stmt.target, item);
    if (Truthy(Eval(*stmt.condition))) picked.push_back(std::move(item));
  }
  return picked;
}

Evaluator::Flow Evaluator::IterateLoop(const ForStmt& stmt, const Value& iterable, int depth) {
  static constexpr std::string_view kLoop = "loop";
  auto loop = std::make_shared<LoopObject>();
  loop->name = kLoop;
  loop->stmt = &stmt;
  if (stmt.recursive) {
    loop->scope = scope_;
    KeepScope();
  }
  loop->recursion = depth;
  loop->items = LoopItems(stmt, iterable);
  SetDepth(*loop, loop->items, budget_);
  const Value loop_value = Value::Of(Kind::kCallable, loop);

  bool completed = false;  // an iteration ran to its end; as in jinja2, one left by break or continue does not count
  for (size_t i = 0; i < loop->items.size(); ++i) {
    const ScopeGuard guard(this);
    loop->index = i;
    budget_.Step();
    scope_->Set(tree_.loop_name, loop_value);
    Assign(stmt.target, loop->items[i]);
    const Flow flow = Execute(stmt.body);
    if (flow == Flow::kBreak) break;
    if (flow == Flow::kNormal) completed = true;
  }
  if (!completed && !stmt.otherwise.empty()) {
    const ScopeGuard guard(this);
    Execute(stmt.otherwise);
  }
  return Flow::kNormal;
}

void Evaluator::ExecuteSet(const SetStmt& stmt) {
  CheckNamespaces(stmt.target);
  const Value value = Eval(*stmt.value);
  line_ = stmt.line;
  Assign(stmt.target, value);
}

void Evaluator::ExecuteSetBlock(const SetBlockStmt& stmt) {
  Value value;
  {
    const ScopeGuard guard(this);
    CaptureGuard capture(this);
    Execute(stmt.body);
    value = MakeString(capture.Take(), budget_);
    if (stmt.filter != nullptr) {
      const Value* outer = std::exchange(captured_, &value);
      Value filtered = Eval(*stmt.filter);
      captured_ = outer;
      value = std::move(filtered);
    }
  }
  CheckNamespaces(stmt.target);
  Assign(stmt.target, value);
}

void Evaluator::ExecuteCallBlock(const CallBlockStmt& stmt) {
  const Value caller = MakeMacro(stmt.caller);
  const Value result = EvalCall(*stmt.call, &caller);
  Emit(Str(result, budget_));
}

void Evaluator::ExecuteFilterBlock(const FilterBlockStmt& stmt) {
  Value result;
  {
    const ScopeGuard guard(this);
    CaptureGuard capture(this);
    Execute(stmt.body);
    const Value text = MakeString(capture.Take(), budget_);
    const Value* outer = std::exchange(captured_, &text);
    result = Eval(*stmt.filter);
    captured_ = outer;
  }
  Emit(Str(result, budget_));
}

Evaluator::Flow Evaluator::ExecuteWith(const WithStmt& stmt) {
  std::vector<Value> values;
  for (const auto& [target, expr] : stmt.assignments) values.push_back(Eval(*expr));
  const ScopeGuard guard(this);
  for (size_t i = 0; i < values.size(); ++i) Assign(stmt.assignments[i].first, values[i]);
  return Execute(stmt.body);
}

void Evaluator::ExecuteScope(const ScopeStmt& stmt) {
  const ScopeGuard guard(this, stmt.kind == StmtKind::kBlock ? root_ : scope_);
  Execute(stmt.body);
}

// ---- Macros ----

void Evaluator::KeepScope() {
  if (!captured_scopes_.empty() && captured_scopes_.back() == scope_) return;
  budget_.Allocate(sizeof(Scope));
  captured_scopes_.push_back(scope_);
}

Value Evaluator::MakeMacro(const MacroDefinition& definition) {
  budget_.Allocate(sizeof(MacroObject) + sizeof(Scope));
  auto macro = std::make_shared<MacroObject>();
  macro->name = definition.name;
  macro->definition = &definition;
  macro->closure = scope_;
  KeepScope();
  return Value::Of(Kind::kCallable, std::move(macro));
}

std::string Evaluator::CallMacro(const MacroDefinition& definition, const std::shared_ptr<Scope>& closure,
                                 Arguments& arguments) {
  const DepthGuard depth_guard(this);
  const ScopeGuard scope_guard(this, closure);
  CaptureGuard capture(this);
  BindMacroParameters(definition, arguments);
  Execute(definition.body);
  return capture.Take();
}

void Evaluator::BindMacroParameters(const MacroDefinition& definition, Arguments& arguments) {
  const std::string_view name = definition.name.empty() ? std::string_view("None") : definition.name;
  const size_t count = definition.parameters.size();
  const size_t given = std::min(count, arguments.positional.size());
  const size_t first_default = count - definition.defaults.size();
  for (size_t i = 0; i < count; ++i) {
    const auto& [id, parameter] = definition.parameters[i];
    std::optional<Value> value;
    if (i < given) {
      value = arguments.positional[i];
    } else {
      value = arguments.TakeKeyword(parameter);
    }
    if (!value.has_value() && i >= first_default) value = Eval(*definition.defaults[i - first_default]);
    if (!value.has_value()) value = Value::Undefined(fmt::format("parameter '{}' was not provided", parameter));
    scope_->Set(id, *std::move(value));
  }
  if (definition.uses_caller && scope_->Find(tree_.caller_name) == nullptr) {
    const std::optional<Value> caller = arguments.TakeKeyword("caller");
    scope_->Set(tree_.caller_name, caller.value_or(Value::Undefined("No caller defined")));
  }
  if (definition.uses_kwargs) {
    DictBuilder rest(budget_);
    for (auto& [key, value] : arguments.keyword) rest.Set(key, value);
    scope_->Set(tree_.kwargs_name, rest.Finish());
  } else if (!arguments.keyword.empty()) {
    Fail("macro '{}' takes no keyword argument '{}'", name, arguments.keyword.front().first);
  }
  if (definition.uses_varargs) {
    std::vector<Value> rest(arguments.positional.begin() + static_cast<ptrdiff_t>(given), arguments.positional.end());
    scope_->Set(tree_.varargs_name, MakeTuple(std::move(rest), budget_));
  } else if (arguments.positional.size() > count) {
    Fail("macro '{}' takes not more than {} argument(s)", name, count);
  }
}

// ---- Assignment ----

void Evaluator::CheckNamespaces(const Target& target) {
  if (target.kind == Target::Kind::kAttribute) {
    NameExpr name;
    name.name = target.name;
    if (!EvalName(name).Is(Kind::kNamespace)) Fail("cannot assign attribute on non-namespace object");
  }
  for (const Target& part : target.parts) CheckNamespaces(part);
}

void Evaluator::Assign(const Target& target, const Value& value) {
  switch (target.kind) {
    case Target::Kind::kName:
      scope_->Set(target.name, value);
      return;
    case Target::Kind::kAttribute: {
      if (target.attribute.starts_with('_')) {
        Fail(
            "Chat templates cannot store underscore-prefixed attributes on a namespace, but got '{}'. Please rename "
            "the attribute.",
            target.attribute);
      }
      NameExpr name;
      name.name = target.name;
      auto object = EvalName(name).Shared<NamespaceObject>();
      if (Value* found = object->Find(target.attribute)) {
        *found = value;
      } else {
        budget_.Allocate(sizeof(Value) + target.attribute.size());
        object->attributes.emplace_back(target.attribute, value);
      }
      return;
    }
    case Target::Kind::kTuple: {
      if (!IsIterable(value)) Fail("cannot unpack non-iterable {} object", TypeName(value));
      const std::vector<Value> parts = Iterate(value, budget_);
      const size_t expected = target.parts.size();
      if (parts.size() > expected) Fail("too many values to unpack (expected {})", expected);
      if (parts.size() < expected) {
        Fail("not enough values to unpack (expected {}, got {})", expected, parts.size());
      }
      for (size_t i = 0; i < expected; ++i) Assign(target.parts[i], parts[i]);
      return;
    }
  }
}

// ---- Expressions ----

Value Evaluator::Eval(const Expr& expr) {
  const DepthGuard guard(this);
  switch (expr.kind) {
    case ExprKind::kConstant:
      return static_cast<const ConstantExpr&>(expr).value;
    case ExprKind::kName:
      return EvalName(static_cast<const NameExpr&>(expr));
    case ExprKind::kList:
      return MakeList(EvalAll(static_cast<const SequenceExpr&>(expr).items), budget_);
    case ExprKind::kTuple:
      return MakeTuple(EvalAll(static_cast<const SequenceExpr&>(expr).items), budget_);
    case ExprKind::kDict:
      return EvalDict(static_cast<const DictExpr&>(expr));
    case ExprKind::kUnary: {
      const auto& unary = static_cast<const UnaryExpr&>(expr);
      const Value operand = Eval(*unary.operand);
      line_ = expr.line;
      return unary.negative ? Negate(operand) : Positive(operand);
    }
    case ExprKind::kBinary: {
      const auto& binary = static_cast<const BinaryExpr&>(expr);
      const Value left = Eval(*binary.left);
      const Value right = Eval(*binary.right);
      line_ = expr.line;
      return Arithmetic(binary.op, left, right, budget_);
    }
    case ExprKind::kConcat:
      return EvalConcat(static_cast<const ConcatExpr&>(expr));
    case ExprKind::kCompare:
      return Value::Bool(EvalCompare(static_cast<const CompareExpr&>(expr)));
    case ExprKind::kNot:
      return Value::Bool(!Truthy(Eval(*static_cast<const NotExpr&>(expr).operand)));
    case ExprKind::kAnd:
    case ExprKind::kOr: {
      const auto& logical = static_cast<const LogicalExpr&>(expr);
      Value left = Eval(*logical.left);
      return Truthy(left) == (expr.kind == ExprKind::kOr) ? left : Eval(*logical.right);
    }
    case ExprKind::kConditional:
      return EvalConditional(static_cast<const ConditionalExpr&>(expr));
    case ExprKind::kAttribute: {
      const auto& attribute = static_cast<const AttributeExpr&>(expr);
      const Value object = Eval(*attribute.object);
      line_ = expr.line;
      return GetAttribute(object, attribute.name);
    }
    case ExprKind::kItem:
      return EvalItem(static_cast<const ItemExpr&>(expr));
    case ExprKind::kSlice:
      Fail("a slice can only be used within brackets");
    case ExprKind::kCall:
      return EvalCall(static_cast<const CallExpr&>(expr), nullptr);
    case ExprKind::kFilter:
      return EvalFilter(static_cast<const FilterExpr&>(expr));
    case ExprKind::kTest:
      return EvalTest(static_cast<const TestExpr&>(expr));
  }
  return Value();
}

Value Evaluator::EvalName(const NameExpr& expr) {
  for (Scope* scope = scope_.get(); scope != nullptr; scope = scope->parent.get()) {
    if (const Value* found = scope->Find(expr.name)) return *found;
  }
  const std::string& name = tree_.names[expr.name];
  if (const Value* found = input_.Find(name)) return *found;
  if (std::optional<Value> global = FindGlobal(name)) return *std::move(global);
  return Value::Undefined(fmt::format("'{}' is undefined", name));
}

std::vector<Value> Evaluator::EvalAll(const std::vector<ExprPtr>& exprs) {
  std::vector<Value> values;
  values.reserve(exprs.size());
  for (const ExprPtr& expr : exprs) values.push_back(Eval(*expr));
  return values;
}

Value Evaluator::EvalDict(const DictExpr& expr) {
  DictBuilder dict(budget_);
  for (const auto& [key, value] : expr.entries) {
    Value evaluated = Eval(*key);
    dict.Set(std::move(evaluated), Eval(*value));
  }
  return dict.Finish();
}

Value Evaluator::EvalConcat(const ConcatExpr& expr) {
  std::string text;
  for (const ExprPtr& part : expr.parts) AppendStr(&text, Eval(*part), budget_);
  return MakeString(std::move(text), budget_);
}

bool Evaluator::EvalCompare(const CompareExpr& expr) {
  Value left = Eval(*expr.first);
  for (const auto& [op, operand] : expr.rest) {
    Value right = Eval(*operand);
    line_ = expr.line;
    if (!Compare(op, left, right, budget_)) return false;
    left = std::move(right);
  }
  return true;
}

Value Evaluator::EvalConditional(const ConditionalExpr& expr) {
  if (Truthy(Eval(*expr.test))) return Eval(*expr.value);
  if (expr.otherwise != nullptr) return Eval(*expr.otherwise);
  return Value::Undefined(fmt::format(
      "the inline if-expression on line {} evaluated to false and no else section was defined.", expr.line));
}

Value Evaluator::EvalItem(const ItemExpr& expr) {
  const Value object = Eval(*expr.object);
  if (expr.key->kind != ExprKind::kSlice) {
    const Value key = Eval(*expr.key);
    line_ = expr.line;
    return GetItem(object, key);
  }
  const auto& parts = static_cast<const SliceExpr&>(*expr.key);
  SliceObject slice;
  if (parts.start != nullptr) slice.start = Eval(*parts.start);
  if (parts.stop != nullptr) slice.stop = Eval(*parts.stop);
  if (parts.step != nullptr) slice.step = Eval(*parts.step);
  line_ = expr.line;
  return Slice(object, slice, budget_);
}

Arguments Evaluator::EvalArguments(const CallArguments& arguments) {
  Arguments result;
  result.positional = EvalAll(arguments.positional);
  for (const auto& [name, expr] : arguments.keyword) {
    const bool repeated = std::any_of(result.keyword.begin(), result.keyword.end(),
                                      [&, &key = name](const auto& entry) { return entry.first == key; });
    if (repeated) Fail("keyword argument repeated: {}", name);
    result.keyword.emplace_back(name, Eval(*expr));
  }
  if (arguments.star != nullptr) {
    for (Value& value : Iterate(Eval(*arguments.star), budget_)) result.positional.push_back(std::move(value));
  }
  if (arguments.double_star != nullptr) {
    const Value more = Eval(*arguments.double_star);
    if (!more.Is(Kind::kDict)) Fail("argument after ** must be a mapping, not {}", TypeName(more));
    for (const auto& [key, value] : more.dict().entries) {
      if (!key.IsString()) Fail("keywords must be strings");
      budget_.Allocate(sizeof(Value) + key.AsString().size());
      result.keyword.emplace_back(key.AsString(), value);
    }
  }
  return result;
}

Value Evaluator::EvalCall(const CallExpr& expr, const Value* caller) {
  const Value callee = Eval(*expr.callee);
  Arguments arguments = EvalArguments(expr.arguments);
  if (caller != nullptr) arguments.keyword.emplace_back("caller", *caller);
  line_ = expr.line;
  return Call(callee, arguments);
}

Value Evaluator::EvalFilter(const FilterExpr& expr) {
  const Value input = expr.input != nullptr ? Eval(*expr.input) : *captured_;
  Arguments arguments = EvalArguments(expr.arguments);
  line_ = expr.line;
  return CallFilter(expr.name, input, arguments);
}

Value Evaluator::EvalTest(const TestExpr& expr) {
  const Value input = Eval(*expr.input);
  Arguments arguments = EvalArguments(expr.arguments);
  line_ = expr.line;
  return Value::Bool(CallTest(expr.name, input, arguments));
}

// ---- For builtins ----

Value Evaluator::Call(const Value& callee, Arguments& arguments) {
  if (callee.IsUndefined()) Fail("{}", callee.undefined_message());
  if (!callee.Is(Kind::kCallable) || !callee.As<CallableObject>().can_be_called()) {
    Fail("'{}' object is not callable", TypeName(callee));
  }
  return callee.Shared<CallableObject>()->Call(*this, arguments);
}

Value Evaluator::CallFilter(std::string_view name, const Value& input, Arguments& arguments) {
  const DepthGuard guard(this);  // map('map', 'map', …)
  const FilterFunction filter = FindFilter(name);
  if (filter == nullptr) Fail("No filter named '{}'.", name);
  return filter(*this, input, arguments);
}

bool Evaluator::CallTest(std::string_view name, const Value& input, Arguments& arguments) {
  const TestFunction test = FindTest(name);
  if (test == nullptr) Fail("No test named '{}'.", name);
  return test(*this, input, arguments);
}

namespace {

Value MissingAttribute(const Value& object, std::string_view name) {
  if (object.IsNone()) return Value::Undefined(fmt::format("'None' has no attribute '{}'", name));
  return Value::Undefined(fmt::format("'{} object' has no attribute '{}'", TypeName(object), name));
}

}  // namespace

Value Evaluator::GetAttribute(const Value& object, std::string_view name) {
  if (object.IsUndefined()) Fail("{}", object.undefined_message());
  if (std::optional<Value> attribute = FindAttribute(object, name)) return *std::move(attribute);
  if (object.Is(Kind::kDict)) {
    if (const Value* item = object.dict().Find(name)) return *item;
  }
  return MissingAttribute(object, name);
}

Value Evaluator::GetItem(const Value& object, const Value& key) {
  if (object.IsUndefined()) Fail("{}", object.undefined_message());
  if (std::optional<Value> item = Subscript(object, key, budget_)) return *std::move(item);
  if (!key.IsString()) {
    return Value::Undefined(fmt::format("{} object has no element {}", TypeName(object), Repr(key, budget_)));
  }
  if (std::optional<Value> attribute = FindAttribute(object, key.AsString())) return *std::move(attribute);
  return MissingAttribute(object, key.AsString());
}

}  // namespace moed::jinja
