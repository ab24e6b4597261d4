// Typed reading of config.json and generation_config.json.
#ifndef MOED_CHECKPOINT_CONFIG_READER_H_
#define MOED_CHECKPOINT_CONFIG_READER_H_

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "checkpoint/json_file.h"

namespace moed {

// What an integer may be, both ends included.
struct IntRange {
  int64_t min = std::numeric_limits<int64_t>::min();
  int64_t max = std::numeric_limits<int64_t>::max();
};
// Counts and sizes: a model's are 32-bit numbers everywhere.
inline constexpr IntRange kPositive = {1, std::numeric_limits<int32_t>::max()};
inline constexpr IntRange kNotNegative = {0, std::numeric_limits<int32_t>::max()};

// Reads one object key by key. The first error is kept and every later read returns a default, so that a family lists
// its fields plainly and asks once at the end:
//
//   ConfigReader config(checkpoint.config());
//   model.hidden_size = config.Int("hidden_size", kPositive);
//   model.num_kv_heads = config.IntOr("num_key_value_heads", model.num_heads, kPositive);
//   MOED_RETURN_IF_ERROR(config.status());
//
// Errors are INVALID_ARGUMENT: 'config.json: num_experts is "x"; it must be an integer from 1 to 2147483647'. A key
// whose value is null counts as absent, as in Python. Copies share the error. Not thread-safe.
class ConfigReader {
 public:
  // `file` must outlive the reader.
  explicit ConfigReader(const JsonFile& file);

  // OK, or the first error met.
  const absl::Status& status() const;
  // Keeps an error that the caller found, unless there is one already: for rules between two fields.
  void Fail(absl::Status status) const;

  // Whether the key is there and not null.
  bool Has(std::string_view key) const;

  // Required: an absent key is an error, and the value returned then is the smallest that the range allows, 0 or "".
  int64_t Int(std::string_view key, IntRange range = {}) const;
  double Float(std::string_view key) const;  // integers are taken too; infinities and NaN are not JSON
  bool Bool(std::string_view key) const;
  std::string String(std::string_view key) const;

  // Optional: `fallback` when the key is absent or null. A value that is there is checked all the same.
  int64_t IntOr(std::string_view key, int64_t fallback, IntRange range = {}) const;
  double FloatOr(std::string_view key, double fallback) const;
  bool BoolOr(std::string_view key, bool fallback) const;
  std::string StringOr(std::string_view key, std::string_view fallback) const;

  // Lists; empty when the key is absent or null. A single value counts as a list of one, since eos_token_id is written
  // both ways.
  std::vector<int64_t> Ints(std::string_view key, IntRange range = {}) const;
  std::vector<double> Floats(std::string_view key) const;
  std::vector<std::string> Strings(std::string_view key) const;

  // The object under `key` ("rope_scaling"); nothing when absent or null. Messages then say "rope_scaling.factor".
  std::optional<ConfigReader> Object(std::string_view key) const;

  // The keys of this object, sorted.
  std::vector<std::string> Keys() const;

  // Those of Keys() that nobody has asked for, and the required ones, with their objects, that were asked for and are
  // not there: what a file and a reader that was not made for it do not share.
  std::vector<std::string> UnreadKeys() const;
  const std::vector<std::string>& MissingKeys() const;

 private:
  struct Shared {
    std::string name;  // of the file
    absl::Status status;
    std::set<std::string, std::less<>> read;  // with their objects: "rope_scaling.factor"
    std::vector<std::string> missing;
  };

  ConfigReader(const nlohmann::json* object, std::string prefix, std::shared_ptr<Shared> shared);
  const nlohmann::json* Lookup(std::string_view key) const;          // null when absent or null
  const nlohmann::json* LookupRequired(std::string_view key) const;  // and an error when absent
  void FailType(std::string_view key, const nlohmann::json& value, std::string_view expected) const;
  std::optional<int64_t> ToInt(std::string_view key, const nlohmann::json& value, IntRange range) const;

  const nlohmann::json* object_;
  std::string prefix_;  // "" or "rope_scaling."
  std::shared_ptr<Shared> shared_;
};

}  // namespace moed

#endif  // MOED_CHECKPOINT_CONFIG_READER_H_
