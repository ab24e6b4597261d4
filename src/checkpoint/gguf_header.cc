#include "checkpoint/gguf_header.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <type_traits>
#include <unordered_set>
#include <utility>

#include "checkpoint/message_text.h"

namespace moed {
namespace {

constexpr uint64_t kMaxDimensions = 4;
constexpr int64_t kDefaultAlignment = 32;
// A value that a writer could mean; more would only move the data far away.
constexpr int64_t kMaxAlignment = 1 << 20;
// An entry is at least a key's length, a type and a byte; a tensor a name's length, a rank, a type and an offset.
constexpr uint64_t kMinEntryBytes = 13;
constexpr uint64_t kMinTensorBytes = 24;

enum class ValueType : uint32_t { kU8, kI8, kU16, kI16, kU32, kI32, kF32, kBool, kString, kArray, kU64, kI64, kF64 };

// Reads forward; what lies beyond the end is an error, and everything after an error gives nothing.
class Cursor {
 public:
  explicit Cursor(std::string_view file) : file_(file) {}

  size_t position() const { return position_; }
  uint64_t left() const { return file_.size() - position_; }

  template <typename T>
  absl::StatusOr<T> Number(std::string_view what) {
    if (left() < sizeof(T)) return Truncated(what, sizeof(T));
    T value;
    std::memcpy(&value, file_.data() + position_, sizeof(T));
    position_ += sizeof(T);
    return value;
  }

  absl::StatusOr<std::string_view> String(std::string_view what) {
    MOED_ASSIGN_OR_RETURN(const uint64_t length, Number<uint64_t>(what));
    if (length > left()) return Truncated(what, length);
    const std::string_view text = file_.substr(position_, length);
    position_ += length;
    return text;
  }

  absl::Status Truncated(std::string_view what, uint64_t needed) const {
    return InvalidArgument("{} needs {} bytes at {}, but only {} follow (is the file truncated?)", what, needed,
                           position_, left());
  }

 private:
  std::string_view file_;
  size_t position_ = 0;
};

class HeaderParser {
 public:
  explicit HeaderParser(std::string_view file) : file_(file), cursor_(file) {}

  absl::StatusOr<GgufHeader> Parse() {
    MOED_RETURN_IF_ERROR(ReadStart());
    for (uint64_t i = 0; i < num_entries_; ++i) MOED_RETURN_IF_ERROR(ReadEntry());
    header_.tensors.reserve(num_tensors_);
    for (uint64_t i = 0; i < num_tensors_; ++i) MOED_RETURN_IF_ERROR(ReadTensor());
    MOED_RETURN_IF_ERROR(PlaceTensors());
    return std::move(header_);
  }

 private:
  absl::Status ReadStart() {
    if (!file_.starts_with("GGUF")) return InvalidArgument("the file does not begin with \"GGUF\"; it is no GGUF file");
    MOED_RETURN_IF_ERROR(cursor_.Number<uint32_t>("the magic").status());
    MOED_ASSIGN_OR_RETURN(header_.version, cursor_.Number<uint32_t>("the version"));
    if (header_.version == 1) return Unimplemented("the file is of GGUF version 1; versions 2 and 3 are supported");
    if (header_.version != 0 && header_.version % 65536 == 0) {
      return Unimplemented("the file is big-endian; only little-endian GGUF files are supported");
    }
    if (header_.version != 2 && header_.version != 3) {
      return Unimplemented("the file is of GGUF version {}; versions 2 and 3 are supported", header_.version);
    }
    MOED_ASSIGN_OR_RETURN(num_tensors_, cursor_.Number<uint64_t>("the number of tensors"));
    MOED_ASSIGN_OR_RETURN(num_entries_, cursor_.Number<uint64_t>("the number of metadata entries"));
    const uint64_t left = cursor_.left();
    if (num_tensors_ > left / kMinTensorBytes || num_entries_ > left / kMinEntryBytes) {
      return InvalidArgument("the header announces {} tensors and {} metadata entries, but only {} bytes follow it",
                             num_tensors_, num_entries_, left);
    }
    return absl::OkStatus();
  }

  absl::Status ReadEntry() {
    MOED_ASSIGN_OR_RETURN(const std::string_view key, cursor_.String("a metadata key"));
    const std::string what = fmt::format("metadata {}", Quoted(key));
    MOED_ASSIGN_OR_RETURN(const uint32_t type, cursor_.Number<uint32_t>(what));
    GgufValue value;
    if (static_cast<ValueType>(type) == ValueType::kArray) {
      MOED_ASSIGN_OR_RETURN(value, ReadArray(what));
    } else {
      MOED_ASSIGN_OR_RETURN(const Scalar scalar, ReadScalar(what, type));
      value = std::visit([](const auto& one) { return GgufValue(one); }, scalar);
    }
    if (!header_.metadata.emplace(key, std::move(value)).second) {
      return InvalidArgument("{} is given twice", what);
    }
    return absl::OkStatus();
  }

  // What is not an array.
  using Scalar = std::variant<bool, int64_t, double, std::string_view>;

  template <typename T>
  absl::StatusOr<Scalar> NumberAs(std::string_view what) {
    MOED_ASSIGN_OR_RETURN(const T value, cursor_.Number<T>(what));
    if constexpr (std::is_floating_point_v<T>) {
      return Scalar(static_cast<double>(value));
    } else {
      if (std::is_same_v<T, uint64_t> && static_cast<int64_t>(value) < 0) {
        return InvalidArgument("{} is {}; it must be below 2^63", what, value);
      }
      return Scalar(static_cast<int64_t>(value));
    }
  }

  absl::StatusOr<Scalar> ReadScalar(std::string_view what, uint32_t type) {
    switch (static_cast<ValueType>(type)) {
      case ValueType::kU8:
        return NumberAs<uint8_t>(what);
      case ValueType::kI8:
        return NumberAs<int8_t>(what);
      case ValueType::kU16:
        return NumberAs<uint16_t>(what);
      case ValueType::kI16:
        return NumberAs<int16_t>(what);
      case ValueType::kU32:
        return NumberAs<uint32_t>(what);
      case ValueType::kI32:
        return NumberAs<int32_t>(what);
      case ValueType::kU64:
        return NumberAs<uint64_t>(what);
      case ValueType::kI64:
        return NumberAs<int64_t>(what);
      case ValueType::kF32:
        return NumberAs<float>(what);
      case ValueType::kF64:
        return NumberAs<double>(what);
      case ValueType::kBool: {
        MOED_ASSIGN_OR_RETURN(const uint8_t value, cursor_.Number<uint8_t>(what));
        if (value > 1) return InvalidArgument("{} is a boolean of the value {}; it must be 0 or 1", what, value);
        return Scalar(value == 1);
      }
      case ValueType::kString: {
        MOED_ASSIGN_OR_RETURN(const std::string_view text, cursor_.String(what));
        return Scalar(text);
      }
      case ValueType::kArray:
        return Unimplemented("{} is an array of arrays, which is not supported", what);
    }
    return InvalidArgument("{} is of type {}; the format defines 0 to 12", what, type);
  }

  absl::StatusOr<GgufValue> ReadArray(std::string_view what) {
    MOED_ASSIGN_OR_RETURN(const uint32_t type, cursor_.Number<uint32_t>(what));
    MOED_ASSIGN_OR_RETURN(const uint64_t count, cursor_.Number<uint64_t>(what));
    switch (static_cast<ValueType>(type)) {
      case ValueType::kString:
        return ReadElements<std::string_view>(what, type, count, sizeof(uint64_t));
      case ValueType::kF32:
        return ReadElements<double>(what, type, count, sizeof(float));
      case ValueType::kF64:
        return ReadElements<double>(what, type, count, sizeof(double));
      default:
        return ReadElements<int64_t>(what, type, count, sizeof(uint8_t));
    }
  }

  // `least`: the bytes that an element takes at least.
  template <typename T>
  absl::StatusOr<GgufValue> ReadElements(std::string_view what, uint32_t type, uint64_t count, uint64_t least) {
    if (count > cursor_.left() / least) {
      return InvalidArgument("{} announces {} elements, but only {} bytes follow (is the file truncated?)", what, count,
                             cursor_.left());
    }
    std::vector<T> elements;
    elements.reserve(count);
    for (uint64_t i = 0; i < count; ++i) {
      MOED_ASSIGN_OR_RETURN(const Scalar value, ReadScalar(what, type));
      if constexpr (std::is_same_v<T, int64_t>) {
        const bool* flag = std::get_if<bool>(&value);
        elements.push_back(flag != nullptr ? int64_t{*flag} : std::get<int64_t>(value));
      } else {
        elements.push_back(std::get<T>(value));
      }
    }
    return GgufValue(GgufArray{std::move(elements)});
  }

  absl::Status ReadTensor() {
    GgufTensor tensor;
    MOED_ASSIGN_OR_RETURN(tensor.name, cursor_.String("a tensor's name"));
    const std::string what = fmt::format("tensor {}", Quoted(tensor.name));
    if (!names_.insert(tensor.name).second) return InvalidArgument("{} is given twice", what);
    MOED_ASSIGN_OR_RETURN(const uint32_t rank, cursor_.Number<uint32_t>(what));
    if (rank < 1 || rank > kMaxDimensions) {
      return InvalidArgument("{} has {} dimensions; it must have 1 to {}", what, rank, kMaxDimensions);
    }
    std::vector<uint64_t> dims(rank);
    for (uint64_t& dim : dims) {
      MOED_ASSIGN_OR_RETURN(dim, cursor_.Number<uint64_t>(what));
    }
    MOED_ASSIGN_OR_RETURN(const uint32_t type, cursor_.Number<uint32_t>(what));
    MOED_ASSIGN_OR_RETURN(tensor.offset, cursor_.Number<uint64_t>(what));
    tensor.type = FindGgufType(type);
    if (tensor.type == nullptr) return Unimplemented("{} is of the type {}, which is not known", what, type);
    MOED_RETURN_IF_ERROR(Measure(what, dims, &tensor));
    header_.tensors.push_back(std::move(tensor));
    return absl::OkStatus();
  }

  // Fills shape and bytes from the dimensions, the innermost first.
  absl::Status Measure(std::string_view what, const std::vector<uint64_t>& dims, GgufTensor* tensor) {
    if (dims[0] % tensor->type->block_size != 0) {
      return InvalidArgument("{} has rows of {} elements; {} needs a multiple of {}", what, dims[0], tensor->type->name,
                             tensor->type->block_size);
    }
    uint64_t bytes = tensor->type->block_bytes;
    bool fits = true;
    for (size_t i = 0; i < dims.size(); ++i) {
      const uint64_t factor = i == 0 ? dims[0] / tensor->type->block_size : dims[i];
      if (factor == 0) return InvalidArgument("{} has a dimension of 0", what);
      fits = fits && !__builtin_mul_overflow(bytes, factor, &bytes);
    }
    if (!fits || bytes > file_.size()) {
      return InvalidArgument("{} of {} with the dimensions [{}] does not fit into a file of {} bytes", what,
                             tensor->type->name, fmt::join(dims, ", "), file_.size());
    }
    tensor->num_bytes = bytes;
    tensor->shape.assign(dims.rbegin(), dims.rend());
    return absl::OkStatus();
  }

  // The data begins behind the header, and tensors lie in it, aligned and apart.
  absl::Status PlaceTensors() {
    MOED_ASSIGN_OR_RETURN(const uint64_t alignment, Alignment());
    const uint64_t begin = (cursor_.position() + alignment - 1) / alignment * alignment;
    if (header_.tensors.empty()) return absl::OkStatus();
    const uint64_t data_bytes = begin < file_.size() ? file_.size() - begin : 0;
    for (const GgufTensor& tensor : header_.tensors) {
      if (tensor.offset % alignment != 0) {
        return InvalidArgument("tensor {} has the offset {}; it must be a multiple of the alignment {}",
                               Quoted(tensor.name), tensor.offset, alignment);
      }
      if (tensor.offset > data_bytes || tensor.num_bytes > data_bytes - tensor.offset) {
        return InvalidArgument(
            "tensor {} has {} bytes at the offset {}; the file has {} bytes of data (is it truncated?)",
            Quoted(tensor.name), tensor.num_bytes, tensor.offset, data_bytes);
      }
    }
    std::sort(header_.tensors.begin(), header_.tensors.end(),
              [](const GgufTensor& a, const GgufTensor& b) { return a.offset < b.offset; });
    for (size_t i = 1; i < header_.tensors.size(); ++i) {
      const GgufTensor &before = header_.tensors[i - 1], &tensor = header_.tensors[i];
      if (tensor.offset < before.offset + before.num_bytes) {
        return InvalidArgument("tensor {} begins at {}, inside tensor {}, which ends at {}; tensors must not overlap",
                               Quoted(tensor.name), tensor.offset, Quoted(before.name),
                               before.offset + before.num_bytes);
      }
    }
    for (GgufTensor& tensor : header_.tensors) tensor.offset += begin;
    return absl::OkStatus();
  }

  absl::StatusOr<uint64_t> Alignment() const {
    const auto it = header_.metadata.find("general.alignment");
    if (it == header_.metadata.end()) return kDefaultAlignment;
    const int64_t* value = std::get_if<int64_t>(&it->second);
    if (value == nullptr || *value < 8 || *value > kMaxAlignment || *value % 8 != 0) {
      return InvalidArgument("metadata \"general.alignment\" must be a multiple of 8 up to {}", kMaxAlignment);
    }
    return static_cast<uint64_t>(*value);
  }

  std::string_view file_;
  Cursor cursor_;
  uint64_t num_tensors_ = 0, num_entries_ = 0;
  std::unordered_set<std::string_view> names_;
  GgufHeader header_;
};

}  // namespace

absl::StatusOr<GgufHeader> ParseGgufHeader(std::string_view file) { return HeaderParser(file).Parse(); }

}  // namespace moed
