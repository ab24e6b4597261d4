#include "model/quantize_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <tuple>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "base/logging.h"
#include "base/text.h"
#include "checkpoint/message_text.h"
#include "checkpoint/quantized_matrix.h"
#include "checkpoint/safetensors_writer.h"
#include "model/compressed_tensors.h"
#include "model/family.h"
#include "model/integer_matrix.h"

namespace moed {
namespace {

namespace fs = std::filesystem;
using compressed_tensors::Entry;
using kernels::WeightFormat;
using Specs = std::vector<SafetensorsWriter::Spec>;

// Rows that are converted at a time, in one thread.
constexpr int64_t kRowsAtOnce = 32;

// One step of the work: a tensor that is copied, or a matrix that is rewritten.
struct Item {
  std::string source;          // the tensor's name, or the matrix's
  std::optional<Entry> entry;  // nothing: copied
  Specs specs;                 // what it becomes
  size_t part = 0;             // of an entry of integers: its place in the report
};

uint64_t Bytes(const Specs& specs) {
  uint64_t bytes = 0;
  for (const auto& spec : specs) {
    uint64_t count = 1;
    for (const int64_t dim : spec.shape) count *= static_cast<uint64_t>(dim);
    bytes += count * DTypeSize(spec.dtype);
  }
  return bytes;
}

std::optional<DType> PlainType(const TensorInfo& info) {
  if (info.dtype_name == "F32") return DType::kF32;
  if (info.dtype_name == "F16") return DType::kF16;
  if (info.dtype_name == "BF16") return DType::kBF16;
  return std::nullopt;
}

absl::StatusOr<TensorView> GetPlain(Checkpoint& checkpoint, const std::string& name,
                                    const std::vector<int64_t>& shape) {
  switch (shape.size()) {
    case 0:
      return checkpoint.Get(name, {});
    case 1:
      return checkpoint.Get(name, {shape[0]});
    case 2:
      return checkpoint.Get(name, {shape[0], shape[1]});
    case 3:
      return checkpoint.Get(name, {shape[0], shape[1], shape[2]});
    default:
      return Unimplemented("tensor {} has {} dimensions; at most 3 can be copied", Quoted(name), shape.size());
  }
}

// ---- What there is to do ----

class Planner {
 public:
  Planner(const ModelConfig& config, const Checkpoint& checkpoint, const WeightPolicy& policy)
      : config_(config), checkpoint_(checkpoint), policy_(policy) {
    for (TensorInfo& info : checkpoint.List()) infos_.emplace(info.name, std::move(info));
  }

  absl::Status Plan() {
    for (const ModelMatrix& matrix : ListMatrices(config_)) {
      MOED_RETURN_IF_ERROR(AddMatrix(matrix, FormatOf(matrix, policy_)));
    }
    // Matrices that stay floats in any case and may be quantised now.
    const LatentAttentionConfig& latent = config_.attention.latent;
    for (int32_t layer = 0; config_.attention.is_latent() && layer < config_.num_layers(); ++layer) {
      const int64_t rows = int64_t{config_.attention.num_heads} * (latent.nope_head_dim + config_.attention.v_head_dim);
      const ModelMatrix kv_b{.name = fmt::format(fmt::runtime(config_.names.kv_b_proj), layer),
                             .layer = layer,
                             .rows = rows,
                             .columns = latent.kv_lora_rank};
      MOED_RETURN_IF_ERROR(AddMatrix(kv_b, policy_.dtype));
    }
    return AddOthers();
  }

  std::vector<Item> items;
  std::vector<Entry> entries;  // all matrices, for the configuration
  QuantizeReport report;
  uint64_t largest = 0;  // item's bytes

 private:
  absl::Status AddMatrix(const ModelMatrix& matrix, WeightFormat format) {
    entries.push_back({matrix, format});
    const auto it = infos_.find(matrix.name);
    const bool is_plain = it != infos_.end() && PlainType(it->second).has_value();
    if (is_plain && !format.is_integer()) return absl::OkStatus();  // copied with the others
    const bool has_place = !matrix.transposed && matrix.name.ends_with(".weight");
    if (!has_place) {
      return Unimplemented(
          "{}: {} holds experts in a layout that has no place for integers; --policy can name the other parts",
          checkpoint_.dir(), Quoted(matrix.name));
    }
    Item item{.source = matrix.name, .entry = entries.back(), .specs = {}};
    if (format.is_integer()) {
      item.specs = compressed_tensors::Specs(entries.back());
      item.part = PartOf(matrix, format);
    } else {
      item.specs = {{matrix.name, config_.checkpoint_dtype, {matrix.rows, matrix.columns}}};
      if (matrix.count > 0) item.specs[0].shape.insert(item.specs[0].shape.begin(), matrix.count);
    }
    uint64_t before = 0;
    for (const std::string& name : QuantizedTensorNames(matrix.name)) {
      if (const auto part = infos_.find(name); part != infos_.end()) before += part->second.num_bytes;
      handled_.insert(name);
    }
    if (format.is_integer()) {
      report.parts[item.part].bytes_before += before;
      report.parts[item.part].bytes_after += Bytes(item.specs);
    }
    Add(std::move(item));
    return absl::OkStatus();
  }

  size_t PartOf(const ModelMatrix& matrix, WeightFormat format) {
    const auto [it, is_new] = parts_.emplace(std::pair(matrix.layer, matrix.part), report.parts.size());
    if (is_new) report.parts.push_back({.layer = matrix.layer, .part = matrix.part, .format = format});
    return it->second;
  }

  absl::Status AddOthers() {
    std::vector<const TensorInfo*> others;
    int64_t left_out = 0;
    const bool was_quantised = checkpoint_.config().json().contains("quantization_config");
    for (const auto& [name, info] : infos_) {
      report.bytes_before += info.num_bytes;
      if (handled_.contains(name)) continue;
      if (PlainType(info).has_value()) {
        others.push_back(&info);
      } else if (was_quantised) {
        ++left_out;
      } else {
        return Unimplemented("{}: tensor {} is of type {}; F32, F16 and BF16 can be copied", checkpoint_.dir(),
                             Quoted(name), info.dtype_name);
      }
    }
    if (left_out > 0) {
      MOED_LOG_WARNING("{}: {} quantised tensors that the model does not use are left out", checkpoint_.dir(),
                       left_out);
    }
    std::sort(others.begin(), others.end(), [](const TensorInfo* a, const TensorInfo* b) {
      return std::tie(a->file, a->name) < std::tie(b->file, b->name);
    });
    for (const TensorInfo* info : others) {
      Add({.source = info->name, .entry = std::nullopt, .specs = {{info->name, *PlainType(*info), info->shape}}});
    }
    return absl::OkStatus();
  }

  void Add(Item item) {
    report.bytes_after += Bytes(item.specs);
    largest = std::max(largest, Bytes(item.specs));
    items.push_back(std::move(item));
  }

  const ModelConfig& config_;
  const Checkpoint& checkpoint_;
  const WeightPolicy& policy_;
  std::unordered_map<std::string, TensorInfo> infos_;
  std::unordered_set<std::string> handled_;
  std::map<std::pair<int32_t, WeightPart>, size_t> parts_;
};

// ---- One matrix ----

using SquareSums = IntegerMatrix::SquareSums;

class MatrixWriter {
 public:
  MatrixWriter(Checkpoint& checkpoint, InputStatisticsSource* statistics, ThreadPool* threads)
      : checkpoint_(checkpoint), statistics_(statistics), threads_(threads) {}

  // Writes the tensors of an item that is no copy; the differences are of integers.
  absl::Status Write(const Item& item, SafetensorsWriter* file, SquareSums* sums) {
    const Entry& entry = *item.entry;
    const ModelMatrix& matrix = entry.matrix;
    const int64_t count = std::max<int64_t>(matrix.count, 1), rows = count * matrix.rows;
    const bool integers = entry.format.is_integer();
    const int64_t words = integers ? compressed_tensors::RowWords(entry) : 0;
    const int64_t groups = integers ? compressed_tensors::RowScales(entry) : 0;
    const size_t float_size = DTypeSize(item.specs[0].dtype);
    std::vector<int32_t> packed(rows * words);
    std::vector<float> scales(rows * groups);
    std::vector<char> floats(integers ? 0 : rows * matrix.columns * float_size);
    for (int64_t index = 0; index < count; ++index) {
      MOED_ASSIGN_OR_RETURN(const WeightMatrix source,
                            matrix.count == 0
                                ? checkpoint_.GetMatrix(item.source, matrix.rows, matrix.columns)
                                : checkpoint_.GetStackedMatrix(item.source, index, count, matrix.rows, matrix.columns));
      const int64_t first = index * matrix.rows;
      const absl::Status status =
          integers ? Quantize(source, entry, index, packed.data() + first * words, scales.data() + first * groups, sums)
                   : ReadAs(source, item.specs[0].dtype, floats.data() + first * matrix.columns * float_size);
      if (!status.ok()) return Annotate(status, item.source);
    }
    checkpoint_.Release(item.source);
    if (!integers) return file->Write(item.specs[0].name, View(item.specs[0], floats.data()));
    std::vector<int64_t> shape;
    for (int64_t index = 0; index < count; ++index) {
      shape.push_back(matrix.rows);
      shape.push_back(matrix.columns);
    }
    void* const data[] = {packed.data(), scales.data(), shape.data()};
    for (size_t i = 0; i < item.specs.size(); ++i) {
      MOED_RETURN_IF_ERROR(file->Write(item.specs[i].name, View(item.specs[i], data[i])));
    }
    return absl::OkStatus();
  }

  static TensorView View(const SafetensorsWriter::Spec& spec, void* data) {
    TensorView view(data, {}, spec.dtype);
    view.rank = static_cast<int>(spec.shape.size());
    int64_t stride = 1;
    for (int i = view.rank - 1; i >= 0; --i) {
      view.shape[i] = spec.shape[i];
      view.strides[i] = stride;
      stride *= spec.shape[i];
    }
    return view;
  }

 private:
  // body(begin, end) over the rows; the first error ends up here.
  template <typename Body>
  absl::Status ForRows(int64_t rows, const Body& body) {
    std::mutex mutex;
    absl::Status first_error;
    const int64_t chunks = (rows + kRowsAtOnce - 1) / kRowsAtOnce;
    threads_->ParallelFor(chunks, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t chunk = begin; chunk < end; ++chunk) {
        const absl::Status status = body(chunk * kRowsAtOnce, std::min(rows, (chunk + 1) * kRowsAtOnce));
        if (status.ok()) continue;
        const std::lock_guard lock(mutex);
        if (first_error.ok()) first_error = status;
      }
    });
    return first_error;
  }

  absl::Status Quantize(const WeightMatrix& source, const Entry& entry, int64_t index, int32_t* packed, float* scales,
                        SquareSums* sums) {
    kernels::InputStatistics inputs;
    if (statistics_ != nullptr) {
      MOED_ASSIGN_OR_RETURN(inputs, statistics_->Of(entry.matrix, index));
    }
    MOED_ASSIGN_OR_RETURN(const auto integers, IntegerMatrix::Make(source, entry.format, inputs, threads_));
    const int64_t words = compressed_tensors::RowWords(entry), groups = compressed_tensors::RowScales(entry);
    const int bits = integers->integers()->bits;
    for (int64_t row = 0; row < source.rows(); ++row) {
      compressed_tensors::PackWords(integers->codes(row), source.columns(), bits, packed + row * words);
      std::copy_n(integers->scales(row), groups, scales + row * groups);
    }
    sums->difference += integers->sums().difference;
    sums->value += integers->sums().value;
    return absl::OkStatus();
  }

  absl::Status ReadAs(const WeightMatrix& source, DType dtype, char* out) {
    return ForRows(source.rows(), [&](int64_t begin, int64_t end) -> absl::Status {
      const int64_t count = (end - begin) * source.columns();
      std::vector<float> values(count);
      source.Read(begin, end, values.data());
      char* const to = out + begin * source.columns() * static_cast<int64_t>(DTypeSize(dtype));
      for (int64_t i = 0; i < count; ++i) {
        if (dtype == DType::kF32) reinterpret_cast<float*>(to)[i] = values[i];
        if (dtype == DType::kF16) reinterpret_cast<Half*>(to)[i] = ToHalf(values[i]);
        if (dtype == DType::kBF16) reinterpret_cast<BFloat16*>(to)[i] = ToBFloat16(values[i]);
      }
      return absl::OkStatus();
    });
  }

  Checkpoint& checkpoint_;
  InputStatisticsSource* statistics_;  // or null
  ThreadPool* threads_;
};

// ---- The folder ----

absl::Status FileError(std::string_view what, const std::string& path, const std::error_code& error) {
  return absl::ErrnoToStatus(error.value(), fmt::format("{}: cannot {}", path, what));
}

// A folder that is removed unless Keep gives it its name.
class PartialFolder {
 public:
  static absl::StatusOr<std::unique_ptr<PartialFolder>> Create(const std::string& out, uint64_t bytes) {
    std::string name = fs::path(out).lexically_normal().string();
    while (name.size() > 1 && name.back() == '/') name.pop_back();
    std::unique_ptr<PartialFolder> folder(new PartialFolder(name));
    std::error_code error;
    const fs::path parent = fs::absolute(name, error).parent_path();
    if (fs::exists(fs::symlink_status(name, error)))
      return absl::AlreadyExistsError(fmt::format("{}: is there already", name));
    if (fs::exists(fs::symlink_status(folder->path(), error))) {
      return absl::AlreadyExistsError(fmt::format(
          "{}: is there already, left by a run that was killed or in use by another; remove it", folder->path()));
    }
    if (!fs::is_directory(parent, error)) return NotFound("{}: there is no folder {}", name, parent.string());
    if (const fs::space_info space = fs::space(parent, error); !error && space.available < bytes) {
      return absl::ResourceExhaustedError(fmt::format("{}: {} are needed, and the disk has {} left", name,
                                                      HumanBytes(bytes), HumanBytes(space.available)));
    }
    if (!fs::create_directory(folder->path(), error)) return FileError("create the folder", folder->path(), error);
    folder->exists_ = true;
    return folder;
  }
  ~PartialFolder() {
    std::error_code ignored;
    if (exists_) fs::remove_all(path(), ignored);
  }

  std::string path() const { return name_ + ".partial"; }
  std::string File(std::string_view name) const { return fmt::format("{}/{}", path(), name); }

  absl::Status Keep() {
    std::error_code error;
    fs::rename(path(), name_, error);
    if (error) return FileError(fmt::format("rename to {}", name_), path(), error);
    exists_ = false;
    return absl::OkStatus();
  }

 private:
  explicit PartialFolder(std::string name) : name_(std::move(name)) {}

  std::string name_;
  bool exists_ = false;
};

absl::Status WriteJson(const std::string& path, const nlohmann::json& json) {
  std::ofstream file(path, std::ios::binary);
  file << json.dump(2, ' ', /*ensure_ascii=*/false, nlohmann::json::error_handler_t::replace) << '\n';
  file.close();
  if (!file) return absl::ErrnoToStatus(errno, fmt::format("{}: cannot write", path));
  return absl::OkStatus();
}

// All files but weights, their index and the configuration, which are written anew.
absl::Status CopyOtherFiles(const std::string& from, const PartialFolder& to) {
  constexpr std::string_view kWeights[] = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx"};
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(from, error)) {
    const std::string name = entry.path().filename().string(), extension = entry.path().extension().string();
    const bool is_weights = std::find(std::begin(kWeights), std::end(kWeights), extension) != std::end(kWeights);
    if (is_weights || name == "config.json" || name == kPolicyFile || name.ends_with(".index.json") ||
        name.starts_with("."))
      continue;
    if (!entry.is_regular_file(error)) continue;
    fs::copy_file(entry.path(), to.File(name), error);
    if (error) return FileError("copy", entry.path().string(), error);
  }
  if (error) return FileError("read", from, error);
  return absl::OkStatus();
}

// The items cut into files.
std::vector<std::span<const Item>> CutIntoFiles(const std::vector<Item>& items, uint64_t max_bytes) {
  std::vector<std::span<const Item>> files;
  for (size_t begin = 0, end = 0; begin < items.size(); begin = end) {
    uint64_t bytes = 0;
    while (end < items.size() && (end == begin || bytes + Bytes(items[end].specs) <= max_bytes)) {
      bytes += Bytes(items[end++].specs);
    }
    files.push_back(std::span(items).subspan(begin, end - begin));
  }
  return files;
}

class ModelQuantizer {
 public:
  ModelQuantizer(Checkpoint& checkpoint, const QuantizeOptions& options, ThreadPool* threads)
      : checkpoint_(checkpoint), options_(options), writer_(checkpoint, options.statistics, threads) {}

  absl::StatusOr<QuantizeReport> Run(const std::string& out) {
    MOED_ASSIGN_OR_RETURN(const ModelConfig config, ReadModelConfig(checkpoint_));
    const DType dtype = config.checkpoint_dtype == DType::kBF16 ? DType::kBF16 : DType::kF32;
    const WeightPolicy policy{.dtype = dtype, .rules = options_.rules};
    Planner plan(config, checkpoint_, policy);
    MOED_RETURN_IF_ERROR(plan.Plan());
    if (plan.report.parts.empty()) return InvalidArgument("no rule makes a weight of this model an integer");
    MOED_ASSIGN_OR_RETURN(const auto folder, PartialFolder::Create(out, plan.report.bytes_after));
    sums_.resize(plan.report.parts.size());
    total_bytes_ = plan.report.bytes_after;
    MOED_RETURN_IF_ERROR(WriteFiles(plan.items, *folder));
    MOED_RETURN_IF_ERROR(CopyOtherFiles(checkpoint_.dir(), *folder));
    nlohmann::json json = checkpoint_.config().json();
    json["quantization_config"] = compressed_tensors::Config(config, plan.entries);
    MOED_RETURN_IF_ERROR(WriteJson(folder->File("config.json"), json));
    MOED_RETURN_IF_ERROR(WriteWeightRules(options_.rules, folder->File(kPolicyFile)));
    MOED_RETURN_IF_ERROR(folder->Keep());
    for (size_t i = 0; i < sums_.size(); ++i) {
      plan.report.parts[i].relative_error = sums_[i].value > 0 ? std::sqrt(sums_[i].difference / sums_[i].value) : 0;
    }
    std::stable_sort(plan.report.parts.begin(), plan.report.parts.end(),
                     [](const auto& a, const auto& b) { return a.layer < b.layer; });
    return std::move(plan.report);
  }

 private:
  absl::Status WriteFiles(const std::vector<Item>& items, const PartialFolder& folder) {
    const auto files = CutIntoFiles(items, options_.max_file_bytes);
    nlohmann::json weight_map = nlohmann::json::object();
    for (size_t i = 0; i < files.size(); ++i) {
      const std::string name = files.size() == 1 ? "model.safetensors"
                                                 : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, files.size());
      Specs specs;
      for (const Item& item : files[i]) specs.insert(specs.end(), item.specs.begin(), item.specs.end());
      for (const auto& spec : specs) weight_map[spec.name] = name;
      MOED_ASSIGN_OR_RETURN(const auto file,
                            SafetensorsWriter::Create(folder.File(name), std::move(specs), {{"format", "pt"}}));
      for (const Item& item : files[i]) MOED_RETURN_IF_ERROR(WriteItem(item, file.get()));
      MOED_RETURN_IF_ERROR(file->Finish());
    }
    if (files.size() == 1) return absl::OkStatus();
    return WriteJson(folder.File("model.safetensors.index.json"),
                     {{"metadata", {{"total_size", total_bytes_}}}, {"weight_map", std::move(weight_map)}});
  }

  absl::Status WriteItem(const Item& item, SafetensorsWriter* file) {
    if (options_.cancelled && options_.cancelled()) return absl::CancelledError("stopped");
    if (options_.progress) {
      options_.progress(static_cast<double>(done_bytes_) / static_cast<double>(total_bytes_), item.source);
    }
    done_bytes_ += Bytes(item.specs);
    if (item.entry.has_value()) {
      SquareSums none;
      return writer_.Write(item, file, item.entry->format.is_integer() ? &sums_[item.part] : &none);
    }
    MOED_ASSIGN_OR_RETURN(const TensorView tensor, GetPlain(checkpoint_, item.source, item.specs[0].shape));
    MOED_RETURN_IF_ERROR(file->Write(item.source, tensor));
    checkpoint_.Release(item.source);
    return absl::OkStatus();
  }

  Checkpoint& checkpoint_;
  const QuantizeOptions& options_;
  MatrixWriter writer_;
  std::vector<SquareSums> sums_;  // by the report's parts
  uint64_t done_bytes_ = 0, total_bytes_ = 1;
};

}  // namespace

absl::StatusOr<QuantizeReport> QuantizeModel(Checkpoint& checkpoint, const std::string& out,
                                             const QuantizeOptions& options, ThreadPool* threads) {
  const std::vector<TensorInfo> tensors = checkpoint.List();
  const bool is_safetensors = std::all_of(tensors.begin(), tensors.end(),
                                          [](const TensorInfo& info) { return info.file.ends_with(".safetensors"); });
  if (tensors.empty() || !is_safetensors) {
    return Unimplemented("{}: only a folder of safetensors can be quantised", checkpoint.dir());
  }
  return ModelQuantizer(checkpoint, options, threads).Run(out);
}

}  // namespace moed
