// A JSON object read from a file of the checkpoint.
#ifndef MOED_CHECKPOINT_JSON_FILE_H_
#define MOED_CHECKPOINT_JSON_FILE_H_

#include <cstddef>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "base/status.h"

namespace moed {

// A parsed JSON object and the name that messages call it by ("config.json"). Immutable; copies share the object.
class JsonFile {
 public:
  static constexpr size_t kDefaultMaxBytes = size_t{16} << 20;
  static constexpr int kMaxDepth = 64;

  // An empty object.
  explicit JsonFile(std::string name);

  // Reads `path`. NOT_FOUND when there is no such file; INVALID_ARGUMENT when it is longer than `max_bytes`, nested
  // deeper than kMaxDepth, not JSON (with line and column) or not an object.
  static absl::StatusOr<JsonFile> Read(const std::string& path, size_t max_bytes = kDefaultMaxBytes);
  // The same of a text; `name` is what messages call it.
  static absl::StatusOr<JsonFile> Parse(std::string name, std::string_view text);

  const std::string& name() const { return name_; }
  const nlohmann::json& json() const { return *json_; }

 private:
  std::string name_;
  std::shared_ptr<const nlohmann::json> json_;
};

}  // namespace moed

#endif  // MOED_CHECKPOINT_JSON_FILE_H_
