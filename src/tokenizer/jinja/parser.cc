#include "tokenizer/jinja/parser.h"

#include <algorithm>
#include <array>
#include <initializer_list>
#include <map>
#include <optional>

#include "tokenizer/jinja/expression_parser.h"

namespace moed::jinja {
namespace {

// Statements. A body ends at one of the tags that its statement names.
class Parser : public ExpressionParser {
 public:
  Parser(std::vector<Token> tokens, const Limits& limits) : ExpressionParser(std::move(tokens), limits) {}

  SyntaxTree Run() {
    SyntaxTree tree;
    tree.body = ParseBody({});
    tree.loop_name = Intern("loop");
    tree.caller_name = Intern("caller");
    tree.kwargs_name = Intern("kwargs");
    tree.varargs_name = Intern("varargs");
    tree.names = TakeNames();
    return tree;
  }

 private:
  // Statements up to a tag of `ends`, whose name is then the current token; to the end of the template for none.
  Body ParseBody(std::initializer_list<std::string_view> ends) {
    const NestingGuard guard(this);
    Body body;
    while (true) {
      const Token& token = Current();
      switch (token.type) {
        case TokenType::kEnd:
          if (ends.size() != 0) FailUnclosed(ends);
          return body;
        case TokenType::kData: {
          auto text = NewStatement<TextStmt>();
          text->text = token.text;
          body.push_back(std::move(text));
          Next();
          break;
        }
        case TokenType::kVariableBegin: {
          auto print = NewStatement<PrintStmt>();
          Next();
          print->value = ParseTuple();
          Expect(TokenType::kVariableEnd, "end of print statement");
          body.push_back(std::move(print));
          break;
        }
        default: {
          Expect(TokenType::kBlockBegin, "begin of statement block");
          const bool at_end =
              Current().type == TokenType::kName && std::find(ends.begin(), ends.end(), Current().text) != ends.end();
          if (at_end) return body;
          ParseStatement(&body);
          Expect(TokenType::kBlockEnd, "end of statement block");
        }
      }
    }
  }

  // The body behind the end of a statement's own tag, past the name of its end tag.
  Body ParseBlockBody(std::string_view end) {
    OpenBody();
    Body body = ParseBody({end});
    Next();
    return body;
  }

  void OpenBody() {
    SkipOperator(":");
    Expect(TokenType::kBlockEnd, "end of statement block");
  }

  [[noreturn]] void FailUnclosed(std::initializer_list<std::string_view> ends) {
    std::string wanted;
    for (std::string_view end : ends) wanted += (wanted.empty() ? "'" : " or '") + std::string(end) + "'";
    FailAt(Current().line, "Unexpected end of template. Jinja was looking for the following tags: {}.", wanted);
  }

  template <class T, class... Args>
  std::unique_ptr<T> NewStatement(Args... args) {
    auto statement = std::make_unique<T>(args...);
    statement->line = Current().line;
    return statement;
  }

  void ParseStatement(Body* body) {
    using Method = StmtPtr (Parser::*)();
    static const std::map<std::string_view, Method> kStatements = {
        {"if", &Parser::ParseIf},
        {"for", &Parser::ParseFor},
        {"set", &Parser::ParseSet},
        {"macro", &Parser::ParseMacro},
        {"call", &Parser::ParseCallBlock},
        {"filter", &Parser::ParseFilterBlock},
        {"with", &Parser::ParseWith},
        {"generation", &Parser::ParseGeneration},
        {"block", &Parser::ParseBlock},
        {"break", &Parser::ParseBreak},
        {"continue", &Parser::ParseContinue},
    };
    const Token& token = Current();
    if (token.type != TokenType::kName) FailAt(token.line, "tag name expected, got '{}'", Describe(token));
    if (token.text == "print") return ParsePrint(body);
    const auto it = kStatements.find(token.text);
    if (it != kStatements.end()) {
      body->push_back((this->*it->second)());
      return;
    }
    static constexpr std::array<std::string_view, 5> kLeftOut = {"extends", "include", "import", "from", "autoescape"};
    if (std::find(kLeftOut.begin(), kLeftOut.end(), token.text) != kLeftOut.end()) {
      throw TemplateError(absl::StatusCode::kUnimplemented,
                          fmt::format("{{% {} %}} is not supported in a chat template", token.text), token.line);
    }
    FailAt(token.line, "Encountered unknown tag '{}'.", token.text);
  }

  StmtPtr ParseIf() {
    auto statement = NewStatement<IfStmt>();
    Next();
    while (true) {
      ExprPtr test = ParseTuple({}, false);
      OpenBody();
      statement->branches.emplace_back(std::move(test), ParseBody({"elif", "else", "endif"}));
      const std::string end = Next().text;
      if (end == "elif") continue;
      if (end == "else") statement->otherwise = ParseBlockBody("endif");
      return statement;
    }
  }

  StmtPtr ParseFor() {
    auto statement = NewStatement<ForStmt>();
    Next();
    statement->target = ParseTarget({"in"}, false);
    RejectLoopVariable(statement->target);
    ExpectName("in");
    statement->iterable = ParseTuple({"recursive"}, false);
    if (SkipName("if")) statement->condition = ParseExpression();
    statement->recursive = SkipName("recursive");
    OpenBody();
    ++loops_;
    statement->body = ParseBody({"endfor", "else"});
    --loops_;
    if (Next().text == "else") statement->otherwise = ParseBlockBody("endfor");
    return statement;
  }

  void RejectLoopVariable(const Target& target) {
    if (target.kind == Target::Kind::kName && target.name == Intern("loop")) {
      FailAt(target.line, "Can't assign to special loop variable in for-loop target");
    }
    for (const Target& part : target.parts) RejectLoopVariable(part);
  }

  StmtPtr ParseSet() {
    auto statement = NewStatement<SetStmt>();
    Next();
    statement->target = ParseTarget({}, true);
    if (SkipOperator("=")) {
      statement->value = ParseTuple();
      return statement;
    }
    auto block = std::make_unique<SetBlockStmt>();
    block->line = statement->line;
    block->target = std::move(statement->target);
    if (Current().IsOperator("|")) block->filter = ParseFilters(nullptr);
    block->body = ParseIsolatedBody("endset");
    return block;
  }

  // A body from which {% break %} cannot reach the loop around it.
  Body ParseIsolatedBody(std::string_view end) {
    const int loops = std::exchange(loops_, 0);
    Body body = ParseBlockBody(end);
    loops_ = loops;
    return body;
  }

  void ParsePrint(Body* body) {
    const int line = Next().line;
    for (bool first = true; Current().type != TokenType::kBlockEnd; first = false) {
      if (!first) ExpectOperator(",");
      auto print = NewStatement<PrintStmt>();
      print->line = line;
      print->value = ParseExpression();
      body->push_back(std::move(print));
    }
  }

  StmtPtr ParseMacro() {
    auto statement = NewStatement<MacroStmt>();
    Next();
    MacroDefinition& definition = statement->definition;
    definition.name = ExpectAnyName().text;
    statement->name = Intern(definition.name);
    ParseSignature(&definition);
    ParseMacroBody(&definition, "endmacro");
    return statement;
  }

  StmtPtr ParseCallBlock() {
    auto statement = NewStatement<CallBlockStmt>();
    Next();
    if (Current().IsOperator("(")) ParseSignature(&statement->caller);
    ExprPtr call = ParseExpression();
    if (call->kind != ExprKind::kCall) FailAt(statement->line, "expected call");
    statement->call.reset(static_cast<CallExpr*>(call.release()));
    ParseMacroBody(&statement->caller, "endcall");
    return statement;
  }

  void ParseSignature(MacroDefinition* definition) {
    ExpectOperator("(");
    while (!Current().IsOperator(")")) {
      if (!definition->parameters.empty()) ExpectOperator(",");
      const Token name = ExpectAnyName();
      definition->parameters.emplace_back(Intern(name.text), name.text);
      if (SkipOperator("=")) {
        definition->defaults.push_back(ParseExpression());
      } else if (!definition->defaults.empty()) {
        FailAt(name.line, "non-default argument follows default argument");
      }
    }
    ExpectOperator(")");
  }

  void ParseMacroBody(MacroDefinition* definition, std::string_view end) {
    MacroNames used;
    MacroNames* outer = std::exchange(macro_names_, &used);
    definition->body = ParseIsolatedBody(end);
    macro_names_ = outer;
    auto declared = [&](std::string_view name) {
      return std::any_of(definition->parameters.begin(), definition->parameters.end(),
                         [&](const auto& parameter) { return parameter.second == name; });
    };
    definition->uses_caller = used.caller;
    definition->uses_kwargs = used.kwargs && !declared("kwargs");
    definition->uses_varargs = used.varargs && !declared("varargs");
    if (outer != nullptr) {
      outer->caller |= used.caller;
      outer->kwargs |= used.kwargs;
      outer->varargs |= used.varargs;
    }
  }

  StmtPtr ParseFilterBlock() {
    auto statement = NewStatement<FilterBlockStmt>();
    Next();
    statement->filter = ParseFilters(nullptr, true);
    statement->body = ParseIsolatedBody("endfilter");
    return statement;
  }

  StmtPtr ParseWith() {
    auto statement = NewStatement<WithStmt>();
    Next();
    while (Current().type != TokenType::kBlockEnd) {
      if (!statement->assignments.empty()) ExpectOperator(",");
      Target target = ParseTarget({}, false);
      ExpectOperator("=");
      statement->assignments.emplace_back(std::move(target), ParseExpression());
    }
    statement->body = ParseBlockBody("endwith");
    return statement;
  }

  StmtPtr ParseGeneration() {
    auto statement = NewStatement<ScopeStmt>(StmtKind::kScope);
    Next();
    statement->body = ParseIsolatedBody("endgeneration");
    return statement;
  }

  StmtPtr ParseBlock() {
    auto statement = NewStatement<ScopeStmt>(StmtKind::kBlock);
    Next();
    const std::string name = ExpectAnyName().text;
    SkipName("scoped");
    SkipName("required");
    statement->body = ParseIsolatedBody("endblock");
    SkipName(name);
    return statement;
  }

  StmtPtr ParseBreak() { return ParseLoopControl(StmtKind::kBreak); }
  StmtPtr ParseContinue() { return ParseLoopControl(StmtKind::kContinue); }

  StmtPtr ParseLoopControl(StmtKind kind) {
    auto statement = NewStatement<BreakStmt>(kind);
    const Token token = Next();
    if (loops_ == 0) FailAt(token.line, "'{}' outside loop", token.text);
    return statement;
  }

  // A tuple without parentheses ends where a name of `ends` comes.
  Target ParseTarget(std::initializer_list<std::string_view> ends, bool with_attributes) {
    Target tuple;
    tuple.kind = Target::Kind::kTuple;
    tuple.line = Current().line;
    bool is_tuple = false;
    while (true) {
      if (!tuple.parts.empty() && (IsTupleEnd(ends) || Current().IsOperator("="))) break;
      tuple.parts.push_back(ParseSingleTarget(with_attributes));
      if (!SkipOperator(",")) break;
      is_tuple = true;
    }
    return is_tuple ? std::move(tuple) : std::move(tuple.parts.front());
  }

  Target ParseSingleTarget(bool with_attributes) {
    const NestingGuard guard(this);
    if (SkipOperator("(")) {
      Target target = ParseTarget({}, with_attributes);
      ExpectOperator(")");
      return target;
    }
    const Token token = ExpectAnyName();
    if (IsLiteralName(token.text)) FailAt(token.line, "can't assign to '{}'", token.text);
    Target target;
    target.line = token.line;
    target.name = Intern(token.text);
    if (with_attributes && SkipOperator(".")) {
      target.kind = Target::Kind::kAttribute;
      target.attribute = ExpectAnyName().text;
    }
    return target;
  }

  int loops_ = 0;  // around the current statement, as far as {% break %} reaches
};

}  // namespace

SyntaxTree ParseTemplate(std::string_view source, const Limits& limits) {
  if (source.size() > limits.max_source_bytes) {
    FailLimit("the template has {} bytes; at most {} are allowed (max_source_bytes)", source.size(),
              limits.max_source_bytes);
  }
  return Parser(Tokenize(source), limits).Run();
}

}  // namespace moed::jinja
