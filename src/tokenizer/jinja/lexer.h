// Template text to tokens, by the rules of jinja2's lexer with trim_blocks and lstrip_blocks on (how chat templates are
// written): a tag takes the line break behind it, and a block tag the blanks before it on its line.
#ifndef MOED_TOKENIZER_JINJA_LEXER_H_
#define MOED_TOKENIZER_JINJA_LEXER_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/jinja/value.h"

namespace moed::jinja {

enum class TokenType : uint8_t {
  kData,  // text between tags
  kBlockBegin,
  kBlockEnd,
  kVariableBegin,
  kVariableEnd,
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,  // and punctuation; `text` tells which
  kEnd,
};

struct Token {
  TokenType type = TokenType::kEnd;
  int line = 1;
  std::string text;  // of data, names, operators; of strings with the escapes resolved
  Integer integer = 0;
  double real = 0;

  bool IsOperator(std::string_view symbol) const { return type == TokenType::kOperator && text == symbol; }
  bool IsName(std::string_view name) const { return type == TokenType::kName && text == name; }
};

// What a message calls a token.
std::string Describe(const Token& token);

// The tokens of `source`, with a kEnd at the end. Throws TemplateError.
std::vector<Token> Tokenize(std::string_view source);

}  // namespace moed::jinja

#endif  // MOED_TOKENIZER_JINJA_LEXER_H_
