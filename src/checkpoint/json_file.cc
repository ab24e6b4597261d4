#include "checkpoint/json_file.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "checkpoint/mapped_file.h"
#include "checkpoint/message_text.h"

namespace moed {
namespace {

// How deep brackets nest in `text`; counted before parsing, so that a tree is only built of sane depth.
int NestingDepth(std::string_view text) {
  int depth = 0, deepest = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      deepest = std::max(deepest, ++depth);
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return deepest;
}

}  // namespace

JsonFile::JsonFile(std::string name)
    : name_(std::move(name)), json_(std::make_shared<const nlohmann::json>(nlohmann::json::object())) {}

absl::StatusOr<JsonFile> JsonFile::Read(const std::string& path, size_t max_bytes) {
  MOED_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(path));
  if (file.size() > max_bytes) {
    return InvalidArgument("{}: the file has {} bytes; at most {} are read", path, file.size(), max_bytes);
  }
  absl::StatusOr<JsonFile> parsed = Parse(path, file.contents());
  if (parsed.ok()) parsed->name_ = path.substr(path.rfind('/') + 1);
  return parsed;
}

absl::StatusOr<JsonFile> JsonFile::Parse(std::string name, std::string_view text) {
  if (const int depth = NestingDepth(text); depth > kMaxDepth) {
    return InvalidArgument("{}: nested {} deep; at most {} is allowed", name, depth, kMaxDepth);
  }
  JsonFile file(std::move(name));
  try {
    file.json_ = std::make_shared<const nlohmann::json>(nlohmann::json::parse(text.begin(), text.end()));
  } catch (const nlohmann::json::exception& error) {
    return InvalidArgument("{}: not JSON: {}", file.name_, JsonErrorText(error.what()));
  }
  if (!file.json_->is_object()) {
    return InvalidArgument("{}: holds {}; it must be a JSON object", file.name_, file.json_->type_name());
  }
  return file;
}

}  // namespace moed
