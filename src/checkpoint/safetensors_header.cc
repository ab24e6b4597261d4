#include "checkpoint/safetensors_header.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <unordered_set>
#include <utility>

#include "checkpoint/message_text.h"

namespace moed {
namespace {

using Json = nlohmann::json;

constexpr size_t kLengthBytes = 8;
// More dimensions than any tensor has; bounds the memory that a hostile shape can take.
constexpr size_t kMaxRank = 32;

struct FormatDType {
  std::string_view name;
  int bits;
  std::optional<DType> dtype;
};

// All types of the format. Those without a DType are known by size, so that a file may hold them unused.
constexpr std::array<FormatDType, 22> kDTypes = {{
    {"F32", 32, DType::kF32},     {"F16", 16, DType::kF16},
    {"BF16", 16, DType::kBF16},   {"I8", 8, DType::kI8},
    {"U8", 8, DType::kU8},        {"I32", 32, DType::kI32},
    {"I64", 64, DType::kI64},     {"BOOL", 8, std::nullopt},
    {"I16", 16, std::nullopt},    {"U16", 16, std::nullopt},
    {"U32", 32, std::nullopt},    {"U64", 64, std::nullopt},
    {"F64", 64, std::nullopt},    {"C64", 64, std::nullopt},
    {"F8_E4M3", 8, std::nullopt}, {"F8_E4M3FNUZ", 8, std::nullopt},
    {"F8_E5M2", 8, std::nullopt}, {"F8_E5M2FNUZ", 8, std::nullopt},
    {"F8_E8M0", 8, std::nullopt}, {"F6_E2M3", 6, std::nullopt},
    {"F6_E3M2", 6, std::nullopt}, {"F4", 4, std::nullopt},
}};

const FormatDType* FindDType(std::string_view name) {
  for (const FormatDType& type : kDTypes) {
    if (type.name == name) return &type;
  }
  return nullptr;
}

// Receives the header piece by piece: no tree is built, so memory stays near the header's own length, and a name that
// occurs twice, which a tree would hide, is seen.
class HeaderHandler final : public nlohmann::json_sax<Json> {
 public:
  explicit HeaderHandler(uint64_t data_begin) : data_begin_(data_begin) {}

  SafetensorsHeader TakeHeader() { return std::move(header_); }
  const absl::Status& status() const { return status_; }

  bool null() override { return Scalar("null"); }
  bool boolean(bool value) override { return Scalar(value ? "true" : "false"); }
  bool number_integer(int64_t value) override { return Scalar(fmt::format("{}", value)); }
  bool number_float(double, const std::string& text) override { return Scalar(text); }
  bool binary(Json::binary_t&) override { return Scalar("binary"); }
  bool number_unsigned(uint64_t value) override;
  bool string(std::string& value) override;
  bool start_object(size_t) override;
  bool end_object() override;
  bool start_array(size_t) override;
  bool end_array() override;
  bool key(std::string& name) override;
  bool parse_error(size_t position, const std::string&, const Json::exception& error) override {
    return Fail(InvalidArgument("the header is not JSON at byte {}: {}", position, JsonErrorText(error.what())));
  }

 private:
  // Where in the header we are. kIgnored is inside a key of a tensor that the format does not define.
  enum class Place { kStart, kTop, kMetadata, kTensor, kShape, kOffsets, kIgnored };

  bool Fail(absl::Status status) {
    if (status_.ok()) status_ = std::move(status);
    return false;
  }
  bool Scalar(std::string_view value);
  bool FinishTensor();
  std::string Tensor() const { return fmt::format("tensor {}", Quoted(entry_.name)); }

  const uint64_t data_begin_;
  SafetensorsHeader header_;
  absl::Status status_;
  std::unordered_set<std::string> names_;

  Place place_ = Place::kStart;
  int ignored_depth_ = 0;
  std::string key_;
  SafetensorsEntry entry_;
  bool has_dtype_ = false, has_shape_ = false, has_offsets_ = false;
  std::vector<uint64_t> offsets_;
};

bool HeaderHandler::key(std::string& name) {
  if (place_ == Place::kIgnored) return true;
  if (place_ == Place::kTop && !names_.insert(name).second) {
    return Fail(InvalidArgument("the header names {} twice; each name must occur once", Quoted(name)));
  }
  if (place_ == Place::kTensor) {
    const bool again =
        (name == "dtype" && has_dtype_) || (name == "shape" && has_shape_) || (name == "data_offsets" && has_offsets_);
    if (again) return Fail(InvalidArgument("{}: the key \"{}\" occurs twice", Tensor(), name));
  }
  key_ = std::move(name);
  return true;
}

bool HeaderHandler::start_object(size_t) {
  switch (place_) {
    case Place::kStart:
      place_ = Place::kTop;
      return true;
    case Place::kTop:
      if (key_ == "__metadata__") {
        place_ = Place::kMetadata;
        return true;
      }
      place_ = Place::kTensor;
      entry_ = SafetensorsEntry{};
      entry_.name = key_;
      has_dtype_ = has_shape_ = has_offsets_ = false;
      offsets_.clear();
      return true;
    case Place::kTensor:
      if (key_ == "dtype" || key_ == "shape" || key_ == "data_offsets") return Scalar("an object");
      place_ = Place::kIgnored;
      ignored_depth_ = 1;
      return true;
    case Place::kIgnored:
      ++ignored_depth_;
      return true;
    default:
      return Scalar("an object");
  }
}

bool HeaderHandler::end_object() {
  switch (place_) {
    case Place::kIgnored:
      if (--ignored_depth_ == 0) place_ = Place::kTensor;
      return true;
    case Place::kTensor:
      place_ = Place::kTop;
      return FinishTensor();
    case Place::kMetadata:
      place_ = Place::kTop;
      return true;
    default:
      return true;  // the end of the header
  }
}

bool HeaderHandler::start_array(size_t) {
  if (place_ == Place::kIgnored) {
    ++ignored_depth_;
    return true;
  }
  if (place_ != Place::kTensor || key_ == "dtype") return Scalar("an array");
  if (key_ == "shape") {
    place_ = Place::kShape;
    has_shape_ = true;
  } else if (key_ == "data_offsets") {
    place_ = Place::kOffsets;
    has_offsets_ = true;
  } else {
    place_ = Place::kIgnored;
    ignored_depth_ = 1;
  }
  return true;
}

bool HeaderHandler::end_array() {
  if (place_ == Place::kIgnored) {
    if (--ignored_depth_ == 0) place_ = Place::kTensor;
    return true;
  }
  place_ = Place::kTensor;
  return true;
}

bool HeaderHandler::number_unsigned(uint64_t value) {
  if (place_ == Place::kShape) {
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return Scalar(fmt::format("{}", value));
    if (entry_.shape.size() == kMaxRank) {
      return Fail(InvalidArgument("{}: shape has more than {} dimensions", Tensor(), kMaxRank));
    }
    entry_.shape.push_back(static_cast<int64_t>(value));
    return true;
  }
  if (place_ == Place::kOffsets) {
    if (offsets_.size() == 2) return Fail(InvalidArgument("{}: data_offsets must be [begin, end]", Tensor()));
    offsets_.push_back(value);
    return true;
  }
  return Scalar(fmt::format("{}", value));
}

bool HeaderHandler::string(std::string& value) {
  if (place_ == Place::kMetadata) {
    header_.metadata[key_] = std::move(value);
    return true;
  }
  if (place_ == Place::kTensor && key_ == "dtype") {
    const FormatDType* type = FindDType(value);
    if (type == nullptr) {
      return Fail(InvalidArgument("{}: dtype {} is unknown; it must be F32, F16, BF16, I8, … as the format defines",
                                  Tensor(), Quoted(value)));
    }
    entry_.dtype_name = type->name;
    entry_.dtype = type->dtype;
    has_dtype_ = true;
    return true;
  }
  return Scalar(Quoted(value));
}

// A value that is wrong wherever a value matters; the message says what would be right there.
bool HeaderHandler::Scalar(std::string_view value) {
  switch (place_) {
    case Place::kIgnored:
      return true;
    case Place::kStart:
      return Fail(InvalidArgument("the header is {}; it must be a JSON object", value));
    case Place::kTop:
      return Fail(InvalidArgument("{} is {}; it must be an object", Quoted(key_), value));
    case Place::kMetadata:
      return Fail(InvalidArgument("__metadata__ {} is {}; it must be a string", Quoted(key_), value));
    case Place::kShape:
      return Fail(InvalidArgument("{}: shape[{}] is {}; it must be an integer from 0 to 2^63-1", Tensor(),
                                  entry_.shape.size(), value));
    case Place::kOffsets:
      return Fail(InvalidArgument("{}: data_offsets[{}] is {}; it must be an integer of at least 0", Tensor(),
                                  offsets_.size(), value));
    case Place::kTensor:
      break;
  }
  if (key_ == "dtype") return Fail(InvalidArgument("{}: dtype is {}; it must be a string", Tensor(), value));
  if (key_ == "shape") return Fail(InvalidArgument("{}: shape is {}; it must be an array", Tensor(), value));
  if (key_ == "data_offsets") {
    return Fail(InvalidArgument("{}: data_offsets is {}; it must be an array [begin, end]", Tensor(), value));
  }
  return true;  // a key that the format does not define
}

// The bytes that `bits` times the product of `shape` need; nothing when that overflows or ends within a byte.
std::optional<uint64_t> NumBytes(const std::vector<int64_t>& shape, int bits) {
  uint64_t total = static_cast<uint64_t>(bits);
  bool empty = false;
  for (int64_t dim : shape) {
    empty |= dim == 0;
    // A zero does not excuse the others: whoever multiplies them later must not overflow either.
    if (dim != 0 && __builtin_mul_overflow(total, static_cast<uint64_t>(dim), &total)) return std::nullopt;
  }
  if (empty) return 0;
  if (total % 8 != 0) return std::nullopt;
  return total / 8;
}

bool HeaderHandler::FinishTensor() {
  if (!has_dtype_ || !has_shape_ || !has_offsets_) {
    return Fail(InvalidArgument("{}: {} is missing; a tensor has dtype, shape and data_offsets", Tensor(),
                                !has_dtype_   ? "dtype"
                                : !has_shape_ ? "shape"
                                              : "data_offsets"));
  }
  if (offsets_.size() != 2) return Fail(InvalidArgument("{}: data_offsets must be [begin, end]", Tensor()));
  if (offsets_[0] > offsets_[1]) {
    return Fail(InvalidArgument("{}: data_offsets is [{}, {}]; the end must not come before the begin", Tensor(),
                                offsets_[0], offsets_[1]));
  }
  const std::optional<uint64_t> needed = NumBytes(entry_.shape, FindDType(entry_.dtype_name)->bits);
  if (!needed.has_value()) {
    return Fail(InvalidArgument("{}: shape [{}] of {} has no whole number of bytes below 2^61", Tensor(),
                                fmt::join(entry_.shape, ", "), entry_.dtype_name));
  }
  entry_.num_bytes = offsets_[1] - offsets_[0];
  if (entry_.num_bytes != *needed) {
    return Fail(InvalidArgument("{}: data_offsets [{}, {}] hold {} bytes; shape [{}] of {} needs {}", Tensor(),
                                offsets_[0], offsets_[1], entry_.num_bytes, fmt::join(entry_.shape, ", "),
                                entry_.dtype_name, *needed));
  }
  if (__builtin_add_overflow(offsets_[0], data_begin_, &entry_.offset)) {
    return Fail(InvalidArgument("{}: data_offsets[0] is {}; it must lie inside the file", Tensor(), offsets_[0]));
  }
  header_.entries.push_back(std::move(entry_));
  return true;
}

// Holds the entries, sorted by offset, against each other and the file's end.
absl::Status CheckLayout(const std::vector<SafetensorsEntry>& entries, uint64_t data_begin, uint64_t file_size) {
  uint64_t end = data_begin;
  std::string_view previous;  // whose data is there
  for (const SafetensorsEntry& entry : entries) {
    // Compared so that nothing overflows: num_bytes is below 2^61, the offset is anything.
    if (entry.offset > file_size || entry.num_bytes > file_size - entry.offset) {
      const uint64_t begin = entry.offset - data_begin;
      return InvalidArgument("tensor {}: data_offsets is [{}, {}]; the file has {} bytes of data (is it truncated?)",
                             Quoted(entry.name), begin, begin + entry.num_bytes, file_size - data_begin);
    }
    if (entry.offset < end) {
      return InvalidArgument(
          "tensor {}: data_offsets[0] is {}, inside tensor {}, which ends at {}; tensors must not overlap",
          Quoted(entry.name), entry.offset - data_begin, Quoted(previous), end - data_begin);
    }
    if (entry.offset > end) {
      return InvalidArgument(
          "tensor {}: data_offsets[0] is {}, but the data before it ends at {}; there must be no holes",
          Quoted(entry.name), entry.offset - data_begin, end - data_begin);
    }
    end = entry.offset + entry.num_bytes;
    previous = entry.name;
  }
  if (end != file_size) {
    return InvalidArgument("the file has {} bytes of data, but the last tensor ends at {}; there must be no holes",
                           file_size - data_begin, end - data_begin);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view file) {
  if (file.size() < kLengthBytes) {
    return InvalidArgument("the file has {} bytes; a safetensors file starts with 8 bytes of header length",
                           file.size());
  }
  uint64_t length = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) {
    length |= static_cast<uint64_t>(static_cast<unsigned char>(file[i])) << (8 * i);
  }
  if (length > kMaxSafetensorsHeaderBytes) {
    return InvalidArgument("the header length is {}; it must be at most {} (is this a safetensors file?)", length,
                           kMaxSafetensorsHeaderBytes);
  }
  if (length > file.size() - kLengthBytes) {
    return InvalidArgument("the header length is {}, but only {} bytes follow it (is the file truncated?)", length,
                           file.size() - kLengthBytes);
  }
  const std::string_view text = file.substr(kLengthBytes, length);
  if (text.empty() || text[0] != '{') return InvalidArgument("the header must begin with '{{'");
  const uint64_t data_begin = kLengthBytes + length;
  HeaderHandler handler(data_begin);
  // The library reports errors to the handler and through the result; it throws on none of them.
  if (!Json::sax_parse(text.begin(), text.end(), &handler)) return handler.status();
  SafetensorsHeader header = handler.TakeHeader();
  // Empty tensors first among those of one offset, as they end where they begin.
  std::sort(header.entries.begin(), header.entries.end(), [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
    return std::pair(a.offset, a.num_bytes) < std::pair(b.offset, b.num_bytes);
  });
  MOED_RETURN_IF_ERROR(CheckLayout(header.entries, data_begin, file.size()));
  return header;
}

std::string_view SafetensorsDTypeName(DType dtype) {
  for (const FormatDType& type : kDTypes) {
    if (type.dtype == dtype) return type.name;
  }
  return "unknown";
}

}  // namespace moed
