// How the interpreter reports failure to itself. An expression tree is evaluated by deep recursion in which nearly
// every step can fail, so this folder throws TemplateError internally; Template::Parse and Template::Render catch it
// and return a status, and nothing outside of the folder ever sees it.
#ifndef MOED_TOKENIZER_JINJA_ERROR_H_
#define MOED_TOKENIZER_JINJA_ERROR_H_

#include <absl/status/status.h>
#include <fmt/format.h>

#include <exception>
#include <string>
#include <utility>

namespace moed::jinja {

class TemplateError : public std::exception {
 public:
  // `line` counts from 1; 0 is "not known yet" and is filled in where the template is executed.
  TemplateError(absl::StatusCode code, std::string message, int line = 0)
      : code_(code), message_(std::move(message)), line_(line) {}

  const char* what() const noexcept override { return message_.c_str(); }
  absl::StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }
  int line() const { return line_; }

 private:
  absl::StatusCode code_;
  std::string message_;
  int line_;
};

// What raise_exception("…") throws: its message is the template author's words to the client and stands as it is.
class RaisedByTemplate : public TemplateError {
 public:
  explicit RaisedByTemplate(std::string message)
      : TemplateError(absl::StatusCode::kInvalidArgument, std::move(message)) {}
};

// The template or its input is wrong.
template <typename... Args>
[[noreturn]] void Fail(fmt::format_string<Args...> format, Args&&... args) {
  throw TemplateError(absl::StatusCode::kInvalidArgument, fmt::format(format, std::forward<Args>(args)...));
}

// One of the limits of limits.h was passed.
template <typename... Args>
[[noreturn]] void FailLimit(fmt::format_string<Args...> format, Args&&... args) {
  throw TemplateError(absl::StatusCode::kResourceExhausted, fmt::format(format, std::forward<Args>(args)...));
}

// Jinja has it and this interpreter does not.
template <typename... Args>
[[noreturn]] void FailUnimplemented(fmt::format_string<Args...> format, Args&&... args) {
  throw TemplateError(absl::StatusCode::kUnimplemented, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace moed::jinja

#endif  // MOED_TOKENIZER_JINJA_ERROR_H_
