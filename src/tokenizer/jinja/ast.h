// The syntax tree of a template. Made by the parser, never changed afterwards, shared by all threads that render it.
#ifndef MOED_TOKENIZER_JINJA_AST_H_
#define MOED_TOKENIZER_JINJA_AST_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tokenizer/jinja/value.h"

namespace moed::jinja {

// Names are numbered while parsing, so that scopes compare numbers.
using NameId = uint32_t;

enum class BinaryOperator : uint8_t { kAdd, kSubtract, kMultiply, kDivide, kFloorDivide, kModulo, kPower };
enum class CompareOperator : uint8_t {
  kEqual,
  kNotEqual,
  kLess,
  kLessEqual,
  kGreater,
  kGreaterEqual,
  kIn,
  kNotIn,
};

// ---- Expressions ----

enum class ExprKind : uint8_t {
  kConstant,
  kName,
  kList,
  kTuple,
  kDict,
  kUnary,
  kBinary,
  kConcat,
  kCompare,
  kNot,
  kAnd,
  kOr,
  kConditional,
  kAttribute,
  kItem,
  kSlice,
  kCall,
  kFilter,
  kTest,
};

struct Expr {
  explicit Expr(ExprKind expr_kind) : kind(expr_kind) {}
  virtual ~Expr() = default;
  ExprKind kind;
  int line = 0;
  int depth = 1;  // levels of the tree below and including this node
};
using ExprPtr = std::unique_ptr<Expr>;

struct ConstantExpr : Expr {
  ConstantExpr() : Expr(ExprKind::kConstant) {}
  Value value;
};

struct NameExpr : Expr {
  NameExpr() : Expr(ExprKind::kName) {}
  NameId name = 0;
};

// [a, b] and (a, b).
struct SequenceExpr : Expr {
  explicit SequenceExpr(ExprKind expr_kind) : Expr(expr_kind) {}
  std::vector<ExprPtr> items;
};

struct DictExpr : Expr {
  DictExpr() : Expr(ExprKind::kDict) {}
  std::vector<std::pair<ExprPtr, ExprPtr>> entries;
};

struct UnaryExpr : Expr {  // -a, +a
  UnaryExpr() : Expr(ExprKind::kUnary) {}
  bool negative = false;
  ExprPtr operand;
};

struct BinaryExpr : Expr {
  BinaryExpr() : Expr(ExprKind::kBinary) {}
  BinaryOperator op = BinaryOperator::kAdd;
  ExprPtr left, right;
};

struct ConcatExpr : Expr {  // a ~ b ~ c
  ConcatExpr() : Expr(ExprKind::kConcat) {}
  std::vector<ExprPtr> parts;
};

struct CompareExpr : Expr {  // a < b <= c
  CompareExpr() : Expr(ExprKind::kCompare) {}
  ExprPtr first;
  std::vector<std::pair<CompareOperator, ExprPtr>> rest;
};

struct NotExpr : Expr {
  NotExpr() : Expr(ExprKind::kNot) {}
  ExprPtr operand;
};

struct LogicalExpr : Expr {  // kAnd, kOr: give one of their operands
  explicit LogicalExpr(ExprKind expr_kind) : Expr(expr_kind) {}
  ExprPtr left, right;
};

struct ConditionalExpr : Expr {  // value if test else otherwise
  ConditionalExpr() : Expr(ExprKind::kConditional) {}
  ExprPtr value, test, otherwise;  // otherwise: null where it was left out
};

struct AttributeExpr : Expr {  // object.name
  AttributeExpr() : Expr(ExprKind::kAttribute) {}
  ExprPtr object;
  std::string name;
};

struct ItemExpr : Expr {  // object[key]; the key may be a SliceExpr
  ItemExpr() : Expr(ExprKind::kItem) {}
  ExprPtr object, key;
};

struct SliceExpr : Expr {  // only as the key of an ItemExpr; null where left out
  SliceExpr() : Expr(ExprKind::kSlice) {}
  ExprPtr start, stop, step;
};

struct CallArguments {
  std::vector<ExprPtr> positional;
  std::vector<std::pair<std::string, ExprPtr>> keyword;
  ExprPtr star, double_star;  // *args, **kwargs
};

struct CallExpr : Expr {
  CallExpr() : Expr(ExprKind::kCall) {}
  ExprPtr callee;
  CallArguments arguments;
};

struct FilterExpr : Expr {  // input | name(arguments)
  FilterExpr() : Expr(ExprKind::kFilter) {}
  ExprPtr input;  // null: the text that {% filter %} or {% set %}…{% endset %} captured
  std::string name;
  CallArguments arguments;
};

struct TestExpr : Expr {  // input is name(arguments)
  TestExpr() : Expr(ExprKind::kTest) {}
  ExprPtr input;
  std::string name;
  CallArguments arguments;
};

// What can be assigned to: a name, an attribute of a namespace, or a tuple of targets.
struct Target {
  enum class Kind : uint8_t { kName, kAttribute, kTuple };
  Kind kind = Kind::kName;
  int line = 0;
  NameId name = 0;
  std::string attribute;
  std::vector<Target> parts;
};

// ---- Statements ----

enum class StmtKind : uint8_t {
  kText,
  kPrint,
  kIf,
  kFor,
  kSet,
  kSetBlock,
  kMacro,
  kCallBlock,
  kFilterBlock,
  kWith,
  kScope,
  kBlock,
  kBreak,
  kContinue,
};

struct Stmt {
  explicit Stmt(StmtKind stmt_kind) : kind(stmt_kind) {}
  virtual ~Stmt() = default;
  StmtKind kind;
  int line = 0;
};
using StmtPtr = std::unique_ptr<Stmt>;
using Body = std::vector<StmtPtr>;

struct TextStmt : Stmt {
  TextStmt() : Stmt(StmtKind::kText) {}
  std::string text;
};

struct PrintStmt : Stmt {
  PrintStmt() : Stmt(StmtKind::kPrint) {}
  ExprPtr value;
};

struct IfStmt : Stmt {
  IfStmt() : Stmt(StmtKind::kIf) {}
  std::vector<std::pair<ExprPtr, Body>> branches;  // if, elif, elif …
  Body otherwise;
};

struct ForStmt : Stmt {
  ForStmt() : Stmt(StmtKind::kFor) {}
  Target target;
  ExprPtr iterable;
  ExprPtr condition;  // null where there is none
  bool recursive = false;
  Body body, otherwise;
};

struct SetStmt : Stmt {
  SetStmt() : Stmt(StmtKind::kSet) {}
  Target target;
  ExprPtr value;
};

struct SetBlockStmt : Stmt {
  SetBlockStmt() : Stmt(StmtKind::kSetBlock) {}
  Target target;
  ExprPtr filter;  // null where there is none
  Body body;
};

// The parameters and the body of a macro or of a {% call %} block.
struct MacroDefinition {
  std::string name;  // empty for the caller of a call block
  std::vector<std::pair<NameId, std::string>> parameters;
  std::vector<ExprPtr> defaults;  // of the last parameters
  Body body;
  bool uses_caller = false;
  bool uses_kwargs = false;
  bool uses_varargs = false;
};

struct MacroStmt : Stmt {
  MacroStmt() : Stmt(StmtKind::kMacro) {}
  NameId name = 0;
  MacroDefinition definition;
};

struct CallBlockStmt : Stmt {
  CallBlockStmt() : Stmt(StmtKind::kCallBlock) {}
  std::unique_ptr<CallExpr> call;
  MacroDefinition caller;
};

struct FilterBlockStmt : Stmt {
  FilterBlockStmt() : Stmt(StmtKind::kFilterBlock) {}
  ExprPtr filter;
  Body body;
};

struct WithStmt : Stmt {
  WithStmt() : Stmt(StmtKind::kWith) {}
  std::vector<std::pair<Target, ExprPtr>> assignments;
  Body body;
};

struct ScopeStmt : Stmt {  // kScope: {% generation %}; kBlock: {% block %}, which sees the template's own scope only
  explicit ScopeStmt(StmtKind stmt_kind) : Stmt(stmt_kind) {}
  Body body;
};

struct BreakStmt : Stmt {  // kBreak, kContinue
  explicit BreakStmt(StmtKind stmt_kind) : Stmt(stmt_kind) {}
};

struct SyntaxTree {
  Body body;
  std::vector<std::string> names;  // by NameId
  // The names that the language itself gives values to.
  NameId loop_name = 0;
  NameId caller_name = 0;
  NameId kwargs_name = 0;
  NameId varargs_name = 0;
};

}  // namespace moed::jinja

#endif  // MOED_TOKENIZER_JINJA_AST_H_
