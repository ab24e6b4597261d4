// A Jinja template: parsed once, rendered often.
//
// The language is jinja2 3.1 as the transformers library sets it up for chat templates: the immutable sandbox with
// trim_blocks and lstrip_blocks, loop controls and {% generation %}, its own tojson, and the functions raise_exception
// and strftime_now. Text, numbers and containers print as in Python; strings count code points. Left out are what
// refers to other templates (include, import, extends), autoescape, and the filters pprint, random, striptags, urlize,
// wordwrap and xmlattr, which answer UNIMPLEMENTED; whole numbers end at 128 bits.
#ifndef MOED_TOKENIZER_JINJA_TEMPLATE_H_
#define MOED_TOKENIZER_JINJA_TEMPLATE_H_

#include <absl/status/statusor.h>
#include <absl/time/time.h>

#include <memory>
#include <string>
#include <string_view>

#include "tokenizer/jinja/ast.h"
#include "tokenizer/jinja/limits.h"
#include "tokenizer/jinja/value.h"

namespace moed::jinja {

// Never changes once parsed; any number of threads may render it at once.
class Template {
 public:
  // INVALID_ARGUMENT with the line for a mistake in the source, RESOURCE_EXHAUSTED for a limit, UNIMPLEMENTED for what
  // is left out.
  static absl::StatusOr<std::unique_ptr<Template>> Parse(std::string_view source, const Limits& limits);

  // `variables` is a dict whose keys are the names that the template sees; `now` is what strftime_now prints, in local
  // time. Errors as above; what the template says with raise_exception is an INVALID_ARGUMENT with just that message.
  absl::StatusOr<std::string> Render(const Value& variables, absl::Time now) const;

  const Limits& limits() const { return limits_; }

 private:
  explicit Template(const Limits& limits) : limits_(limits) {}

  const Limits limits_;
  SyntaxTree tree_;
};

}  // namespace moed::jinja

#endif  // MOED_TOKENIZER_JINJA_TEMPLATE_H_
