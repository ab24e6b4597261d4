#include "tokenizer/jinja/expression_parser.h"

#include <algorithm>
#include <optional>

namespace moed::jinja {
namespace {

struct NamedOperator {
  std::string_view symbol;
  BinaryOperator op;
};
constexpr NamedOperator kSumOperators[] = {{"+", BinaryOperator::kAdd}, {"-", BinaryOperator::kSubtract}};
constexpr NamedOperator kProductOperators[] = {{"*", BinaryOperator::kMultiply},
                                               {"/", BinaryOperator::kDivide},
                                               {"//", BinaryOperator::kFloorDivide},
                                               {"%", BinaryOperator::kModulo}};
constexpr NamedOperator kPowerOperators[] = {{"**", BinaryOperator::kPower}};

std::optional<CompareOperator> ComparisonOf(const Token& token) {
  if (token.type != TokenType::kOperator) return std::nullopt;
  if (token.text == "==") return CompareOperator::kEqual;
  if (token.text == "!=") return CompareOperator::kNotEqual;
  if (token.text == "<") return CompareOperator::kLess;
  if (token.text == "<=") return CompareOperator::kLessEqual;
  if (token.text == ">") return CompareOperator::kGreater;
  if (token.text == ">=") return CompareOperator::kGreaterEqual;
  return std::nullopt;
}

// Whether an argument without parentheses may follow a test's name: `x is divisibleby 3`.
bool BeginsTestArgument(const Token& token) {
  switch (token.type) {
    case TokenType::kString:
    case TokenType::kInteger:
    case TokenType::kFloat:
      return true;
    case TokenType::kName:
      return token.text != "else" && token.text != "or" && token.text != "and";
    case TokenType::kOperator:
      return token.text == "[" || token.text == "{";
    default:
      return false;
  }
}

}  // namespace

bool ExpressionParser::SkipOperator(std::string_view symbol) {
  if (!Current().IsOperator(symbol)) return false;
  Next();
  return true;
}

bool ExpressionParser::SkipName(std::string_view name) {
  if (!Current().IsName(name)) return false;
  Next();
  return true;
}

void ExpressionParser::Expect(TokenType type, std::string_view description) {
  if (Current().type != type) {
    FailAt(Current().line, "expected token '{}', got '{}'", description, Describe(Current()));
  }
  Next();
}

void ExpressionParser::ExpectOperator(std::string_view symbol) {
  if (!SkipOperator(symbol)) FailAt(Current().line, "expected token '{}', got '{}'", symbol, Describe(Current()));
}

void ExpressionParser::ExpectName(std::string_view name) {
  if (!SkipName(name)) FailAt(Current().line, "expected token '{}', got '{}'", name, Describe(Current()));
}

const Token& ExpressionParser::ExpectAnyName() {
  if (Current().type != TokenType::kName) {
    FailAt(Current().line, "expected token 'name', got '{}'", Describe(Current()));
  }
  return Next();
}

NameId ExpressionParser::Intern(const std::string& name) {
  const auto [it, added] = name_ids_.emplace(name, static_cast<NameId>(names_.size()));
  if (added) names_.push_back(name);
  return it->second;
}

void ExpressionParser::FailNesting() const {
  throw TemplateError(absl::StatusCode::kResourceExhausted,
                      fmt::format("the template is nested more than {} deep (max_nesting)", limits_.max_nesting),
                      Current().line);
}

void ExpressionParser::Grow(Expr* parent, const ExprPtr& child) const {
  if (child == nullptr) return;
  parent->depth = std::max(parent->depth, child->depth + 1);
  if (parent->depth > limits_.max_nesting) FailNesting();
}

void ExpressionParser::Grow(Expr* parent, const CallArguments& arguments) const {
  for (const ExprPtr& argument : arguments.positional) Grow(parent, argument);
  for (const auto& [name, argument] : arguments.keyword) Grow(parent, argument);
  Grow(parent, arguments.star);
  Grow(parent, arguments.double_star);
}

bool ExpressionParser::IsTupleEnd(std::initializer_list<std::string_view> ends) const {
  const Token& token = Current();
  if (token.type == TokenType::kVariableEnd || token.type == TokenType::kBlockEnd || token.IsOperator(")")) return true;
  return token.type == TokenType::kName && std::find(ends.begin(), ends.end(), token.text) != ends.end();
}

bool ExpressionParser::IsLiteralName(std::string_view name) {
  return name == "true" || name == "false" || name == "none" || name == "True" || name == "False" || name == "None";
}

ExprPtr ExpressionParser::ParseTuple(std::initializer_list<std::string_view> ends, bool with_conditional,
                                     bool in_parentheses) {
  auto tuple = New<SequenceExpr>(Current().line, ExprKind::kTuple);
  bool is_tuple = false;
  while (true) {
    if (IsTupleEnd(ends)) break;
    tuple->items.push_back(ParseExpression(with_conditional));
    Grow(tuple.get(), tuple->items.back());
    if (!SkipOperator(",")) break;
    is_tuple = true;
  }
  if (is_tuple) return tuple;
  if (!tuple->items.empty()) return std::move(tuple->items.front());
  if (!in_parentheses) FailAt(Current().line, "Expected an expression, got '{}'", Describe(Current()));
  return tuple;
}

ExprPtr ExpressionParser::ParseExpression(bool with_conditional) {
  const NestingGuard guard(this);
  return with_conditional ? ParseConditional() : ParseOr();
}

ExprPtr ExpressionParser::ParseConditional() {
  ExprPtr expr = ParseOr();
  while (Current().IsName("if")) {
    auto conditional = New<ConditionalExpr>(Next().line);
    conditional->value = std::move(expr);
    conditional->test = ParseOr();
    if (SkipName("else")) conditional->otherwise = ParseExpression();
    Grow(conditional.get(), conditional->value);
    Grow(conditional.get(), conditional->test);
    Grow(conditional.get(), conditional->otherwise);
    expr = std::move(conditional);
  }
  return expr;
}

ExprPtr ExpressionParser::ParseOr() {
  ExprPtr left = ParseAnd();
  while (Current().IsName("or")) {
    auto expr = New<LogicalExpr>(Next().line, ExprKind::kOr);
    expr->left = std::move(left);
    expr->right = ParseAnd();
    Grow(expr.get(), expr->left);
    Grow(expr.get(), expr->right);
    left = std::move(expr);
  }
  return left;
}

ExprPtr ExpressionParser::ParseAnd() {
  ExprPtr left = ParseNot();
  while (Current().IsName("and")) {
    auto expr = New<LogicalExpr>(Next().line, ExprKind::kAnd);
    expr->left = std::move(left);
    expr->right = ParseNot();
    Grow(expr.get(), expr->left);
    Grow(expr.get(), expr->right);
    left = std::move(expr);
  }
  return left;
}

ExprPtr ExpressionParser::ParseNot() {
  if (!Current().IsName("not")) return ParseComparison();
  const NestingGuard guard(this);
  auto expr = New<NotExpr>(Next().line);
  expr->operand = ParseNot();
  Grow(expr.get(), expr->operand);
  return expr;
}

ExprPtr ExpressionParser::ParseComparison() {
  auto expr = New<CompareExpr>(Current().line);
  expr->first = ParseSum();
  Grow(expr.get(), expr->first);
  while (true) {
    std::optional<CompareOperator> op = ComparisonOf(Current());
    if (op.has_value()) {
      Next();
    } else if (SkipName("in")) {
      op = CompareOperator::kIn;
    } else if (Current().IsName("not") && Ahead().IsName("in")) {
      Next();
      Next();
      op = CompareOperator::kNotIn;
    } else {
      break;
    }
    expr->rest.emplace_back(*op, ParseSum());
    Grow(expr.get(), expr->rest.back().second);
  }
  if (expr->rest.empty()) return std::move(expr->first);
  return expr;
}

template <class Operators>
ExprPtr ExpressionParser::ParseBinaryChain(ExprPtr (ExpressionParser::*operand)(), const Operators& operators) {
  ExprPtr left = (this->*operand)();
  while (true) {
    const auto* found = std::find_if(std::begin(operators), std::end(operators),
                                     [&](const NamedOperator& entry) { return Current().IsOperator(entry.symbol); });
    if (found == std::end(operators)) return left;
    auto expr = New<BinaryExpr>(Next().line);
    expr->op = found->op;
    expr->left = std::move(left);
    expr->right = (this->*operand)();
    Grow(expr.get(), expr->left);
    Grow(expr.get(), expr->right);
    left = std::move(expr);
  }
}

ExprPtr ExpressionParser::ParseSum() { return ParseBinaryChain(&ExpressionParser::ParseConcatenation, kSumOperators); }

ExprPtr ExpressionParser::ParseConcatenation() {
  auto concat = New<ConcatExpr>(Current().line);
  concat->parts.push_back(ParseProduct());
  while (SkipOperator("~")) concat->parts.push_back(ParseProduct());
  if (concat->parts.size() == 1) return std::move(concat->parts.front());
  for (const ExprPtr& part : concat->parts) Grow(concat.get(), part);
  return concat;
}

ExprPtr ExpressionParser::ParseProduct() { return ParseBinaryChain(&ExpressionParser::ParsePower, kProductOperators); }

// Jinja's power groups from the left: 2**3**2 is 64.
ExprPtr ExpressionParser::ParsePower() { return ParseBinaryChain(&ExpressionParser::ParseOperand, kPowerOperators); }

ExprPtr ExpressionParser::ParseUnary(bool with_filters) {
  ExprPtr expr;
  const Token& token = Current();
  if (token.IsOperator("-") || token.IsOperator("+")) {
    const NestingGuard guard(this);
    auto unary = New<UnaryExpr>(token.line);
    unary->negative = token.text == "-";
    Next();
    unary->operand = ParseUnary(false);
    Grow(unary.get(), unary->operand);
    expr = std::move(unary);
  } else {
    expr = ParsePrimary();
  }
  expr = ParsePostfix(std::move(expr));
  return with_filters ? ParseFiltersAndTests(std::move(expr)) : std::move(expr);
}

ExprPtr ExpressionParser::ParsePrimary() {
  const Token& token = Current();
  switch (token.type) {
    case TokenType::kName:
      return ParseName();
    case TokenType::kString:
      return ParseStringLiteral();
    case TokenType::kInteger:
    case TokenType::kFloat: {
      auto constant = New<ConstantExpr>(token.line);
      constant->value = token.type == TokenType::kInteger ? Value::Int(token.integer) : Value::Float(token.real);
      Next();
      return constant;
    }
    default:
      break;
  }
  if (token.IsOperator("[")) return ParseList();
  if (token.IsOperator("{")) return ParseDict();
  if (!SkipOperator("(")) FailAt(token.line, "unexpected '{}'", Describe(token));
  ExprPtr expr = ParseTuple({}, true, true);
  ExpectOperator(")");
  return expr;
}

ExprPtr ExpressionParser::ParseName() {
  const Token& token = Next();
  if (IsLiteralName(token.text)) {
    auto constant = New<ConstantExpr>(token.line);
    const char first = static_cast<char>(token.text[0] | 0x20);
    if (first != 'n') constant->value = Value::Bool(first == 't');
    return constant;
  }
  if (macro_names_ != nullptr) {
    macro_names_->caller |= token.text == "caller";
    macro_names_->kwargs |= token.text == "kwargs";
    macro_names_->varargs |= token.text == "varargs";
  }
  auto name = New<NameExpr>(token.line);
  name->name = Intern(token.text);
  return name;
}

// Literals that follow one another are one string.
ExprPtr ExpressionParser::ParseStringLiteral() {
  auto constant = New<ConstantExpr>(Current().line);
  std::string text;
  while (Current().type == TokenType::kString) text += Next().text;
  constant->value = Value::String(std::move(text));
  return constant;
}

ExprPtr ExpressionParser::ParseList() {
  auto list = New<SequenceExpr>(Next().line, ExprKind::kList);
  while (!Current().IsOperator("]")) {
    if (!list->items.empty()) ExpectOperator(",");
    if (Current().IsOperator("]")) break;
    list->items.push_back(ParseExpression());
    Grow(list.get(), list->items.back());
  }
  ExpectOperator("]");
  return list;
}

ExprPtr ExpressionParser::ParseDict() {
  auto dict = New<DictExpr>(Next().line);
  while (!Current().IsOperator("}")) {
    if (!dict->entries.empty()) ExpectOperator(",");
    if (Current().IsOperator("}")) break;
    ExprPtr key = ParseExpression();
    ExpectOperator(":");
    dict->entries.emplace_back(std::move(key), ParseExpression());
    Grow(dict.get(), dict->entries.back().first);
    Grow(dict.get(), dict->entries.back().second);
  }
  ExpectOperator("}");
  return dict;
}

ExprPtr ExpressionParser::ParsePostfix(ExprPtr expr) {
  while (true) {
    if (Current().IsOperator(".")) {
      expr = ParseAttribute(std::move(expr));
    } else if (Current().IsOperator("[")) {
      expr = ParseItem(std::move(expr));
    } else if (Current().IsOperator("(")) {
      expr = ParseCall(std::move(expr));
    } else {
      return expr;
    }
  }
}

ExprPtr ExpressionParser::ParseFiltersAndTests(ExprPtr expr) {
  while (true) {
    if (Current().IsOperator("|")) {
      expr = ParseFilters(std::move(expr));
    } else if (Current().IsName("is")) {
      expr = ParseTest(std::move(expr));
    } else if (Current().IsOperator("(")) {
      expr = ParseCall(std::move(expr));
    } else {
      return expr;
    }
  }
}

ExprPtr ExpressionParser::ParseAttribute(ExprPtr object) {
  const int line = Next().line;
  const Token& token = Current();
  if (token.type == TokenType::kInteger) {
    auto item = New<ItemExpr>(line);
    auto key = New<ConstantExpr>(line);
    key->value = Value::Int(token.integer);
    item->object = std::move(object);
    item->key = std::move(key);
    Grow(item.get(), item->object);
    Next();
    return item;
  }
  if (token.type != TokenType::kName) FailAt(token.line, "expected name or number");
  auto attribute = New<AttributeExpr>(line);
  attribute->name = token.text;
  attribute->object = std::move(object);
  Grow(attribute.get(), attribute->object);
  Next();
  return attribute;
}

ExprPtr ExpressionParser::ParseItem(ExprPtr object) {
  auto item = New<ItemExpr>(Next().line);
  auto tuple = New<SequenceExpr>(item->line, ExprKind::kTuple);
  while (!Current().IsOperator("]")) {
    if (!tuple->items.empty()) ExpectOperator(",");
    tuple->items.push_back(ParseItemKey());
    Grow(tuple.get(), tuple->items.back());
  }
  ExpectOperator("]");
  item->object = std::move(object);
  if (tuple->items.size() == 1) {
    item->key = std::move(tuple->items.front());
  } else {
    for (const ExprPtr& part : tuple->items) {
      if (part->kind == ExprKind::kSlice) FailAt(item->line, "a slice cannot be a part of a tuple");
    }
    item->key = std::move(tuple);
  }
  Grow(item.get(), item->object);
  Grow(item.get(), item->key);
  return item;
}

ExprPtr ExpressionParser::ParseItemKey() {
  auto slice = New<SliceExpr>(Current().line);
  auto part_ends = [&] { return Current().IsOperator("]") || Current().IsOperator(","); };
  if (!Current().IsOperator(":")) {
    slice->start = ParseExpression();
    if (!Current().IsOperator(":")) return std::move(slice->start);
  }
  Next();
  if (!Current().IsOperator(":") && !part_ends()) slice->stop = ParseExpression();
  if (SkipOperator(":") && !part_ends()) slice->step = ParseExpression();
  Grow(slice.get(), slice->start);
  Grow(slice.get(), slice->stop);
  Grow(slice.get(), slice->step);
  return slice;
}

ExprPtr ExpressionParser::ParseCall(ExprPtr callee) {
  auto call = New<CallExpr>(Current().line);
  call->callee = std::move(callee);
  call->arguments = ParseArguments();
  Grow(call.get(), call->callee);
  Grow(call.get(), call->arguments);
  return call;
}

CallArguments ExpressionParser::ParseArguments() {
  CallArguments arguments;
  const int line = Current().line;
  ExpectOperator("(");
  for (bool first = true; !Current().IsOperator(")"); first = false) {
    if (!first) {
      ExpectOperator(",");
      if (Current().IsOperator(")")) break;
    }
    ParseArgument(&arguments, line);
  }
  ExpectOperator(")");
  return arguments;
}

void ExpressionParser::ParseArgument(CallArguments* arguments, int line) {
  bool valid = false;
  if (SkipOperator("*")) {
    valid = arguments->star == nullptr && arguments->double_star == nullptr;
    arguments->star = ParseExpression();
  } else if (SkipOperator("**")) {
    valid = arguments->double_star == nullptr;
    arguments->double_star = ParseExpression();
  } else if (Current().type == TokenType::kName && Ahead().IsOperator("=")) {
    valid = arguments->double_star == nullptr;
    std::string name = Next().text;
    Next();
    arguments->keyword.emplace_back(std::move(name), ParseExpression());
  } else {
    valid = arguments->star == nullptr && arguments->double_star == nullptr && arguments->keyword.empty();
    arguments->positional.push_back(ParseExpression());
  }
  if (!valid) FailAt(line, "invalid syntax for function call expression");
}

std::string ExpressionParser::ParseDottedName() {
  std::string name = ExpectAnyName().text;
  while (SkipOperator(".")) name += "." + ExpectAnyName().text;
  return name;
}

ExprPtr ExpressionParser::ParseFilters(ExprPtr input, bool begin_inline) {
  while (begin_inline || SkipOperator("|")) {
    begin_inline = false;
    auto filter = New<FilterExpr>(Current().line);
    filter->name = ParseDottedName();
    if (Current().IsOperator("(")) filter->arguments = ParseArguments();
    filter->input = std::move(input);
    Grow(filter.get(), filter->input);
    Grow(filter.get(), filter->arguments);
    input = std::move(filter);
  }
  return input;
}

ExprPtr ExpressionParser::ParseTest(ExprPtr input) {
  auto test = New<TestExpr>(Next().line);
  const bool negated = SkipName("not");
  test->name = ParseDottedName();
  if (Current().IsOperator("(")) {
    test->arguments = ParseArguments();
  } else if (BeginsTestArgument(Current())) {
    if (Current().IsName("is")) FailAt(Current().line, "You cannot chain multiple tests with is");
    const NestingGuard guard(this);
    test->arguments.positional.push_back(ParsePostfix(ParsePrimary()));
  }
  test->input = std::move(input);
  Grow(test.get(), test->input);
  Grow(test.get(), test->arguments);
  if (!negated) return test;
  auto expr = New<NotExpr>(test->line);
  expr->operand = std::move(test);
  Grow(expr.get(), expr->operand);
  return expr;
}

}  // namespace moed::jinja
