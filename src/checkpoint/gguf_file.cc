#include "checkpoint/gguf_file.h"

#include <bit>
#include <cstdlib>
#include <utility>

#include "checkpoint/message_text.h"

namespace moed {

static_assert(std::endian::native == std::endian::little, "tensors are used as they lie in the file, little-endian");

namespace {

constexpr int64_t kMaxShards = 99999;  // the names have five digits

// Rows of blocks of one type.
class BlockMatrix final : public QuantizedMatrix {
 public:
  BlockMatrix(const GgufType& type, const uint8_t* data, int64_t rows, int64_t columns)
      : type_(type), data_(data), rows_(rows), columns_(columns), scheme_(IntegersOf(type)) {}

  int64_t rows() const override { return rows_; }
  int64_t columns() const override { return columns_; }
  std::string ToString() const override { return std::string(type_.name); }

  void Dequantize(int64_t begin, int64_t end, float* out) const override {
    const uint8_t* block = data_ + begin * row_blocks() * type_.block_bytes;
    for (int64_t i = begin * row_blocks(); i < end * row_blocks(); ++i) {
      type_.dequantize(block, out);
      block += type_.block_bytes;
      out += type_.block_size;
    }
  }

  const IntegerScheme* integers() const override { return scheme_.has_value() ? &*scheme_ : nullptr; }
  void ReadIntegers(int64_t begin, int64_t end, int8_t* codes, float* scales, int16_t* zeros) const override {
    const uint8_t* block = data_ + begin * row_blocks() * type_.block_bytes;
    for (int64_t i = begin * row_blocks(); i < end * row_blocks(); ++i) {
      type_.read_integers(block, codes, scales++);
      *zeros++ = 0;
      block += type_.block_bytes;
      codes += type_.block_size;
    }
  }

 private:
  int64_t row_blocks() const { return columns_ / type_.block_size; }

  const GgufType& type_;
  const uint8_t* data_;
  int64_t rows_, columns_;
  std::optional<IntegerScheme> scheme_;
};

// NAME of NAME-00001-of-0000N.gguf; empty when `path` is not the name of shard 1 of `count`.
std::string ShardStem(const std::string& path, int64_t count) {
  const std::string ending = fmt::format("-00001-of-{:05}.gguf", count);
  return path.ends_with(ending) ? path.substr(0, path.size() - ending.size()) : "";
}

}  // namespace

std::optional<IntegerScheme> IntegersOf(const GgufType& type) {
  if (type.bits == 0) return std::nullopt;
  // Codes of five bits are kept in bytes.
  return IntegerScheme{.bits = type.bits == 5 ? 8 : type.bits, .group_size = type.block_size};
}

absl::StatusOr<std::unique_ptr<GgufFile>> GgufFile::Open(const std::string& path) {
  std::unique_ptr<GgufFile> file(new GgufFile(path));
  MOED_RETURN_IF_ERROR(file->AddShard(path));
  MOED_RETURN_IF_ERROR(file->AddOtherShards());
  return file;
}

absl::Status GgufFile::AddShard(const std::string& path) {
  MOED_ASSIGN_OR_RETURN(MappedFile mapped, MappedFile::Open(path));
  absl::StatusOr<GgufHeader> header = ParseGgufHeader(mapped.contents());
  if (!header.ok()) return Annotate(header.status(), path);
  shards_.push_back({std::move(mapped), *std::move(header)});
  return absl::OkStatus();
}

absl::Status GgufFile::AddOtherShards() {
  MOED_ASSIGN_OR_RETURN(const std::optional<int64_t> count, Int("split.count"));
  if (count.has_value() && *count > 1) {
    MOED_ASSIGN_OR_RETURN(const std::optional<int64_t> number, Int("split.no"));
    if (*count > kMaxShards)
      return InvalidArgument("{}: split.count is {}; at most {} are read", path_, *count, kMaxShards);
    const std::string stem = ShardStem(path_, *count);
    if (number.value_or(0) != 0 || stem.empty()) {
      return InvalidArgument("{}: is shard {} of {}; name the first, which ends in -00001-of-{:05}.gguf", path_,
                             number.value_or(0) + 1, *count, *count);
    }
    for (int64_t shard = 1; shard < *count; ++shard) {
      const std::string path = fmt::format("{}-{:05}-of-{:05}.gguf", stem, shard + 1, *count);
      MOED_RETURN_IF_ERROR(AddShard(path));
      const GgufMetadata& metadata = shards_.back().header.metadata;
      const auto says = [&](std::string_view key, int64_t expected) {
        const auto it = metadata.find(key);
        const int64_t* value = it == metadata.end() ? nullptr : std::get_if<int64_t>(&it->second);
        return value != nullptr && *value == expected;
      };
      if (!says("split.no", shard) || !says("split.count", *count)) {
        return InvalidArgument("{}: its split.no and split.count do not say that it is shard {} of {}", path, shard + 1,
                               *count);
      }
    }
  }
  for (size_t shard = 0; shard < shards_.size(); ++shard) {
    for (const GgufTensor& tensor : shards_[shard].header.tensors) {
      const Location location{&tensor, shard};
      if (!by_name_.emplace(tensor.name, location).second) {
        return InvalidArgument("{}: tensor {} is in two shards", shard_path(shard), Quoted(tensor.name));
      }
      tensors_.push_back(location);
    }
  }
  MOED_ASSIGN_OR_RETURN(const std::optional<int64_t> total, Int("split.tensors.count"));
  if (shards_.size() > 1 && total.has_value() && *total != std::ssize(tensors_)) {
    return InvalidArgument("{}: split.tensors.count is {}, but the shards hold {} tensors", path_, *total,
                           tensors_.size());
  }
  return absl::OkStatus();
}

namespace {
absl::Status WrongType(std::string_view path, std::string_view key, std::string_view expected) {
  return InvalidArgument("{}: metadata {} is of another type; it must be {}", path, Quoted(key), expected);
}
}  // namespace

absl::StatusOr<std::optional<int64_t>> GgufFile::Int(std::string_view key) const {
  const auto it = metadata().find(key);
  if (it == metadata().end()) return std::nullopt;
  const int64_t* value = std::get_if<int64_t>(&it->second);
  if (value == nullptr) return WrongType(path_, key, "an integer");
  return std::optional<int64_t>(*value);
}

absl::StatusOr<std::optional<double>> GgufFile::Float(std::string_view key) const {
  const auto it = metadata().find(key);
  if (it == metadata().end()) return std::nullopt;
  if (const int64_t* value = std::get_if<int64_t>(&it->second)) {
    return std::optional<double>(static_cast<double>(*value));
  }
  const double* value = std::get_if<double>(&it->second);
  if (value == nullptr) return WrongType(path_, key, "a number");
  return std::optional<double>(*value);
}

absl::StatusOr<std::optional<bool>> GgufFile::Bool(std::string_view key) const {
  const auto it = metadata().find(key);
  if (it == metadata().end()) return std::nullopt;
  const bool* value = std::get_if<bool>(&it->second);
  if (value == nullptr) return WrongType(path_, key, "a boolean");
  return std::optional<bool>(*value);
}

absl::StatusOr<std::optional<std::string_view>> GgufFile::String(std::string_view key) const {
  const auto it = metadata().find(key);
  if (it == metadata().end()) return std::nullopt;
  const std::string_view* value = std::get_if<std::string_view>(&it->second);
  if (value == nullptr) return WrongType(path_, key, "a string");
  return std::optional<std::string_view>(*value);
}

template <typename T>
absl::StatusOr<const std::vector<T>*> GgufFile::Array(std::string_view key, std::string_view expected) const {
  const auto it = metadata().find(key);
  if (it == metadata().end()) return nullptr;
  const GgufArray* array = std::get_if<GgufArray>(&it->second);
  const std::vector<T>* elements = array == nullptr ? nullptr : std::get_if<std::vector<T>>(&array->elements);
  if (elements == nullptr) return WrongType(path_, key, expected);
  return elements;
}

absl::StatusOr<const std::vector<std::string_view>*> GgufFile::Strings(std::string_view key) const {
  return Array<std::string_view>(key, "an array of strings");
}
absl::StatusOr<const std::vector<int64_t>*> GgufFile::Ints(std::string_view key) const {
  return Array<int64_t>(key, "an array of integers");
}
absl::StatusOr<const std::vector<double>*> GgufFile::Floats(std::string_view key) const {
  return Array<double>(key, "an array of floats");
}

const GgufFile::Location* GgufFile::Find(std::string_view name) const {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : &it->second;
}

absl::StatusOr<WeightMatrix> GgufFile::Matrix(const Location& location, int64_t index) const {
  const GgufTensor& tensor = *location.tensor;
  const std::vector<int64_t>& shape = tensor.shape;
  if (tensor.type->dequantize == nullptr) {
    return Unimplemented("{}: tensor {} is of the type {}, which is not supported", shard_path(location.shard),
                         Quoted(tensor.name), tensor.type->name);
  }
  const int64_t columns = shape.back();
  const int64_t rows = shape.size() > 1 ? shape[shape.size() - 2] : 1;
  const int64_t count = shape.size() > 2 ? shape[shape.size() - 3] : 1;
  if (shape.size() > 3 || index < 0 || index >= count) {
    return InvalidArgument("{}: tensor {} of the shape [{}] has no matrix {}", shard_path(location.shard),
                           Quoted(tensor.name), fmt::join(shape, ", "), index);
  }
  const char* data = shards_[location.shard].file.data() + Extent(location, index).first;
  if (tensor.type->dtype.has_value()) {  // alignment is at least 8 and a row's bytes are whole elements
    return WeightMatrix(TensorView(const_cast<char*>(data), {rows, columns}, *tensor.type->dtype));
  }
  return WeightMatrix(
      std::make_shared<BlockMatrix>(*tensor.type, reinterpret_cast<const uint8_t*>(data), rows, columns));
}

std::pair<uint64_t, uint64_t> GgufFile::Extent(const Location& location, std::optional<int64_t> index) const {
  const GgufTensor& tensor = *location.tensor;
  const uint64_t count = tensor.shape.size() > 2 ? tensor.shape[tensor.shape.size() - 3] : 1;
  const uint64_t bytes = index.has_value() ? tensor.num_bytes / count : tensor.num_bytes;
  return {tensor.offset + bytes * static_cast<uint64_t>(index.value_or(0)), bytes};
}

void GgufFile::WillNeed(const Location& location, std::optional<int64_t> index) const {
  const auto [offset, size] = Extent(location, index);
  shards_[location.shard].file.WillNeed(offset, size);
}

void GgufFile::Release(const Location& location, std::optional<int64_t> index) const {
  const auto [offset, size] = Extent(location, index);
  shards_[location.shard].file.DontNeed(offset, size);
}

}  // namespace moed
