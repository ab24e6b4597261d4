// The half of the parser that reads expressions; parser.cc adds the statements.
#ifndef MOED_TOKENIZER_JINJA_EXPRESSION_PARSER_H_
#define MOED_TOKENIZER_JINJA_EXPRESSION_PARSER_H_

#include <algorithm>
#include <initializer_list>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "tokenizer/jinja/ast.h"
#include "tokenizer/jinja/lexer.h"
#include "tokenizer/jinja/limits.h"

namespace moed::jinja {

class ExpressionParser {
 protected:
  ExpressionParser(std::vector<Token> tokens, const Limits& limits) : tokens_(std::move(tokens)), limits_(limits) {}

  // Bounds the recursion of the parser itself.
  class NestingGuard {
   public:
    explicit NestingGuard(ExpressionParser* parser) : parser_(parser) {
      if (++parser_->nesting_ > parser_->limits_.max_nesting) parser_->FailNesting();
    }
    ~NestingGuard() { --parser_->nesting_; }
    NestingGuard(const NestingGuard&) = delete;
    NestingGuard& operator=(const NestingGuard&) = delete;

   private:
    ExpressionParser* parser_;
  };

  // ---- Tokens ----

  const Token& Current() const { return tokens_[position_]; }
  const Token& Ahead() const { return tokens_[std::min(position_ + 1, tokens_.size() - 1)]; }
  // The current token, which is left behind.
  const Token& Next() {
    const Token& token = tokens_[position_];
    if (position_ + 1 < tokens_.size()) ++position_;
    return token;
  }
  bool SkipOperator(std::string_view symbol);
  bool SkipName(std::string_view name);
  void Expect(TokenType type, std::string_view description);
  void ExpectOperator(std::string_view symbol);
  void ExpectName(std::string_view name);
  const Token& ExpectAnyName();
  NameId Intern(const std::string& name);
  std::vector<std::string> TakeNames() { return std::move(names_); }

  template <typename... Args>
  [[noreturn]] static void FailAt(int line, fmt::format_string<Args...> format, Args&&... args) {
    throw TemplateError(absl::StatusCode::kInvalidArgument, fmt::format(format, std::forward<Args>(args)...), line);
  }

  // ---- Expressions ----

  // An expression, or a tuple of several that commas part. It ends at the end of the tag, at ")" or at a name of
  // `ends`.
  ExprPtr ParseTuple(std::initializer_list<std::string_view> ends = {}, bool with_conditional = true,
                     bool in_parentheses = false);
  ExprPtr ParseExpression(bool with_conditional = true);
  // The filters behind `input`; with `begin_inline` the first comes without "|".
  ExprPtr ParseFilters(ExprPtr input, bool begin_inline = false);
  bool IsTupleEnd(std::initializer_list<std::string_view> ends) const;
  static bool IsLiteralName(std::string_view name);

  // Which of the special names of macros the current macro's body mentions; null outside of macros.
  struct MacroNames {
    bool caller = false;
    bool kwargs = false;
    bool varargs = false;
  };
  MacroNames* macro_names_ = nullptr;

 private:
  [[noreturn]] void FailNesting() const;

  ExprPtr ParseConditional();
  ExprPtr ParseOr();
  ExprPtr ParseAnd();
  ExprPtr ParseNot();
  ExprPtr ParseComparison();
  ExprPtr ParseSum();
  ExprPtr ParseConcatenation();
  ExprPtr ParseProduct();
  ExprPtr ParsePower();
  ExprPtr ParseOperand() { return ParseUnary(true); }
  ExprPtr ParseUnary(bool with_filters);
  ExprPtr ParsePrimary();
  ExprPtr ParseName();
  ExprPtr ParseStringLiteral();
  ExprPtr ParseList();
  ExprPtr ParseDict();
  ExprPtr ParsePostfix(ExprPtr expr);
  ExprPtr ParseFiltersAndTests(ExprPtr expr);
  ExprPtr ParseAttribute(ExprPtr object);
  ExprPtr ParseItem(ExprPtr object);
  ExprPtr ParseItemKey();
  ExprPtr ParseCall(ExprPtr callee);
  ExprPtr ParseTest(ExprPtr input);
  CallArguments ParseArguments();
  void ParseArgument(CallArguments* arguments, int line);
  std::string ParseDottedName();

  template <class Operators>
  ExprPtr ParseBinaryChain(ExprPtr (ExpressionParser::*operand)(), const Operators& operators);

  template <class T, class... Args>
  std::unique_ptr<T> New(int line, Args... args) const {
    auto expr = std::make_unique<T>(args...);
    expr->line = line;
    return expr;
  }
  // Notes that `child` hangs below `parent`, and bounds the depth of the tree.
  void Grow(Expr* parent, const ExprPtr& child) const;
  void Grow(Expr* parent, const CallArguments& arguments) const;

  std::vector<Token> tokens_;
  size_t position_ = 0;
  const Limits& limits_;
  int nesting_ = 0;
  std::unordered_map<std::string, NameId> name_ids_;
  std::vector<std::string> names_;
};

}  // namespace moed::jinja

#endif  // MOED_TOKENIZER_JINJA_EXPRESSION_PARSER_H_
