// Tokens to a syntax tree, after jinja2's grammar with the extensions that chat templates are given: loop controls
// ({% break %}, {% continue %}) and {% generation %}.
#ifndef MOED_TOKENIZER_JINJA_PARSER_H_
#define MOED_TOKENIZER_JINJA_PARSER_H_

#include <string_view>

#include "tokenizer/jinja/ast.h"
#include "tokenizer/jinja/limits.h"

namespace moed::jinja {

// Throws TemplateError: for a mistake in the source, for nesting beyond limits.max_nesting, and for what refers to
// other templates ({% include %}, {% import %}, {% extends %}), which a chat template has none of.
SyntaxTree ParseTemplate(std::string_view source, const Limits& limits);

}  // namespace moed::jinja

#endif  // MOED_TOKENIZER_JINJA_PARSER_H_
