// Reading JSON of strangers: each value knows its path, so that an error can name it.
#ifndef MOED_TOKENIZER_JSON_FIELD_H_
#define MOED_TOKENIZER_JSON_FIELD_H_

#include <absl/status/statusor.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace moed {

// INVALID_ARGUMENT, with the place, when `text` is not JSON.
absl::StatusOr<nlohmann::json> ParseJson(std::string_view text);

// A value, or the absence of one; refers to a document that outlives it.
class JsonField {
 public:
  JsonField(const nlohmann::json* value, std::string path) : value_(value), path_(std::move(path)) {}
  explicit JsonField(const nlohmann::json& root) : JsonField(&root, "") {}

  // A member; absent when there is none, or when this is no object. null counts as absent.
  JsonField operator[](std::string_view name) const;
  bool present() const { return value_ != nullptr && !value_->is_null(); }
  const nlohmann::json& value() const { return *value_; }
  const std::string& path() const { return path_; }

  // The value as a type; INVALID_ARGUMENT when it is absent (without `otherwise`) or of another type.
  absl::StatusOr<std::string> String() const;
  absl::StatusOr<std::string> StringOr(std::string_view otherwise) const;
  absl::StatusOr<bool> Bool() const;
  absl::StatusOr<bool> BoolOr(bool otherwise) const;
  absl::StatusOr<int64_t> Integer() const;
  // Of one Unicode character.
  absl::StatusOr<char32_t> Character() const;
  // An array's; none when absent.
  absl::StatusOr<std::vector<JsonField>> Elements() const;
  absl::Status ExpectObject() const;

  // "model.merges[3] is 5; it must be a string"
  absl::Status Wrong(std::string_view expected) const;

 private:
  const nlohmann::json* value_;  // null when absent
  std::string path_;
};

}  // namespace moed

#endif  // MOED_TOKENIZER_JSON_FIELD_H_
