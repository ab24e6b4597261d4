#include "tokenizer/jinja/template.h"

#include <new>

#include "base/status.h"
#include "tokenizer/jinja/error.h"
#include "tokenizer/jinja/evaluator.h"
#include "tokenizer/jinja/parser.h"

namespace moed::jinja {
namespace {

absl::Status ToStatus(const TemplateError& error, int line) {
  if (dynamic_cast<const RaisedByTemplate*>(&error) != nullptr) return absl::Status(error.code(), error.message());
  const int known = error.line() != 0 ? error.line() : line;
  if (known == 0) return absl::Status(error.code(), fmt::format("chat template: {}", error.message()));
  return absl::Status(error.code(), fmt::format("chat template, line {}: {}", known, error.message()));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Template>> Template::Parse(std::string_view source, const Limits& limits) {
  auto result = std::unique_ptr<Template>(new Template(limits));
  try {
    result->tree_ = ParseTemplate(source, result->limits_);
  } catch (const TemplateError& error) {
    return ToStatus(error, 0);
  }
  return result;
}

absl::StatusOr<std::string> Template::Render(const Value& variables, absl::Time now) const {
  Budget budget(limits_);
  Evaluator evaluator(tree_, variables, now, budget);
  try {
    return evaluator.Render();
  } catch (const TemplateError& error) {
    return ToStatus(error, evaluator.line());
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("chat template, line {}: out of memory", evaluator.line());
  }
}

}  // namespace moed::jinja
