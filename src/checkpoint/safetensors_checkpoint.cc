#include "checkpoint/safetensors_checkpoint.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "base/logging.h"
#include "checkpoint/message_text.h"

namespace moed {
namespace {

constexpr std::string_view kSingleFile = "model.safetensors";
constexpr std::string_view kIndexFile = "model.safetensors.index.json";
// A hundred thousand tensors with long names need about 16 MB.
constexpr size_t kMaxIndexBytes = size_t{64} << 20;

std::string FileName(const SafetensorsFile& file) { return file.path().substr(file.path().rfind('/') + 1); }

bool Exists(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

// Tensor name to shard, from the index.
absl::StatusOr<std::unordered_map<std::string, std::string>> ReadWeightMap(const std::string& index_path) {
  MOED_ASSIGN_OR_RETURN(const JsonFile index, JsonFile::Read(index_path, kMaxIndexBytes));
  const auto map = index.json().find("weight_map");
  if (map == index.json().end() || !map->is_object()) {
    return InvalidArgument("{}: weight_map is missing or not an object of tensor names and shards", index_path);
  }
  std::unordered_map<std::string, std::string> weight_map;
  weight_map.reserve(map->size());
  for (const auto& [name, shard] : map->items()) {
    if (!shard.is_string()) {
      return InvalidArgument("{}: weight_map {} is of type {}; it must be the name of a shard", index_path,
                             Quoted(name), shard.type_name());
    }
    const std::string& file = shard.get_ref<const std::string&>();
    // An index must not reach outside of its folder.
    if (file.empty() || file == "." || file == ".." || file.find('/') != std::string::npos ||
        file.find('\0') != std::string::npos) {
      return InvalidArgument("{}: weight_map {} is {}; it must be the name of a file beside the index", index_path,
                             Quoted(name), Quoted(file));
    }
    weight_map.emplace(name, file);
  }
  if (weight_map.empty()) return InvalidArgument("{}: weight_map is empty", index_path);
  return weight_map;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Checkpoint>> SafetensorsCheckpoint::Open(const std::string& dir, JsonFile config,
                                                                        JsonFile generation_config) {
  std::unique_ptr<SafetensorsCheckpoint> checkpoint(
      new SafetensorsCheckpoint(dir, std::move(config), std::move(generation_config)));
  MOED_RETURN_IF_ERROR(checkpoint->CheckQuantization());
  const std::string single = fmt::format("{}/{}", dir, kSingleFile);
  const std::string index = fmt::format("{}/{}", dir, kIndexFile);
  if (Exists(single)) {
    MOED_RETURN_IF_ERROR(checkpoint->AddSingleFile(single));
  } else if (Exists(index)) {
    MOED_RETURN_IF_ERROR(checkpoint->AddShards(index));
  } else {
    return NotFound("{}: there is neither {} nor {}{}; --load-format dummy runs without weights", dir, kSingleFile,
                    kIndexFile, OtherWeights(dir));
  }
  return checkpoint;
}

absl::Status SafetensorsCheckpoint::CheckQuantization() {
  MOED_ASSIGN_OR_RETURN(quantization_, ReadQuantizationConfig(config()));
  if (quantization_.has_value() && quantization_->static_activations) {
    MOED_LOG_WARNING(
        "{}: {}: the checkpoint was made for activations quantised in a way that is not done here; they "
        "stay floats",
        dir(), quantization_->ToString());
  }
  return absl::OkStatus();
}

absl::Status SafetensorsCheckpoint::AddSingleFile(const std::string& path) {
  MOED_ASSIGN_OR_RETURN(auto file, SafetensorsFile::Open(path));
  for (const SafetensorsEntry& entry : file->entries()) AddTensor(file.get(), &entry);
  files_.push_back(std::move(file));
  return absl::OkStatus();
}

absl::Status SafetensorsCheckpoint::AddShards(const std::string& index_path) {
  MOED_ASSIGN_OR_RETURN(const auto weight_map, ReadWeightMap(index_path));
  std::set<std::string> shards;
  for (const auto& [name, shard] : weight_map) shards.insert(shard);
  for (const std::string& shard : shards) {
    if (!Exists(fmt::format("{}/{}", dir(), shard))) {
      return NotFound("{}: names the shard {}, which is not there", index_path, Quoted(shard));
    }
  }
  for (const std::string& shard : shards) MOED_RETURN_IF_ERROR(AddShard(shard, weight_map));
  for (const auto& [name, shard] : weight_map) {
    if (!Has(name)) {
      return InvalidArgument("{}: puts tensor {} into {}, which does not hold it", index_path, Quoted(name),
                             Quoted(shard));
    }
  }
  return absl::OkStatus();
}

absl::Status SafetensorsCheckpoint::AddShard(const std::string& shard,
                                             const std::unordered_map<std::string, std::string>& weight_map) {
  MOED_ASSIGN_OR_RETURN(auto file, SafetensorsFile::Open(fmt::format("{}/{}", dir(), shard)));
  for (const SafetensorsEntry& entry : file->entries()) {
    const auto listed = weight_map.find(entry.name);
    if (listed == weight_map.end()) {
      MOED_LOG_WARNING("{}: tensor {} is not in {} and is left out", file->path(), Quoted(entry.name), kIndexFile);
      continue;
    }
    if (listed->second != shard) {
      return InvalidArgument("{}: holds tensor {}, which {} puts into {}", file->path(), Quoted(entry.name), kIndexFile,
                             Quoted(listed->second));
    }
    AddTensor(file.get(), &entry);
  }
  files_.push_back(std::move(file));
  return absl::OkStatus();
}

void SafetensorsCheckpoint::AddTensor(SafetensorsFile* file, const SafetensorsEntry* entry) {
  tensors_.emplace(entry->name, Location{file, entry});
  total_bytes_ += entry->num_bytes;
}

absl::StatusOr<SafetensorsCheckpoint::Location> SafetensorsCheckpoint::Find(
    std::string_view name, std::initializer_list<int64_t> shape) const {
  const auto it = tensors_.find(name);
  if (it == tensors_.end()) {
    return NotFound("{}: there is no tensor {}; the configuration asks for one of shape [{}]", dir(), Quoted(name),
                    fmt::join(shape, ", "));
  }
  const auto& [file, entry] = it->second;
  if (!std::equal(shape.begin(), shape.end(), entry->shape.begin(), entry->shape.end())) {
    return InvalidArgument("{}: tensor {} has the shape [{}]; the configuration asks for [{}]", file->path(),
                           Quoted(name), fmt::join(entry->shape, ", "), fmt::join(shape, ", "));
  }
  const bool is_float = entry->dtype == DType::kF32 || entry->dtype == DType::kF16 || entry->dtype == DType::kBF16;
  if (!is_float) {
    return Unimplemented("{}: tensor {} is of type {}; weights must be F32, F16 or BF16", file->path(), Quoted(name),
                         entry->dtype_name);
  }
  return it->second;
}

absl::StatusOr<TensorView> SafetensorsCheckpoint::Get(std::string_view name, std::initializer_list<int64_t> shape) {
  MOED_ASSIGN_OR_RETURN(const Location location, Find(name, shape));
  {
    const std::lock_guard lock(mutex_);
    used_.insert(location.entry->name);
  }
  return location.file->Get(name);
}

// Looks at tensors without reading them ahead or counting them as used.
class SafetensorsCheckpoint::Peek final : public TensorSource {
 public:
  explicit Peek(const SafetensorsCheckpoint& checkpoint) : checkpoint_(checkpoint) {}
  bool Has(std::string_view name) const override { return checkpoint_.Has(name); }
  absl::StatusOr<TensorView> GetRaw(std::string_view name) override {
    const auto it = checkpoint_.tensors_.find(name);
    if (it == checkpoint_.tensors_.end()) return NotFound("there is no tensor {}", Quoted(name));
    return it->second.file->GetRaw(name, /*read_ahead=*/false);
  }

 private:
  const SafetensorsCheckpoint& checkpoint_;
};

// What the maker left as it was is plain, and so is all where nothing was quantised.
bool SafetensorsCheckpoint::IsPlain(std::string_view name) const {
  if (!quantization_.has_value()) return true;
  const auto it = tensors_.find(name);
  return it != tensors_.end() && it->second.entry->dtype.has_value() && *it->second.entry->dtype != DType::kI8;
}

// Also those parts of a weight that say nothing new are used.
void SafetensorsCheckpoint::MarkParts(std::string_view name) {
  const std::lock_guard lock(mutex_);
  for (const std::string& part : QuantizedTensorNames(name)) {
    if (const auto used = tensors_.find(part); used != tensors_.end()) used_.insert(used->first);
  }
}

absl::StatusOr<WeightMatrix> SafetensorsCheckpoint::GetMatrix(std::string_view name, int64_t rows, int64_t columns) {
  if (IsPlain(name)) return Checkpoint::GetMatrix(name, rows, columns);
  auto matrix = OpenQuantizedMatrix(*quantization_, *this, name, rows, columns);
  if (!matrix.ok()) return Annotate(matrix.status(), dir());
  MarkParts(name);
  return matrix;
}

absl::StatusOr<WeightMatrix> SafetensorsCheckpoint::GetStackedMatrix(std::string_view name, int64_t index,
                                                                     int64_t count, int64_t rows, int64_t columns) {
  if (IsPlain(name)) return Checkpoint::GetStackedMatrix(name, index, count, rows, columns);
  auto matrix = OpenQuantizedStack(*quantization_, *this, name, index, count, rows, columns);
  if (!matrix.ok()) return Annotate(matrix.status(), dir());
  MarkParts(name);
  return matrix;
}

absl::StatusOr<std::optional<IntegerScheme>> SafetensorsCheckpoint::Describe(std::string_view name, int64_t count,
                                                                             int64_t rows, int64_t columns) {
  if (IsPlain(name)) {
    MOED_RETURN_IF_ERROR((count == 0 ? Find(name, {rows, columns}) : Find(name, {count, rows, columns})).status());
    return std::nullopt;
  }
  Peek peek(*this);
  const auto matrix = count == 0 ? OpenQuantizedMatrix(*quantization_, peek, name, rows, columns)
                                 : OpenQuantizedStack(*quantization_, peek, name, 0, count, rows, columns);
  if (!matrix.ok()) return Annotate(matrix.status(), dir());
  std::optional<IntegerScheme> scheme;
  if (matrix->integers() != nullptr && matrix->integers()->group_of_input.empty()) scheme = *matrix->integers();
  Release(name);
  return scheme;
}

absl::StatusOr<TensorView> SafetensorsCheckpoint::GetRaw(std::string_view name) {
  const auto it = tensors_.find(name);
  if (it == tensors_.end()) return NotFound("there is no tensor {}", Quoted(name));
  {
    const std::lock_guard lock(mutex_);
    used_.insert(it->first);
  }
  return it->second.file->GetRaw(name, /*read_ahead=*/true);
}

void SafetensorsCheckpoint::WillNeedLayer(int32_t /*layer*/, std::string_view prefix) {
  for (const auto& file : files_) file->WillNeed(prefix);
}

void SafetensorsCheckpoint::Release(std::string_view name) {
  const auto release = [this](std::string_view one) {
    const auto it = tensors_.find(one);
    if (it != tensors_.end()) it->second.file->Release(one);
  };
  release(name);
  if (!quantization_.has_value()) return;
  for (const std::string& part : QuantizedTensorNames(name)) release(part);
}

std::vector<TensorInfo> SafetensorsCheckpoint::List() const {
  std::vector<TensorInfo> list;
  list.reserve(tensors_.size());
  for (const auto& [name, location] : tensors_) {
    const auto& [file, entry] = location;
    list.push_back({entry->name, entry->dtype_name, entry->shape, entry->num_bytes, FileName(*file)});
  }
  return list;
}

std::vector<std::string> SafetensorsCheckpoint::UnusedTensors() const {
  std::vector<std::string> unused;
  const std::lock_guard lock(mutex_);
  for (const auto& [name, location] : tensors_) {
    if (!used_.contains(name)) unused.emplace_back(name);
  }
  std::sort(unused.begin(), unused.end());
  return unused;
}

}  // namespace moed
