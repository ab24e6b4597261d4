#include "checkpoint/config_reader.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "checkpoint/message_text.h"

namespace moed {
namespace {

using Json = nlohmann::json;

std::string Describe(const Json& value) {
  if (value.is_string()) return Quoted(value.get_ref<const std::string&>());
  if (value.is_array()) return fmt::format("a list of {}", value.size());
  if (value.is_object()) return "an object";
  return value.dump();  // null, boolean or number
}

// "an integer", "an integer of at least 1", "an integer from 1 to 8".
std::string DescribeRange(IntRange range) {
  const IntRange all;
  if (range.min == all.min && range.max == all.max) return "an integer";
  if (range.max == all.max) return fmt::format("an integer of at least {}", range.min);
  if (range.min == all.min) return fmt::format("an integer of at most {}", range.max);
  return fmt::format("an integer from {} to {}", range.min, range.max);
}

// The whole value in double precision; nothing when it is not an integer of 64 bits.
std::optional<int64_t> AsInt64(const Json& value) {
  if (value.is_number_unsigned() &&
      value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return std::nullopt;
  }
  if (!value.is_number_integer()) return std::nullopt;
  return value.get<int64_t>();
}

// The elements of a list, or the value itself.
std::vector<const Json*> Elements(const Json* value) {
  std::vector<const Json*> elements;
  if (value == nullptr) return elements;
  if (!value->is_array()) return {value};
  elements.reserve(value->size());
  for (const Json& element : *value) elements.push_back(&element);
  return elements;
}

}  // namespace

ConfigReader::ConfigReader(const JsonFile& file)
    : ConfigReader(&file.json(), "", std::make_shared<Shared>(Shared{file.name(), {}, {}, {}})) {}

ConfigReader::ConfigReader(const Json* object, std::string prefix, std::shared_ptr<Shared> shared)
    : object_(object), prefix_(std::move(prefix)), shared_(std::move(shared)) {}

const absl::Status& ConfigReader::status() const { return shared_->status; }

void ConfigReader::Fail(absl::Status status) const {
  if (shared_->status.ok()) shared_->status = std::move(status);
}

void ConfigReader::FailType(std::string_view key, const Json& value, std::string_view expected) const {
  Fail(InvalidArgument("{}: {}{} is {}; it must be {}", shared_->name, prefix_, key, Describe(value), expected));
}

const Json* ConfigReader::Lookup(std::string_view key) const {
  shared_->read.insert(prefix_ + std::string(key));
  const auto it = object_->find(key);
  return it == object_->end() || it->is_null() ? nullptr : &*it;
}

const Json* ConfigReader::LookupRequired(std::string_view key) const {
  const Json* value = Lookup(key);
  if (value == nullptr) {
    shared_->missing.push_back(prefix_ + std::string(key));
    Fail(InvalidArgument("{}: {}{} is missing", shared_->name, prefix_, key));
  }
  return value;
}

bool ConfigReader::Has(std::string_view key) const { return Lookup(key) != nullptr; }

std::optional<int64_t> ConfigReader::ToInt(std::string_view key, const Json& value, IntRange range) const {
  const std::optional<int64_t> number = AsInt64(value);
  if (number.has_value() && *number >= range.min && *number <= range.max) return number;
  FailType(key, value, DescribeRange(range));
  return std::nullopt;
}

int64_t ConfigReader::Int(std::string_view key, IntRange range) const {
  const int64_t fallback = range.min == IntRange{}.min ? 0 : range.min;
  const Json* value = LookupRequired(key);
  return value == nullptr ? fallback : ToInt(key, *value, range).value_or(fallback);
}

int64_t ConfigReader::IntOr(std::string_view key, int64_t fallback, IntRange range) const {
  const Json* value = Lookup(key);
  return value == nullptr ? fallback : ToInt(key, *value, range).value_or(fallback);
}

double ConfigReader::Float(std::string_view key) const {
  return LookupRequired(key) == nullptr ? 0.0 : FloatOr(key, 0.0);
}

double ConfigReader::FloatOr(std::string_view key, double fallback) const {
  const Json* value = Lookup(key);
  if (value == nullptr) return fallback;
  if (value->is_number()) return value->get<double>();
  FailType(key, *value, "a number");
  return fallback;
}

bool ConfigReader::Bool(std::string_view key) const { return LookupRequired(key) != nullptr && BoolOr(key, false); }

bool ConfigReader::BoolOr(std::string_view key, bool fallback) const {
  const Json* value = Lookup(key);
  if (value == nullptr) return fallback;
  if (value->is_boolean()) return value->get<bool>();
  FailType(key, *value, "true or false");
  return fallback;
}

std::string ConfigReader::String(std::string_view key) const {
  return LookupRequired(key) == nullptr ? "" : StringOr(key, "");
}

std::string ConfigReader::StringOr(std::string_view key, std::string_view fallback) const {
  const Json* value = Lookup(key);
  if (value == nullptr) return std::string(fallback);
  if (value->is_string()) return value->get<std::string>();
  FailType(key, *value, "a string");
  return std::string(fallback);
}

std::vector<int64_t> ConfigReader::Ints(std::string_view key, IntRange range) const {
  std::vector<int64_t> numbers;
  for (const Json* element : Elements(Lookup(key))) {
    const std::optional<int64_t> number = ToInt(fmt::format("{}[{}]", key, numbers.size()), *element, range);
    if (!number.has_value()) return {};
    numbers.push_back(*number);
  }
  return numbers;
}

std::vector<double> ConfigReader::Floats(std::string_view key) const {
  std::vector<double> numbers;
  for (const Json* element : Elements(Lookup(key))) {
    if (!element->is_number()) {
      FailType(fmt::format("{}[{}]", key, numbers.size()), *element, "a number");
      return {};
    }
    numbers.push_back(element->get<double>());
  }
  return numbers;
}

std::vector<std::string> ConfigReader::Strings(std::string_view key) const {
  std::vector<std::string> texts;
  for (const Json* element : Elements(Lookup(key))) {
    if (!element->is_string()) {
      FailType(fmt::format("{}[{}]", key, texts.size()), *element, "a string");
      return {};
    }
    texts.push_back(element->get<std::string>());
  }
  return texts;
}

std::optional<ConfigReader> ConfigReader::Object(std::string_view key) const {
  const Json* value = Lookup(key);
  if (value == nullptr) return std::nullopt;
  if (value->is_object()) return ConfigReader(value, fmt::format("{}{}.", prefix_, key), shared_);
  FailType(key, *value, "an object");
  return std::nullopt;
}

std::vector<std::string> ConfigReader::Keys() const {
  std::vector<std::string> keys;
  for (const auto& [key, value] : object_->items()) keys.push_back(key);
  return keys;
}

std::vector<std::string> ConfigReader::UnreadKeys() const {
  std::vector<std::string> keys;
  for (std::string& key : Keys()) {
    if (!shared_->read.contains(prefix_ + key)) keys.push_back(std::move(key));
  }
  return keys;
}

const std::vector<std::string>& ConfigReader::MissingKeys() const { return shared_->missing; }

}  // namespace moed
