#include "tokenizer/json_field.h"

#include "base/status.h"
#include "base/text.h"
#include "base/utf8.h"

namespace moed {
namespace {

// A value as messages show it.
std::string Brief(const nlohmann::json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return "an array";
  constexpr size_t kLongest = 60;
  const std::string text = value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  return text.size() <= kLongest ? text : "a long " + std::string(value.type_name());
}

}  // namespace

absl::StatusOr<nlohmann::json> ParseJson(std::string_view text) {
  try {
    return nlohmann::json::parse(text);
  } catch (const nlohmann::json::exception& error) {
    return InvalidArgument("not JSON: {}", Escaped(error.what()));
  }
}

JsonField JsonField::operator[](std::string_view name) const {
  std::string path = path_.empty() ? std::string(name) : path_ + "." + std::string(name);
  if (value_ == nullptr || !value_->is_object()) return {nullptr, std::move(path)};
  const auto found = value_->find(name);
  return {found == value_->end() ? nullptr : &*found, std::move(path)};
}

absl::StatusOr<std::string> JsonField::String() const {
  if (!present() || !value_->is_string()) return Wrong("a string");
  return value_->get_ref<const std::string&>();
}

absl::StatusOr<std::string> JsonField::StringOr(std::string_view otherwise) const {
  if (!present()) return std::string(otherwise);
  return String();
}

absl::StatusOr<bool> JsonField::Bool() const {
  if (!present() || !value_->is_boolean()) return Wrong("true or false");
  return value_->get<bool>();
}

absl::StatusOr<bool> JsonField::BoolOr(bool otherwise) const {
  if (!present()) return otherwise;
  return Bool();
}

absl::StatusOr<int64_t> JsonField::Integer() const {
  const bool fits = present() && value_->is_number_integer() &&
                    (!value_->is_number_unsigned() || value_->get<uint64_t>() <= INT64_MAX);
  if (!fits) return Wrong("an integer");
  return value_->get<int64_t>();
}

absl::StatusOr<char32_t> JsonField::Character() const {
  MOED_ASSIGN_OR_RETURN(const std::string text, String());
  if (text.empty() || static_cast<size_t>(Utf8Length(text[0])) != text.size()) return Wrong("one character");
  size_t position = 0;
  return DecodeUtf8(text, position);
}

absl::StatusOr<std::vector<JsonField>> JsonField::Elements() const {
  std::vector<JsonField> elements;
  if (!present()) return elements;
  if (!value_->is_array()) return Wrong("an array");
  for (size_t i = 0; i < value_->size(); ++i) elements.emplace_back(&(*value_)[i], fmt::format("{}[{}]", path_, i));
  return elements;
}

absl::Status JsonField::ExpectObject() const {
  return present() && value_->is_object() ? absl::OkStatus() : Wrong("an object");
}

absl::Status JsonField::Wrong(std::string_view expected) const {
  const std::string_view name = path_.empty() ? "the document" : std::string_view(path_);
  if (value_ == nullptr) return InvalidArgument("{} is missing; it must be {}", name, expected);
  return InvalidArgument("{} is {}; it must be {}", name, Brief(*value_), expected);
}

}  // namespace moed
