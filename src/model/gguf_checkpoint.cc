#include "model/gguf_checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "checkpoint/message_text.h"

namespace moed {
namespace {

using families::GgufArchitecture;
using families::GgufName;
using nlohmann::json;

std::string FileName(std::string_view path) { return std::string(path.substr(path.rfind('/') + 1)); }
std::string Folder(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash);
}

// A metadata value as config.json would have it: an array of equal numbers, one a layer, counts as the number.
absl::StatusOr<json> ToJson(const GgufFile& file, const std::string& key, const GgufValue& value) {
  if (const auto* flag = std::get_if<bool>(&value)) return json(*flag);
  if (const auto* integer = std::get_if<int64_t>(&value)) return json(*integer);
  if (const auto* number = std::get_if<double>(&value)) return json(*number);
  if (const auto* text = std::get_if<std::string_view>(&value)) return json(std::string(*text));
  const auto* list = std::get_if<std::vector<int64_t>>(&std::get<GgufArray>(value).elements);
  if (list != nullptr && !list->empty() && std::count(list->begin(), list->end(), list->front()) == std::ssize(*list)) {
    return json(list->front());
  }
  return Unimplemented("{}: metadata {} differs from layer to layer, which is not supported", file.path(), Quoted(key));
}

absl::Status AddKeys(const GgufFile& file, std::string_view architecture, std::span<const GgufName> names,
                     json* config) {
  for (const auto& [hub, gguf] : names) {
    const std::string key = fmt::format("{}.{}", architecture, gguf);
    const auto it = file.metadata().find(key);
    if (it == file.metadata().end()) continue;
    MOED_ASSIGN_OR_RETURN((*config)[hub], ToJson(file, key, it->second));
  }
  return absl::OkStatus();
}

// "NAME.rope.scaling.*" as rope_scaling.
absl::Status AddRopeScaling(const GgufFile& file, std::string_view architecture, json* config) {
  const auto key = [&](std::string_view rest) { return fmt::format("{}.rope.scaling.{}", architecture, rest); };
  if (file.Find("rope_freqs.weight") != nullptr || file.Find("rope_factors_long.weight") != nullptr) {
    return Unimplemented(
        "{}: RoPE with a factor for each frequency (tensor rope_freqs.weight or rope_factors_long.weight) "
        "is not supported",
        file.path());
  }
  MOED_ASSIGN_OR_RETURN(const auto type, file.String(key("type")));
  if (!type.has_value() || *type == "none") return absl::OkStatus();
  json scaling = {{"rope_type", std::string(*type)}};
  constexpr GgufName kKeys[] = {{"factor", "factor"},
                                {"original_max_position_embeddings", "original_context_length"},
                                {"beta_fast", "yarn_beta_fast"},
                                {"beta_slow", "yarn_beta_slow"},
                                {"attention_factor", "attn_factor"}};
  MOED_RETURN_IF_ERROR(AddKeys(file, fmt::format("{}.rope.scaling", architecture), kKeys, &scaling));
  (*config)["rope_scaling"] = std::move(scaling);
  return absl::OkStatus();
}

// The tokens that end a text or a turn.
absl::Status AddEndTokens(const GgufFile& file, json* config) {
  json ids = json::array();
  for (const std::string_view key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"}) {
    MOED_ASSIGN_OR_RETURN(const std::optional<int64_t> id, file.Int(key));
    if (id.has_value() && std::find(ids.begin(), ids.end(), *id) == ids.end()) ids.push_back(*id);
  }
  if (!ids.empty()) (*config)["eos_token_id"] = std::move(ids);
  return absl::OkStatus();
}

// The type that the weights compute in best: that of the plain matrices, bf16 where they are quantised.
std::string WeightType(const GgufFile& file) {
  const GgufFile::Location* embedding = file.Find("token_embd.weight");
  const GgufFile::Location* other = file.Find("blk.0.attn_output.weight");
  for (const GgufFile::Location* one : {other, embedding}) {
    if (one == nullptr) continue;
    if (one->tensor->type->dtype == DType::kF32) return "float32";
    if (one->tensor->type->dtype == DType::kF16) return "float16";
    return "bfloat16";
  }
  return "bfloat16";
}

absl::StatusOr<JsonFile> MakeConfig(const GgufFile& file, const GgufArchitecture& architecture) {
  json config = {{"architectures", {std::string(architecture.architecture)}}};
  MOED_RETURN_IF_ERROR(AddKeys(file, architecture.name, families::CommonGgufKeys(), &config));
  MOED_RETURN_IF_ERROR(AddKeys(file, architecture.name, architecture.keys, &config));
  MOED_RETURN_IF_ERROR(AddRopeScaling(file, architecture.name, &config));
  MOED_RETURN_IF_ERROR(AddEndTokens(file, &config));
  const GgufFile::Location* embedding = file.Find("token_embd.weight");
  if (embedding == nullptr) return InvalidArgument("{}: there is no tensor \"token_embd.weight\"", file.path());
  config["vocab_size"] = embedding->tensor->shape.front();
  config["tie_word_embeddings"] = file.Find("output.weight") == nullptr;
  config["torch_dtype"] = WeightType(file);
  if (architecture.finish != nullptr) MOED_RETURN_IF_ERROR(architecture.finish(file, &config));
  return JsonFile::Parse(FileName(file.path()),
                         config.dump(-1, ' ', /*ensure_ascii=*/false, json::error_handler_t::replace));
}

// "model.layers.3.mlp.experts.7.up_proj.weight" as "model.layers.{0}.mlp.experts.{1}.up_proj.weight" and 3, 7.
std::string ToPattern(std::string_view name, std::vector<int64_t>* numbers) {
  std::string pattern;
  while (!name.empty()) {
    const std::string_view part = name.substr(0, name.find('.'));
    const bool is_number = !part.empty() && part.size() <= 9 &&
                           std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
    if (!pattern.empty()) pattern += '.';
    if (is_number) {
      pattern += fmt::format("{{{}}}", numbers->size());
      numbers->push_back(std::stoll(std::string(part)));
    } else {
      pattern += part;
    }
    name.remove_prefix(std::min(name.size(), part.size() + 1));
  }
  return pattern;
}

// Row i of a matrix as Hugging Face has it, of one whose heads' rows are interleaved.
std::vector<int32_t> DeinterleavedRows(int64_t rows, int64_t head_dim) {
  std::vector<int32_t> order(rows);
  const int64_t half = head_dim / 2;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t head = row / head_dim, within = row % head_dim;
    order[row] = static_cast<int32_t>(head * head_dim + within % half * 2 + within / half);
  }
  return order;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Checkpoint>> GgufCheckpoint::Open(const std::string& path) {
  MOED_ASSIGN_OR_RETURN(std::unique_ptr<GgufFile> file, GgufFile::Open(path));
  MOED_ASSIGN_OR_RETURN(const GgufArchitecture* architecture, families::FindGgufArchitecture(*file));
  MOED_ASSIGN_OR_RETURN(JsonFile config, MakeConfig(*file, *architecture));
  return std::unique_ptr<Checkpoint>(new GgufCheckpoint(std::move(file), *architecture, std::move(config)));
}

GgufCheckpoint::GgufCheckpoint(std::unique_ptr<GgufFile> file, const GgufArchitecture& architecture, JsonFile config)
    : Checkpoint(Folder(file->path()), std::move(config), JsonFile("generation_config.json")),
      file_(std::move(file)),
      architecture_(architecture) {
  for (const auto& [hub, gguf] : architecture.tensors) patterns_.emplace(hub, gguf);
  for (const auto& [hub, gguf] : families::CommonGgufTensors()) patterns_.emplace(hub, gguf);
  for (const GgufFile::Location& location : file_->tensors()) total_bytes_ += location.tensor->num_bytes;
  const json& values = this->config().json();
  const int64_t heads = values.value("num_attention_heads", int64_t{1});
  head_dim_ = values.value("head_dim", values.value("hidden_size", int64_t{0}) / std::max<int64_t>(heads, 1));
}

std::optional<GgufCheckpoint::Resolved> GgufCheckpoint::Resolve(std::string_view name) const {
  std::vector<int64_t> numbers;
  const std::string pattern = ToPattern(name, &numbers);
  const auto it = patterns_.find(pattern);
  if (it == patterns_.end()) return std::nullopt;
  std::string own(it->second);
  if (!numbers.empty()) own = fmt::format(fmt::runtime(it->second), numbers[0]);
  Resolved resolved{.location = file_->Find(own)};
  if (resolved.location == nullptr) return std::nullopt;
  if (numbers.size() > 1) resolved.expert = numbers[1];
  const bool is_rotated = it->second.starts_with("blk.{0}.attn_q.") || it->second.starts_with("blk.{0}.attn_k.");
  if (architecture_.interleaved_heads && is_rotated) resolved.head_dim = head_dim_;
  return resolved;
}

absl::StatusOr<WeightMatrix> GgufCheckpoint::Matrix(const Resolved& resolved, int64_t rows, int64_t columns) {
  const GgufTensor& tensor = *resolved.location->tensor;
  MOED_ASSIGN_OR_RETURN(WeightMatrix matrix, file_->Matrix(*resolved.location, resolved.expert));
  if (matrix.rows() != rows || matrix.columns() != columns) {
    return InvalidArgument("{}: tensor {} has the shape [{}]; the configuration asks for {} [{}, {}]", file_->path(),
                           Quoted(tensor.name), fmt::join(tensor.shape, ", "),
                           tensor.shape.size() > 2 ? "matrices" : "one", rows, columns);
  }
  {
    const std::lock_guard lock(mutex_);
    used_.insert(tensor.name);
  }
  return matrix;
}

absl::StatusOr<WeightMatrix> GgufCheckpoint::GetMatrix(std::string_view name, int64_t rows, int64_t columns) {
  const std::optional<Resolved> resolved = Resolve(name);
  if (!resolved.has_value()) {
    return NotFound("{}: there is no tensor for {}; the configuration asks for one of shape [{}, {}]", file_->path(),
                    Quoted(name), rows, columns);
  }
  MOED_ASSIGN_OR_RETURN(WeightMatrix matrix, Matrix(*resolved, rows, columns));
  if (resolved->head_dim == 0) return matrix;
  if (rows % resolved->head_dim != 0 || resolved->head_dim % 2 != 0) {
    return InvalidArgument("{}: tensor {} has {} rows; they must be heads of {}, an even number", file_->path(),
                           Quoted(resolved->location->tensor->name), rows, resolved->head_dim);
  }
  return matrix.SelectRows(DeinterleavedRows(rows, resolved->head_dim));
}

absl::StatusOr<TensorView> GgufCheckpoint::Get(std::string_view name, std::initializer_list<int64_t> shape) {
  if (shape.size() > 2 || shape.size() == 0) {
    return Unimplemented("{}: tensor {} is asked for in {} dimensions; a GGUF file gives vectors and matrices",
                         file_->path(), Quoted(name), shape.size());
  }
  const int64_t last = shape.begin()[shape.size() - 1], rows = shape.size() == 2 ? shape.begin()[0] : 1;
  const std::optional<Resolved> resolved = Resolve(name);
  WeightMatrix matrix;
  if (resolved.has_value() && resolved->head_dim > 0 && shape.size() == 1) {
    // A bias whose elements are rows.
    MOED_ASSIGN_OR_RETURN(const WeightMatrix vector, Matrix(*resolved, 1, last));
    if (!vector.is_plain() || last % resolved->head_dim != 0) {
      return Unimplemented("{}: tensor {} is quantised or not made of heads", file_->path(), Quoted(name));
    }
    const TensorView column(vector.plain().data, {last, 1}, vector.plain().dtype);
    matrix = WeightMatrix(column).SelectRows(DeinterleavedRows(last, resolved->head_dim));
  } else {
    MOED_ASSIGN_OR_RETURN(matrix, GetMatrix(name, rows, last));
    if (matrix.is_plain()) return TensorView(matrix.plain().data, shape, matrix.plain().dtype);
  }
  MOED_ASSIGN_OR_RETURN(Buffer buffer, Buffer::Allocate(rows * last * sizeof(float)));
  matrix.Read(0, matrix.rows(), static_cast<float*>(buffer.data()));
  const std::lock_guard lock(mutex_);
  const auto& [it, is_new] = made_.emplace(std::string(name), std::move(buffer));
  return TensorView(it->second.data(), shape, DType::kF32);
}

std::optional<IntegerScheme> GgufCheckpoint::StoredIntegers(std::string_view name, int64_t count, int64_t /*rows*/,
                                                            int64_t /*columns*/) {
  const std::optional<Resolved> resolved = Resolve(name);
  if (count != 0 || !resolved.has_value()) return std::nullopt;
  return IntegersOf(*resolved->location->tensor->type);
}

void GgufCheckpoint::Release(std::string_view name) {
  const std::optional<Resolved> resolved = Resolve(name);
  if (!resolved.has_value()) return;
  file_->Release(*resolved->location, resolved->expert);
  const std::lock_guard lock(mutex_);
  made_.erase(std::string(name));
}

std::vector<TensorInfo> GgufCheckpoint::List() const {
  std::vector<TensorInfo> list;
  for (const auto& [tensor, shard] : file_->tensors()) {
    list.push_back({std::string(tensor->name), std::string(tensor->type->name), tensor->shape, tensor->num_bytes,
                    FileName(file_->shard_path(shard))});
  }
  return list;
}

std::vector<std::string> GgufCheckpoint::UnusedTensors() const {
  std::vector<std::string> unused;
  const std::lock_guard lock(mutex_);
  for (const auto& [tensor, shard] : file_->tensors()) {
    if (!used_.contains(tensor->name)) unused.emplace_back(tensor->name);
  }
  std::sort(unused.begin(), unused.end());
  return unused;
}

}  // namespace moed
