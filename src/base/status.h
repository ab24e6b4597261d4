// Errors that a client, a file or the network can cause travel as absl::Status; a bug of ours stops the program with
// MOED_CHECK (logging.h). A message names the field, its value and what would be right:
//   return InvalidArgument("temperature is {}; it must be between 0 and 2", value);
#ifndef MOED_BASE_STATUS_H_
#define MOED_BASE_STATUS_H_

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include <string>
#include <string_view>
#include <utility>

// CUDA's compiler cannot read fmt; in .cu files errors are only named, never made.
#ifndef __CUDACC__
#include <fmt/format.h>

namespace moed {

// One maker an absl error, with fmt's checked format strings.
#define MOED_DEFINE_ERROR(Name)                                                 \
  template <typename... Args>                                                   \
  absl::Status Name(fmt::format_string<Args...> format, Args&&... args) {       \
    return absl::Name##Error(fmt::format(format, std::forward<Args>(args)...)); \
  }
MOED_DEFINE_ERROR(InvalidArgument)
MOED_DEFINE_ERROR(NotFound)
MOED_DEFINE_ERROR(AlreadyExists)
MOED_DEFINE_ERROR(PermissionDenied)
MOED_DEFINE_ERROR(ResourceExhausted)
MOED_DEFINE_ERROR(FailedPrecondition)
MOED_DEFINE_ERROR(Aborted)
MOED_DEFINE_ERROR(OutOfRange)
MOED_DEFINE_ERROR(Unimplemented)
MOED_DEFINE_ERROR(Internal)
MOED_DEFINE_ERROR(Unavailable)
MOED_DEFINE_ERROR(DataLoss)
MOED_DEFINE_ERROR(DeadlineExceeded)
MOED_DEFINE_ERROR(Cancelled)
#undef MOED_DEFINE_ERROR

// The message as our own string type (absl::string_view is another type in Debian's build).
inline std::string_view Message(const absl::Status& status) {
  return std::string_view(status.message().data(), status.message().size());
}

// `status` with `context` put before its message: "model.safetensors: header is not JSON".
inline absl::Status Annotate(const absl::Status& status, std::string_view context) {
  if (status.ok()) return status;
  return absl::Status(status.code(), fmt::format("{}: {}", context, Message(status)));
}

}  // namespace moed
#endif  // __CUDACC__

#define MOED_RETURN_IF_ERROR(expression)                                                   \
  do {                                                                                     \
    if (absl::Status moed_status_ = (expression); !moed_status_.ok()) return moed_status_; \
  } while (false)

#define MOED_STATUS_CONCAT_INNER_(a, b) a##b
#define MOED_STATUS_CONCAT_(a, b) MOED_STATUS_CONCAT_INNER_(a, b)
// MOED_ASSIGN_OR_RETURN(auto file, OpenFile(path));
#define MOED_ASSIGN_OR_RETURN(declaration, expression) \
  MOED_ASSIGN_OR_RETURN_(MOED_STATUS_CONCAT_(moed_statusor_, __LINE__), declaration, expression)
#define MOED_ASSIGN_OR_RETURN_(temporary, declaration, expression) \
  auto temporary = (expression);                                   \
  if (!temporary.ok()) return std::move(temporary).status();       \
  declaration = std::move(temporary).value()

#endif  // MOED_BASE_STATUS_H_
