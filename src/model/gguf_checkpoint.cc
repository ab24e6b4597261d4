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

// The elements of a vector of fp32, or nothing where it is not there.
absl::StatusOr<std::vector<float>> Floats(const GgufFile& file, std::string_view name) {
  const GgufFile::Location* location = file.Find(name);
  if (location == nullptr) return std::vector<float>();
  MOED_ASSIGN_OR_RETURN(const WeightMatrix vector, file.Matrix(*location));
  std::vector<float> values(vector.rows() * vector.columns());
  vector.Read(0, vector.rows(), values.data());
  return values;
}

// Factors for each frequency of RoPE: of Llama 3.1 and later, whose scaling they are computed from, one list; of
// LongRoPE one for short and one for long contexts.
absl::Status AddRopeFactors(const GgufFile& file, json* scaling) {
  MOED_ASSIGN_OR_RETURN(const std::vector<float> all, Floats(file, "rope_freqs.weight"));
  MOED_ASSIGN_OR_RETURN(const std::vector<float> long_factors, Floats(file, "rope_factors_long.weight"));
  MOED_ASSIGN_OR_RETURN(const std::vector<float> short_factors, Floats(file, "rope_factors_short.weight"));
  if (all.empty() && long_factors.empty()) return absl::OkStatus();
  (*scaling)["rope_type"] = "longrope";
  (*scaling)["short_factor"] = all.empty() ? short_factors : all;
  (*scaling)["long_factor"] = all.empty() ? long_factors : all;
  if (!all.empty()) (*scaling)["attention_factor"] = 1.0;
  return absl::OkStatus();
}

// "NAME.rope.scaling.*" as rope_scaling.
absl::Status AddRopeScaling(const GgufFile& file, std::string_view architecture, json* config) {
  const auto key = [&](std::string_view rest) { return fmt::format("{}.rope.scaling.{}", architecture, rest); };
  MOED_ASSIGN_OR_RETURN(const auto type, file.String(key("type")));
  json scaling = {{"rope_type", std::string(type.value_or("none"))}};
  constexpr GgufName kKeys[] = {{"factor", "factor"},
                                {"original_max_position_embeddings", "original_context_length"},
                                {"beta_fast", "yarn_beta_fast"},
                                {"beta_slow", "yarn_beta_slow"},
                                {"attention_factor", "attn_factor"}};
  MOED_RETURN_IF_ERROR(AddKeys(file, fmt::format("{}.rope.scaling", architecture), kKeys, &scaling));
  MOED_RETURN_IF_ERROR(AddRopeFactors(file, &scaling));
  if (scaling["rope_type"] != "none") (*config)["rope_scaling"] = std::move(scaling);
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

// The outputs of two matrices of one width: the first's, then the second's, or by turns.
class JoinedRows final : public QuantizedMatrix {
 public:
  JoinedRows(WeightMatrix first, WeightMatrix second, bool by_turns)
      : first_(std::move(first)), second_(std::move(second)), by_turns_(by_turns) {}

  int64_t rows() const override { return first_.rows() + second_.rows(); }
  int64_t columns() const override { return first_.columns(); }
  std::string ToString() const override {
    return std::string(first_.is_plain() ? DTypeName(first_.plain().dtype) : first_.quantized().ToString());
  }
  void Dequantize(int64_t begin, int64_t end, float* out) const override {
    for (int64_t row = begin; row < end; ++row, out += columns()) {
      const auto& [source, at] = Find(row);
      source->Read(at, at + 1, out);
    }
  }
  const IntegerScheme* integers() const override {
    const IntegerScheme *one = first_.integers(), *other = second_.integers();
    const bool same =
        one != nullptr && other != nullptr && one->bits == other->bits && one->group_size == other->group_size;
    return same ? one : nullptr;
  }
  void ReadIntegers(int64_t begin, int64_t end, int8_t* codes, float* scales, int16_t* zeros) const override {
    const int64_t groups = columns() / integers()->group_size;
    for (int64_t row = begin; row < end; ++row, codes += columns(), scales += groups, zeros += groups) {
      const auto& [source, at] = Find(row);
      source->quantized().ReadIntegers(at, at + 1, codes, scales, zeros);
    }
  }

 private:
  std::pair<const WeightMatrix*, int64_t> Find(int64_t row) const {
    if (by_turns_) return {row % 2 == 0 ? &first_ : &second_, row / 2};
    return row < first_.rows() ? std::pair(&first_, row) : std::pair(&second_, row - first_.rows());
  }

  WeightMatrix first_, second_;
  bool by_turns_;
};

// kv_b_proj of latent attention, of each head the rows of its keys [nope, rank], then those of its values [v, rank],
// from each head's keys the other way round, [rank, nope], and values.
class LatentRows final : public QuantizedMatrix {
 public:
  LatentRows(std::vector<WeightMatrix> keys, std::vector<WeightMatrix> values)
      : keys_(std::move(keys)), values_(std::move(values)) {}

  int64_t rows() const override { return std::ssize(keys_) * head_rows(); }
  int64_t columns() const override { return values_[0].columns(); }
  std::string ToString() const override { return "keys and values of latents"; }
  void Dequantize(int64_t begin, int64_t end, float* out) const override {
    const int64_t rank = columns(), nope = keys_[0].columns();
    for (int64_t row = begin; row < end;) {
      const int64_t head = row / head_rows(), first = row % head_rows();
      const int64_t last = std::min(head_rows(), first + end - row);
      if (first < nope) {
        std::vector<float> keys(rank * nope);
        keys_[head].Read(0, rank, keys.data());
        for (int64_t i = first; i < std::min(nope, last); ++i) {
          for (int64_t j = 0; j < rank; ++j) out[(i - first) * rank + j] = keys[j * nope + i];
        }
      }
      const int64_t values_begin = std::max(first, nope);
      if (values_begin < last) {
        values_[head].Read(values_begin - nope, last - nope, out + (values_begin - first) * rank);
      }
      out += (last - first) * rank;
      row += last - first;
    }
  }

 private:
  int64_t head_rows() const { return keys_[0].columns() + values_[0].rows(); }

  std::vector<WeightMatrix> keys_, values_;
};

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
  for (const families::GgufJoin& join : architecture.joins) joins_.emplace(join.hub, &join);
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
  resolved.is_expert = numbers.size() > 1;
  if (resolved.is_expert) resolved.expert = numbers[1];
  const bool is_rotated = it->second.starts_with("blk.{0}.attn_q.") || it->second.starts_with("blk.{0}.attn_k.");
  if (architecture_.interleaved_heads && is_rotated) resolved.head_dim = head_dim_;
  return resolved;
}

std::optional<GgufCheckpoint::Joined> GgufCheckpoint::ResolveJoin(std::string_view name) const {
  std::vector<int64_t> numbers;
  const auto it = joins_.find(ToPattern(name, &numbers));
  if (it == joins_.end() || numbers.empty()) return std::nullopt;
  const Joined joined{.first = file_->Find(fmt::format(fmt::runtime(it->second->first), numbers[0])),
                      .second = file_->Find(fmt::format(fmt::runtime(it->second->second), numbers[0])),
                      .by_turns = it->second->by_turns};
  if (joined.first == nullptr || joined.second == nullptr) return std::nullopt;
  return joined;
}

std::optional<GgufCheckpoint::Joined> GgufCheckpoint::ResolveSplitLatent(std::string_view name) const {
  std::vector<int64_t> numbers;
  if (ToPattern(name, &numbers) != "model.layers.{0}.self_attn.kv_b_proj.weight") return std::nullopt;
  const Joined halves{.first = file_->Find(fmt::format("blk.{}.attn_k_b.weight", numbers[0])),
                      .second = file_->Find(fmt::format("blk.{}.attn_v_b.weight", numbers[0])),
                      .by_turns = false};
  if (halves.first == nullptr || halves.second == nullptr) return std::nullopt;
  return halves;
}

std::vector<const GgufFile::Location*> GgufCheckpoint::LocationsOf(std::string_view name) const {
  if (const auto resolved = Resolve(name)) return {resolved->location};
  auto joined = ResolveJoin(name);
  if (!joined.has_value()) joined = ResolveSplitLatent(name);
  if (joined.has_value()) return {joined->first, joined->second};
  return {};
}

bool GgufCheckpoint::Has(std::string_view name) const { return !LocationsOf(name).empty(); }

absl::Status GgufCheckpoint::NoTensor(std::string_view name, int64_t rows, int64_t columns) const {
  return NotFound("{}: there is no tensor for {}; the configuration asks for one of shape [{}, {}]", file_->path(),
                  Quoted(name), rows, columns);
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

absl::StatusOr<WeightMatrix> GgufCheckpoint::OpenMatrix(std::string_view name, int64_t rows, int64_t columns) {
  const std::optional<Resolved> resolved = Resolve(name);
  if (!resolved.has_value()) {
    if (const auto joined = ResolveJoin(name)) return JoinedMatrix(*joined, 0, rows, columns);
    if (const auto halves = ResolveSplitLatent(name)) return LatentMatrix(*halves, rows, columns);
    return NoTensor(name, rows, columns);
  }
  MOED_ASSIGN_OR_RETURN(WeightMatrix matrix, Matrix(*resolved, rows, columns));
  if (resolved->head_dim == 0) return matrix;
  if (rows % resolved->head_dim != 0 || resolved->head_dim % 2 != 0) {
    return InvalidArgument("{}: tensor {} has {} rows; they must be heads of {}, an even number", file_->path(),
                           Quoted(resolved->location->tensor->name), rows, resolved->head_dim);
  }
  return matrix.SelectRows(DeinterleavedRows(rows, resolved->head_dim));
}

absl::StatusOr<WeightMatrix> GgufCheckpoint::OpenStackedMatrix(std::string_view name, int64_t index, int64_t count,
                                                               int64_t rows, int64_t columns) {
  const auto resolved = Resolve(name);
  const auto joined = ResolveJoin(name);
  if (!resolved.has_value() && !joined.has_value()) return NoTensor(name, rows, columns);
  const GgufTensor& tensor = *(resolved.has_value() ? resolved->location : joined->first)->tensor;
  if (tensor.shape.size() != 3 || tensor.shape[0] != count) {
    return InvalidArgument("{}: tensor {} has the shape [{}]; the configuration asks for {} matrices", file_->path(),
                           Quoted(tensor.name), fmt::join(tensor.shape, ", "), count);
  }
  if (joined.has_value()) return JoinedMatrix(*joined, index, rows, columns);
  return Matrix({.location = resolved->location, .expert = index}, rows, columns);
}

absl::StatusOr<WeightMatrix> GgufCheckpoint::GetMatrix(std::string_view name, int64_t rows, int64_t columns) {
  MOED_ASSIGN_OR_RETURN(WeightMatrix matrix, OpenMatrix(name, rows, columns));
  ReadAhead(name, std::nullopt);
  return matrix;
}

absl::StatusOr<WeightMatrix> GgufCheckpoint::GetStackedMatrix(std::string_view name, int64_t index, int64_t count,
                                                              int64_t rows, int64_t columns) {
  MOED_ASSIGN_OR_RETURN(WeightMatrix matrix, OpenStackedMatrix(name, index, count, rows, columns));
  ReadAhead(name, index);
  return matrix;
}

void GgufCheckpoint::WillNeedLayer(int32_t layer, std::string_view /*prefix*/) {
  const std::string prefix = fmt::format("blk.{}.", layer);
  for (const GgufFile::Location& location : file_->tensors()) {
    if (location.tensor->name.starts_with(prefix)) file_->WillNeed(location, std::nullopt);
  }
}

void GgufCheckpoint::ReadAhead(std::string_view name, std::optional<int64_t> index) const {
  const std::optional<Resolved> resolved = Resolve(name);
  if (resolved.has_value() && resolved->is_expert) index = resolved->expert;
  for (const GgufFile::Location* location : LocationsOf(name)) file_->WillNeed(*location, index);
}

absl::StatusOr<WeightMatrix> GgufCheckpoint::JoinedMatrix(const Joined& joined, int64_t index, int64_t rows,
                                                          int64_t columns) {
  MOED_ASSIGN_OR_RETURN(WeightMatrix first, Matrix({.location = joined.first, .expert = index}, rows / 2, columns));
  MOED_ASSIGN_OR_RETURN(WeightMatrix second, Matrix({.location = joined.second, .expert = index}, rows / 2, columns));
  return WeightMatrix(std::make_shared<JoinedRows>(std::move(first), std::move(second), joined.by_turns));
}

absl::StatusOr<WeightMatrix> GgufCheckpoint::LatentMatrix(const Joined& halves, int64_t rows, int64_t columns) {
  const std::vector<int64_t>&keys = halves.first->tensor->shape, &values = halves.second->tensor->shape;
  const bool fits = keys.size() == 3 && values.size() == 3 && keys[0] == values[0] && keys[1] == columns &&
                    values[2] == columns && keys[0] * (keys[2] + values[1]) == rows;
  if (!fits) {
    return InvalidArgument(
        "{}: tensors {} and {} have the shapes [{}] and [{}]; for keys and values of all heads [{}, {}] they must be "
        "[heads, {}, key] and [heads, value, {}]",
        file_->path(), Quoted(halves.first->tensor->name), Quoted(halves.second->tensor->name), fmt::join(keys, ", "),
        fmt::join(values, ", "), rows, columns, columns, columns);
  }
  std::vector<WeightMatrix> key_matrices, value_matrices;
  for (int64_t head = 0; head < keys[0]; ++head) {
    MOED_ASSIGN_OR_RETURN(key_matrices.emplace_back(),
                          Matrix({.location = halves.first, .expert = head}, keys[1], keys[2]));
    MOED_ASSIGN_OR_RETURN(value_matrices.emplace_back(),
                          Matrix({.location = halves.second, .expert = head}, values[1], values[2]));
  }
  return WeightMatrix(std::make_shared<LatentRows>(std::move(key_matrices), std::move(value_matrices)));
}

TensorView GgufCheckpoint::Keep(std::string_view name, Buffer buffer, std::initializer_list<int64_t> shape) {
  const std::lock_guard lock(mutex_);
  const auto& [it, is_new] = made_.emplace(std::string(name), std::move(buffer));
  return TensorView(it->second.data(), shape, DType::kF32);
}

absl::StatusOr<TensorView> GgufCheckpoint::Get(std::string_view name, std::initializer_list<int64_t> shape) {
  if (shape.size() > 2 || shape.size() == 0) {
    return Unimplemented("{}: tensor {} is asked for in {} dimensions; a GGUF file gives vectors and matrices",
                         file_->path(), Quoted(name), shape.size());
  }
  const int64_t last = shape.begin()[shape.size() - 1], rows = shape.size() == 2 ? shape.begin()[0] : 1;
  const std::optional<Resolved> resolved = Resolve(name);
  WeightMatrix matrix;
  if (const auto joined = ResolveJoin(name); joined.has_value() && joined->by_turns) {
    // Biases of experts: of each row the elements of one and the other by turns.
    MOED_ASSIGN_OR_RETURN(const WeightMatrix first, Matrix({.location = joined->first}, rows, last / 2));
    MOED_ASSIGN_OR_RETURN(const WeightMatrix second, Matrix({.location = joined->second}, rows, last / 2));
    MOED_ASSIGN_OR_RETURN(Buffer buffer, Buffer::Allocate(rows * last * sizeof(float)));
    std::vector<float> half(rows * last / 2);
    for (int64_t turn = 0; turn < 2; ++turn) {
      (turn == 0 ? first : second).Read(0, rows, half.data());
      for (int64_t i = 0; i < std::ssize(half); ++i) static_cast<float*>(buffer.data())[2 * i + turn] = half[i];
    }
    return Keep(name, std::move(buffer), shape);
  }
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
  return Keep(name, std::move(buffer), shape);
}

absl::StatusOr<std::optional<IntegerScheme>> GgufCheckpoint::Describe(std::string_view name, int64_t count,
                                                                      int64_t rows, int64_t columns) {
  MOED_RETURN_IF_ERROR(
      (count == 0 ? OpenMatrix(name, rows, columns) : OpenStackedMatrix(name, 0, count, rows, columns)).status());
  std::optional<IntegerScheme> scheme;
  for (const GgufFile::Location* location : LocationsOf(name)) {
    const std::optional<IntegerScheme> own = IntegersOf(*location->tensor->type);
    if (!own.has_value() || (scheme.has_value() && own->bits != scheme->bits)) return std::nullopt;
    scheme = own;  // blocks of integers have one size
  }
  return scheme;
}

void GgufCheckpoint::Release(std::string_view name) {
  // Where the name holds an expert's number it means one matrix of the stack, else all.
  const std::optional<Resolved> resolved = Resolve(name);
  for (const GgufFile::Location* location : LocationsOf(name)) {
    const bool one = resolved.has_value() && resolved->is_expert;
    file_->Release(*location, one ? std::optional(resolved->expert) : std::nullopt);
  }
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
