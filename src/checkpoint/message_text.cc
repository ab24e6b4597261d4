#include "checkpoint/message_text.h"

#include <fmt/format.h>

namespace moed {
namespace {
constexpr size_t kMaxLength = 200;
}  // namespace

std::string Quoted(std::string_view text) {
  if (text.size() <= kMaxLength) return fmt::format("{:?}", text);
  return fmt::format("{:?}… ({} bytes)", text.substr(0, kMaxLength), text.size());
}

std::string JsonErrorText(std::string_view what) {
  // "[json.exception.parse_error.101] parse error at line 1, column 2: …"
  if (const size_t tag = what.find("] "); what.starts_with('[') && tag != std::string_view::npos) {
    what.remove_prefix(tag + 2);
  }
  if (what.size() <= kMaxLength) return std::string(what);
  const std::string quoted = fmt::format("{:?}", what.substr(0, kMaxLength));
  return quoted.substr(1, quoted.size() - 2) + "…";
}

}  // namespace moed
