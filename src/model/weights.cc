#include "model/weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "base/available_memory.h"
#include "base/logging.h"
#include "base/text.h"
#include "model/model_matrices.h"
#include "model/stored_format.h"
#include "model/weight_staging.h"

namespace moed {

using kernels::ActivationRounding;
using kernels::PackedBytes;
using kernels::PackedWeight;
using kernels::PackWeightRows;
using kernels::WeightFormat;

namespace {

constexpr size_t kAlignment = 64;

size_t Align(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

std::string Name(const std::string& pattern, int32_t layer = 0, int32_t expert = 0) {
  return fmt::format(fmt::runtime(pattern), layer, expert);
}

// "….weight" -> "….bias"; another name -> the name with "_bias".
std::string BiasName(const std::string& weight_name) {
  constexpr std::string_view kWeight = ".weight";
  if (!weight_name.ends_with(kWeight)) return weight_name + "_bias";
  return weight_name.substr(0, weight_name.size() - kWeight.size()) + ".bias";
}

// A group of feed-forwards of one shape: the experts of a layer, its shared experts, or the one of a dense layer.
struct FfnShape {
  const std::string &gate, &up, &down;  // names
  int32_t count;
  int64_t intermediate;
  ExpertLayout layout;
  bool bias;
  WeightFormat format;

  size_t Bytes(int64_t hidden) const {
    size_t bytes = count * (2 * Align(PackedBytes(intermediate, hidden, format)) +
                            Align(PackedBytes(hidden, intermediate, format)));
    if (bias) bytes += 2 * Align(count * intermediate * sizeof(float)) + Align(count * hidden * sizeof(float));
    return bytes;
  }
};

// Sizes of one layer's matrices, named once for planning and for loading.
struct LayerShape {
  LayerShape(const ModelConfig& config, const WeightPolicy& policy, int32_t index)
      : LayerShape(config, config.layers[index], policy, index) {}
  LayerShape(const ModelConfig& config, const LayerConfig& layer, const WeightPolicy& policy, int32_t index)
      : q_rows(int64_t{config.attention.num_heads} * config.attention.k_head_dim),
        k_rows(int64_t{config.attention.num_kv_heads} * config.attention.k_head_dim),
        v_rows(int64_t{config.attention.num_kv_heads} * config.attention.v_head_dim),
        output_columns(int64_t{config.attention.num_heads} * config.attention.v_head_dim),
        q_norm(config.attention.qk_norm_full_width ? q_rows : config.attention.k_head_dim),
        k_norm(config.attention.qk_norm_full_width ? k_rows : config.attention.k_head_dim),
        ffn(layer.is_moe ? FfnShape{config.names.expert_gate, config.names.expert_up, config.names.expert_down,
                                    config.moe.num_experts, config.moe.intermediate_size, config.expert_layout,
                                    config.moe.expert_bias, policy.Format(WeightPart::kExperts, index)}
                         : FfnShape{config.names.dense_gate, config.names.dense_up, config.names.dense_down, 1,
                                    config.intermediate_size, ExpertLayout::kSeparate, config.dense_bias,
                                    policy.Format(WeightPart::kDense, index)}),
        shared{config.names.shared_gate,
               config.names.shared_up,
               config.names.shared_down,
               1,
               layer.is_moe ? config.moe.shared_intermediate_size : 0,
               ExpertLayout::kSeparate,
               false,
               policy.Format(WeightPart::kShared, index)},
        attention(policy.Format(WeightPart::kAttention, index)) {
    const LatentAttentionConfig& latent = config.attention.latent;
    if (!config.attention.is_latent()) return;
    if (latent.q_lora_rank > 0) q_rows = latent.q_lora_rank;
    k_rows = latent.cached_dim();
    v_rows = 0;
  }
  int64_t qkv_rows() const { return q_rows + k_rows + v_rows; }
  bool has_shared() const { return shared.intermediate > 0; }

  int64_t q_rows, k_rows, v_rows, output_columns;
  int64_t q_norm, k_norm;
  FfnShape ffn, shared;
  WeightFormat attention;
};

size_t NormBytes(const ModelConfig& config) {
  return (config.norm == NormKind::kLayer ? 2 : 1) * Align(config.hidden_size * sizeof(float));
}

size_t LatentAttentionBytes(const AttentionConfig& attention, WeightFormat format, DType dtype) {
  if (!attention.is_latent()) return 0;
  const LatentAttentionConfig& latent = attention.latent;
  const int64_t heads = attention.num_heads;
  size_t bytes = Align(latent.kv_lora_rank * sizeof(float)) +
                 heads * (Align(PackedBytes(latent.kv_lora_rank, latent.nope_head_dim, dtype)) +
                          Align(PackedBytes(attention.v_head_dim, latent.kv_lora_rank, dtype)));
  if (latent.q_lora_rank > 0) {
    bytes += Align(latent.q_lora_rank * sizeof(float)) +
             Align(PackedBytes(heads * attention.k_head_dim, latent.q_lora_rank, format));
  }
  return bytes;
}

size_t LayerBytes(const ModelConfig& config, const WeightPolicy& policy, int32_t index) {
  const LayerConfig& layer = config.layers[index];
  const LayerShape shape(config, policy, index);
  const int64_t hidden = config.hidden_size;
  const AttentionConfig& attention = config.attention;
  size_t bytes = Align(PackedBytes(shape.qkv_rows(), hidden, shape.attention)) +
                 Align(PackedBytes(hidden, shape.output_columns, shape.attention));
  bytes += 2 * NormBytes(config) + LatentAttentionBytes(attention, shape.attention, policy.dtype);
  if (attention.qk_norm) bytes += Align(shape.q_norm * sizeof(float)) + Align(shape.k_norm * sizeof(float));
  if (attention.qkv_bias) bytes += Align(shape.qkv_rows() * sizeof(float));
  if (attention.output_bias) bytes += Align(hidden * sizeof(float));
  if (attention.sinks) bytes += Align(attention.num_heads * sizeof(float));
  if (layer.is_moe) {
    const size_t expert_vector = Align(config.moe.num_experts * sizeof(float));
    bytes += Align(PackedBytes(config.moe.num_experts, hidden, DType::kF32));
    if (config.moe.router_bias) bytes += expert_vector;
    if (config.moe.correction_bias) bytes += expert_vector;
  }
  if (shape.has_shared()) {
    bytes += shape.shared.Bytes(hidden);
    if (config.moe.shared_gate) bytes += Align(PackedBytes(1, hidden, DType::kF32));
  }
  return bytes + shape.ffn.Bytes(hidden);
}

// The float type of a table that does not consist of integers.
DType TableType(WeightFormat format) { return format.type == WeightFormat::Type::kF32 ? DType::kF32 : DType::kBF16; }

// Of an embedding that is a table of its own.
size_t EmbeddingBytes(const ModelConfig& config, WeightFormat format) {
  if (format.is_integer()) return Align(PackedBytes(config.vocab_size, config.hidden_size, format));
  return Align(size_t(config.vocab_size) * config.hidden_size * DTypeSize(TableType(format)));
}

size_t OuterBytes(const ModelConfig& config, const WeightPolicy& policy) {
  return (config.tied_embeddings ? 0 : EmbeddingBytes(config, policy.EmbeddingFormat())) +
         Align(PackedBytes(config.vocab_size, config.hidden_size, policy.HeadFormat())) + NormBytes(config) +
         (config.lm_head_bias ? Align(config.vocab_size * sizeof(float)) : 0);
}

// Rows that are dequantised at a time while packing: a panel, so that memory stays near what the packed weights take.
constexpr int64_t kRowsAtOnce = PackedWeight::kPanel;

// Row `row` of `source` as row `row` of the table `destination`.
void ConvertRow(const WeightMatrix& source, int64_t row, void* destination, DType dtype, std::vector<float>* scratch) {
  const int64_t n = source.columns();
  if (dtype == DType::kF32) return source.Read(row, row + 1, static_cast<float*>(destination) + row * n);
  scratch->resize(n);
  source.Read(row, row + 1, scratch->data());
  BFloat16* const out = static_cast<BFloat16*>(destination) + row * n;
  for (int64_t i = 0; i < n; ++i) out[i] = ToBFloat16((*scratch)[i]);
}

// PackWeightRows of rows [begin, end) of `source`, which become the outputs from first_row + begin on.
absl::Status PackMatrixRows(const WeightMatrix& source, int64_t begin, int64_t end, int64_t first_row, int64_t n,
                            WeightFormat format, void* destination) {
  if (source.is_plain()) {
    return PackWeightRows(source.plain().Rows(begin, end), first_row + begin, n, format, destination);
  }
  if (source.integers() != nullptr && Holds(format, *source.integers(), source.columns())) {
    return PackStoredRows(source, begin, end, first_row, format, destination);
  }
  std::vector<float> scratch(kRowsAtOnce * source.columns());
  for (int64_t row = begin; row < end; row += kRowsAtOnce) {
    const int64_t count = std::min(kRowsAtOnce, end - row);
    source.Read(row, row + count, scratch.data());
    MOED_RETURN_IF_ERROR(PackWeightRows(TensorView::Of(scratch.data(), {count, source.columns()}), first_row + row, n,
                                        format, destination));
  }
  return absl::OkStatus();
}

ActivationRounding ToRounding(ActivationScheme scheme) {
  switch (scheme) {
    case ActivationScheme::kFloat:
      return ActivationRounding::kNone;
    case ActivationScheme::kInt8Token:
      return ActivationRounding::kInt8Row;
    case ActivationScheme::kFp8Token:
      return ActivationRounding::kFp8Row;
    case ActivationScheme::kFp8Block:
      return ActivationRounding::kFp8Block;
  }
  return ActivationRounding::kNone;
}

// Moves what points into a region that was filled to where its bytes will be.
class Relocation {
 public:
  Relocation(std::ptrdiff_t distance, Device device) : distance_(distance), device_(device) {}

  void Move(TensorView* view) const {
    if (view->empty()) return;
    view->data = view->As<char>() + distance_;
    view->device = device_;
  }
  void Move(PackedWeight* weight) const {
    if (weight->data != nullptr) weight->data = static_cast<const char*>(weight->data) + distance_;
  }
  void Move(std::vector<PackedWeight>* weights) const {
    for (PackedWeight& weight : *weights) Move(&weight);
  }
  void Move(Linear* linear) const { MoveAll(&linear->weight, &linear->bias); }
  void Move(NormWeights* norm) const { MoveAll(&norm->weight, &norm->bias); }
  void Move(EmbeddingWeights* embedding) const { MoveAll(&embedding->table, &embedding->packed); }
  void Move(ExpertWeights* w) const { MoveAll(&w->gate, &w->up, &w->down, &w->gate_bias, &w->up_bias, &w->down_bias); }
  void Move(LatentAttentionWeights* w) const { MoveAll(&w->q_norm, &w->q_b, &w->kv_norm, &w->k_up, &w->v_up); }
  void Move(LayerWeights* w) const {
    MoveAll(&w->attention_norm, &w->qkv, &w->q_norm, &w->k_norm, &w->sinks, &w->latent, &w->output, &w->ffn_norm,
            &w->router, &w->correction_bias, &w->experts, &w->shared, &w->shared_gate);
  }
  template <typename... Parts>
  void MoveAll(Parts*... parts) const {
    if (distance_ != 0) (Move(parts), ...);
  }

 private:
  std::ptrdiff_t distance_;
  Device device_;
};

enum class FfnPart { kGate, kUp, kDown };

// Output i of gate or up in a tensor that holds both.
int64_t FusedRow(const FfnShape& shape, FfnPart part, int64_t i) {
  const bool up = part == FfnPart::kUp;
  const bool by_turns = shape.layout == ExpertLayout::kStackedInterleaved || shape.layout == ExpertLayout::kTransposed;
  return by_turns ? 2 * i + up : i + up * shape.intermediate;
}

// Some outputs of a matrix that is stored with inputs first: row i is column first + i * step of `stored`.
class TransposedMatrix final : public QuantizedMatrix {
 public:
  TransposedMatrix(const TensorView& stored, int64_t first, int64_t step, int64_t rows)
      : stored_(stored), first_(first), step_(step), rows_(rows) {}

  int64_t rows() const override { return rows_; }
  int64_t columns() const override { return stored_.dim(0); }
  std::string ToString() const override { return fmt::format("transposed {}", DTypeName(stored_.dtype)); }
  void Dequantize(int64_t begin, int64_t end, float* out) const override {
    const auto size = static_cast<int64_t>(DTypeSize(stored_.dtype));
    std::vector<float> scratch((end - begin) * step_);
    for (int64_t column = 0; column < columns(); ++column) {
      const int64_t at = column * stored_.stride(0) + first_ + begin * step_;
      ConvertToFloat(stored_.As<char>() + at * size, stored_.dtype, std::ssize(scratch) - (step_ - 1), scratch.data());
      for (int64_t row = 0; row < end - begin; ++row) out[row * columns() + column] = scratch[row * step_];
    }
  }

 private:
  TensorView stored_;  // [columns, all rows]
  int64_t first_, step_, rows_;
};

// What does not fit would end in the kernel killing this process, or others, halfway through the load.
absl::Status CheckMemory(uint64_t bytes) {
  const std::optional<uint64_t> available = AvailableMemory();
  if (!available || bytes <= *available) return absl::OkStatus();
  return ResourceExhausted("the weights take {}, and {} of memory are available; in smaller formats they take less",
                           HumanBytes(bytes), HumanBytes(*available));
}

}  // namespace

// Walks the tensors in the order of the file's usual layout. One instance a Load.
class WeightLoader {
 public:
  WeightLoader(const ModelConfig& config, Checkpoint& checkpoint, const WeightPolicy& policy, const ExecContext& ctx,
               const LoadProgress& progress)
      : config_(config),
        checkpoint_(checkpoint),
        policy_(policy),
        dtype_(policy.dtype),
        ctx_(ctx),
        progress_(progress),
        staging_(ctx.device) {}

  absl::StatusOr<ModelWeights> Load() {
    MOED_RETURN_IF_ERROR(CheckMatrices());
    if (ctx_.device.type == DeviceType::kCpu) {
      MOED_RETURN_IF_ERROR(CheckMemory(ModelWeights::PlannedBytes(config_, policy_)));
    }
    weights_.dtype_ = dtype_;
    weights_.layers_.resize(config_.num_layers());
    ReadAhead(0);
    MOED_RETURN_IF_ERROR(LoadOuter());
    MOED_ASSIGN_OR_RETURN(std::ptrdiff_t distance, staging_.End());
    Relocation(distance, ctx_.device).MoveAll(&weights_.embedding_, &weights_.lm_head_, &weights_.final_norm_);
    for (int32_t layer = 0; layer < config_.num_layers(); ++layer) {
      Report(static_cast<double>(layer) / config_.num_layers());
      ReadAhead(layer + 1);
      MOED_RETURN_IF_ERROR(LoadLayer(layer));
      MOED_ASSIGN_OR_RETURN(distance, staging_.End());
      Relocation(distance, ctx_.device).MoveAll(&weights_.layers_[layer]);
    }
    MOED_ASSIGN_OR_RETURN(weights_.buffers_, staging_.Finish());
    Report(1.0);
    return std::move(weights_);
  }

 private:
  void Report(double fraction) const {
    if (progress_) progress_(fraction);
  }

  // Whether the checkpoint has all large tensors. Without it a missing shard would be told only when minutes of loading
  // have come to it, and memory would be taken for whatever sizes the configuration names.
  absl::Status CheckMatrices() {
    const auto check = [&](const std::string& name, int64_t count, int64_t rows, int64_t columns) {
      return checkpoint_.Describe(name, count, rows, columns).status();
    };
    MOED_RETURN_IF_ERROR(check(config_.names.embedding, 0, config_.vocab_size, config_.hidden_size));
    for (const ModelMatrix& matrix : ListMatrices(config_)) {
      const auto [rows, columns] =
          matrix.transposed ? std::pair(matrix.columns, matrix.rows) : std::pair(matrix.rows, matrix.columns);
      MOED_RETURN_IF_ERROR(check(matrix.name, matrix.count, rows, columns));
    }
    const AttentionConfig& attention = config_.attention;
    for (int32_t layer = 0; attention.is_latent() && layer < config_.num_layers(); ++layer) {
      MOED_RETURN_IF_ERROR(check(Name(config_.names.kv_b_proj, layer), 0,
                                 int64_t{attention.num_heads} * (attention.latent.nope_head_dim + attention.v_head_dim),
                                 attention.latent.kv_lora_rank));
    }
    return absl::OkStatus();
  }

  // Has the disk read a layer while the one before is packed, unless it is so large that it might drive that one out of
  // memory again. It has a thread of its own, since who gives the orders waits for the disk at times.
  void ReadAhead(int32_t layer) {
    if (read_ahead_.valid()) read_ahead_.wait();
    if (layer >= config_.num_layers()) return;
    const std::optional<uint64_t> available = AvailableMemory();
    if (available && LayerBytes(config_, policy_, layer) > *available / 4) return;
    const std::string& pattern = config_.names.attention_norm;
    const std::string prefix = fmt::format("{}{}.", pattern.substr(0, pattern.find("{0}")), layer);
    read_ahead_ = std::async(std::launch::async, [this, layer, prefix] { checkpoint_.WillNeedLayer(layer, prefix); });
  }

  // A fresh region that the following Take calls cut up.
  absl::Status Reserve(size_t bytes) {
    MOED_ASSIGN_OR_RETURN(void* const region, staging_.Begin(bytes));
    region_ = static_cast<char*>(region);
    region_left_ = bytes;
    return absl::OkStatus();
  }

  void* Take(size_t bytes) {
    bytes = Align(bytes);
    MOED_CHECK(bytes <= region_left_, "weights are larger than planned: {} > {}", bytes, region_left_);
    void* result = region_;
    region_ += bytes;
    region_left_ -= bytes;
    return result;
  }

  absl::StatusOr<TensorView> LoadVector(const std::string& name, int64_t size) {
    TensorView result(Take(size * sizeof(float)), {size}, DType::kF32);
    MOED_RETURN_IF_ERROR(LoadVectorInto(name, size, result.As<float>()));
    return result;
  }

  // A vector that is stored as a matrix of one row.
  absl::StatusOr<TensorView> LoadRow(const std::string& name, int64_t size) {
    MOED_ASSIGN_OR_RETURN(const TensorView source, checkpoint_.Get(name, {1, size}));
    const TensorView result(Take(size * sizeof(float)), {size}, DType::kF32);
    ConvertToFloat(source.data, source.dtype, size, result.As<float>());
    checkpoint_.Release(name);
    return result;
  }

  absl::Status LoadVectorInto(const std::string& name, int64_t size, float* destination) {
    MOED_ASSIGN_OR_RETURN(const TensorView source, checkpoint_.Get(name, {size}));
    ConvertToFloat(source.data, source.dtype, size, destination);
    checkpoint_.Release(name);
    return absl::OkStatus();
  }

  absl::StatusOr<NormWeights> LoadNorm(const std::string& name) {
    NormWeights norm;
    MOED_ASSIGN_OR_RETURN(norm.weight, LoadVector(name, config_.hidden_size));
    if (config_.norm == NormKind::kLayer) {
      MOED_ASSIGN_OR_RETURN(norm.bias, LoadVector(BiasName(name), config_.hidden_size));
    }
    return norm;
  }

  // What is done to the activations that `source`, packed as `format`, is multiplied with.
  absl::StatusOr<ActivationRounding> Rounding(const WeightMatrix& source, WeightFormat format) const {
    if (!policy_.as_stored) return ActivationRounding::kNone;
    const ActivationRounding rounding = ToRounding(source.activations());
    if (rounding == ActivationRounding::kNone || (format.is_integer() && rounding != ActivationRounding::kInt8Row)) {
      return ActivationRounding::kNone;
    }
    if (ctx_.device.type == DeviceType::kCpu) return rounding;
    return Unimplemented(
        "the checkpoint's activations are quantised ({}), which no GPU does here yet; --quantization none keeps floats",
        kernels::ActivationRoundingName(rounding));
  }

  absl::StatusOr<PackedWeight> LoadMatrix(const std::string& name, int64_t n, int64_t k, WeightFormat format) {
    void* const destination = Take(PackedBytes(n, k, format));
    MOED_ASSIGN_OR_RETURN(const WeightMatrix source, checkpoint_.GetMatrix(name, n, k));
    MOED_RETURN_IF_ERROR(Pack(source, 0, n, format, destination));
    MOED_ASSIGN_OR_RETURN(const ActivationRounding rounding, Rounding(source, format));
    checkpoint_.Release(name);
    return PackedWeight{.data = destination, .n = n, .k = k, .format = format, .activations = rounding};
  }

  // Calls body(begin, end) over pieces of [0, count) in all threads; the first error ends up here.
  template <typename Body>
  absl::Status InParallel(int64_t count, int64_t grain, const Body& body) const {
    std::mutex mutex;
    absl::Status first_error;
    ctx_.threads->ParallelFor(count, grain, [&](int64_t begin, int64_t end, int) {
      const absl::Status status = body(begin, end);
      if (status.ok()) return;
      const std::lock_guard lock(mutex);
      if (first_error.ok()) first_error = status;
    });
    return first_error;
  }

  // `source` as the outputs from first_row on of n, in all threads.
  absl::Status Pack(const WeightMatrix& source, int64_t first_row, int64_t n, WeightFormat format,
                    void* destination) const {
    return InParallel(source.rows(), 4 * kRowsAtOnce, [&](int64_t begin, int64_t end) {
      return PackMatrixRows(source, begin, end, first_row, n, format, destination);
    });
  }

  absl::Status LoadOuter() {
    MOED_RETURN_IF_ERROR(Reserve(OuterBytes(config_, policy_)));
    const int64_t vocab = config_.vocab_size, hidden = config_.hidden_size;
    const WeightFormat head_format = policy_.HeadFormat();
    if (config_.tied_embeddings) {
      MOED_ASSIGN_OR_RETURN(weights_.lm_head_.weight, LoadMatrix(config_.names.embedding, vocab, hidden, head_format));
      weights_.embedding_.packed = weights_.lm_head_.weight;
    } else {
      MOED_RETURN_IF_ERROR(LoadEmbedding(policy_.EmbeddingFormat()));
      MOED_ASSIGN_OR_RETURN(weights_.lm_head_.weight, LoadMatrix(config_.names.lm_head, vocab, hidden, head_format));
    }
    if (config_.lm_head_bias) {
      MOED_ASSIGN_OR_RETURN(weights_.lm_head_.bias, LoadVector(BiasName(config_.names.lm_head), vocab));
    }
    MOED_ASSIGN_OR_RETURN(weights_.final_norm_, LoadNorm(config_.names.final_norm));
    for (const TensorView& vector : {weights_.final_norm_.weight, weights_.final_norm_.bias}) {
      for (int64_t i = 0; !vector.empty() && i < hidden; ++i) vector.As<float>()[i] *= config_.logits_multiplier;
    }
    return absl::OkStatus();
  }

  // An embedding that is a table of its own.
  absl::Status LoadEmbedding(WeightFormat format) {
    const int64_t vocab = config_.vocab_size, hidden = config_.hidden_size;
    const std::string& name = config_.names.embedding;
    if (format.is_integer()) {
      MOED_ASSIGN_OR_RETURN(weights_.embedding_.packed, LoadMatrix(name, vocab, hidden, format));
      return absl::OkStatus();
    }
    MOED_ASSIGN_OR_RETURN(const WeightMatrix source, checkpoint_.GetMatrix(name, vocab, hidden));
    const DType dtype = TableType(format);
    TensorView& table = weights_.embedding_.table;
    table = TensorView(Take(vocab * hidden * DTypeSize(dtype)), {vocab, hidden}, dtype);
    ctx_.threads->ParallelFor(vocab, 256, [&](int64_t begin, int64_t end, int) {
      std::vector<float> scratch;
      for (int64_t row = begin; row < end; ++row) ConvertRow(source, row, table.data, dtype, &scratch);
    });
    checkpoint_.Release(name);
    return absl::OkStatus();
  }

  absl::Status LoadLayer(int32_t index) {
    const LayerConfig& layer = config_.layers[index];
    MOED_RETURN_IF_ERROR(Reserve(LayerBytes(config_, policy_, index)));
    const LayerShape shape(config_, policy_, index);
    const TensorNames& names = config_.names;
    const int64_t hidden = config_.hidden_size;
    LayerWeights& out = weights_.layers_[index];

    MOED_ASSIGN_OR_RETURN(out.attention_norm, LoadNorm(Name(names.attention_norm, index)));
    MOED_RETURN_IF_ERROR(LoadQkv(index, shape, &out));
    if (config_.attention.is_latent()) MOED_RETURN_IF_ERROR(LoadLatentAttention(index, &out.latent));
    if (config_.attention.qk_norm) {
      MOED_ASSIGN_OR_RETURN(out.q_norm, LoadVector(Name(names.q_norm, index), shape.q_norm));
      MOED_ASSIGN_OR_RETURN(out.k_norm, LoadVector(Name(names.k_norm, index), shape.k_norm));
    }
    if (config_.attention.sinks) {
      MOED_ASSIGN_OR_RETURN(out.sinks, LoadVector(Name(names.sinks, index), config_.attention.num_heads));
    }
    const std::string o_proj = Name(names.o_proj, index);
    MOED_ASSIGN_OR_RETURN(out.output.weight, LoadMatrix(o_proj, hidden, shape.output_columns, shape.attention));
    if (config_.attention.output_bias) {
      MOED_ASSIGN_OR_RETURN(out.output.bias, LoadVector(BiasName(o_proj), hidden));
    }
    MOED_ASSIGN_OR_RETURN(out.ffn_norm, LoadNorm(Name(names.ffn_norm, index)));
    if (layer.is_moe) MOED_RETURN_IF_ERROR(LoadRouter(index, &out));
    if (shape.has_shared()) {
      MOED_RETURN_IF_ERROR(LoadFfn(index, shape.shared, &out.shared));
      if (config_.moe.shared_gate) {
        MOED_ASSIGN_OR_RETURN(out.shared_gate,
                              LoadMatrix(Name(names.shared_expert_gate, index), 1, hidden, DType::kF32));
      }
    }
    return LoadFfn(index, shape.ffn, &out.experts);
  }

  absl::Status LoadRouter(int32_t index, LayerWeights* out) {
    const std::string name = Name(config_.names.router, index);
    const int64_t experts = config_.moe.num_experts;
    MOED_ASSIGN_OR_RETURN(out->router.weight, LoadMatrix(name, experts, config_.hidden_size, DType::kF32));
    if (config_.moe.router_bias) {
      MOED_ASSIGN_OR_RETURN(out->router.bias, LoadVector(BiasName(name), experts));
    }
    if (config_.moe.correction_bias) {
      const std::string bias = Name(config_.names.correction_bias, index);
      MOED_ASSIGN_OR_RETURN(out->correction_bias,
                            config_.moe.correction_bias_is_row ? LoadRow(bias, experts) : LoadVector(bias, experts));
    }
    return absl::OkStatus();
  }

  absl::Status LoadQkv(int32_t index, const LayerShape& shape, LayerWeights* out) {
    const TensorNames& names = config_.names;
    const int64_t hidden = config_.hidden_size, n = shape.qkv_rows();
    struct Part {
      const std::string& pattern;
      int64_t rows;
      bool bias;
    };
    const bool bias = config_.attention.qkv_bias, has_q_a = config_.attention.latent.q_lora_rank > 0;
    std::vector<Part> parts = {{has_q_a ? names.q_a_proj : names.q_proj, shape.q_rows, bias}};
    if (config_.attention.is_latent()) {
      parts[0].bias = bias && has_q_a;
      parts.push_back({names.kv_a_proj, shape.k_rows, bias});
    } else {
      parts.push_back({names.k_proj, shape.k_rows, bias});
      parts.push_back({names.v_proj, shape.v_rows, bias});
    }
    void* data = Take(PackedBytes(n, hidden, shape.attention));
    out->qkv.weight = PackedWeight{.data = data, .n = n, .k = hidden, .format = shape.attention};
    if (bias) out->qkv.bias = TensorView(Take(n * sizeof(float)), {n}, DType::kF32);
    int64_t first_row = 0;
    for (const auto& [pattern, rows, has_bias] : parts) {
      const std::string name = Name(pattern, index);
      MOED_ASSIGN_OR_RETURN(const WeightMatrix source, checkpoint_.GetMatrix(name, rows, hidden));
      MOED_RETURN_IF_ERROR(Pack(source, first_row, n, shape.attention, data));
      MOED_ASSIGN_OR_RETURN(const ActivationRounding rounding, Rounding(source, shape.attention));
      if (first_row == 0) out->qkv.weight.activations = rounding;
      if (rounding != out->qkv.weight.activations) {
        return Unimplemented(
            "{}: its activations are quantised in another way than those of {}, which is not supported", name,
            Name(parts[0].pattern, index));
      }
      checkpoint_.Release(name);
      if (has_bias) {
        MOED_RETURN_IF_ERROR(LoadVectorInto(BiasName(name), rows, out->qkv.bias.As<float>() + first_row));
      }
      first_row += rows;
    }
    return absl::OkStatus();
  }

  absl::Status LoadLatentAttention(int32_t index, LatentAttentionWeights* out) {
    const TensorNames& names = config_.names;
    const LatentAttentionConfig& latent = config_.attention.latent;
    if (latent.q_lora_rank > 0) {
      const int64_t q_rows = int64_t{config_.attention.num_heads} * config_.attention.k_head_dim;
      MOED_ASSIGN_OR_RETURN(out->q_norm, LoadVector(Name(names.q_a_norm, index), latent.q_lora_rank));
      MOED_ASSIGN_OR_RETURN(out->q_b, LoadMatrix(Name(names.q_b_proj, index), q_rows, latent.q_lora_rank,
                                                 policy_.Format(WeightPart::kAttention, index)));
    }
    MOED_ASSIGN_OR_RETURN(out->kv_norm, LoadVector(Name(names.kv_a_norm, index), latent.kv_lora_rank));

    // Of each head the rows of its keys, then those of its values.
    const int64_t heads = config_.attention.num_heads, nope = latent.nope_head_dim,
                  v_dim = config_.attention.v_head_dim;
    const int64_t rank = latent.kv_lora_rank, rows = nope + v_dim;
    const std::string name = Name(names.kv_b_proj, index);
    MOED_ASSIGN_OR_RETURN(const WeightMatrix source, checkpoint_.GetMatrix(name, heads * rows, rank));
    for (int64_t head = 0; head < heads; ++head) {
      out->k_up.push_back({.data = Take(PackedBytes(rank, nope, dtype_)), .n = rank, .k = nope, .format = dtype_});
      out->v_up.push_back({.data = Take(PackedBytes(v_dim, rank, dtype_)), .n = v_dim, .k = rank, .format = dtype_});
    }
    absl::Status packed = InParallel(heads, 1, [&](int64_t begin, int64_t end) -> absl::Status {
      std::vector<float> head_rows(rows * rank), transposed(rank * nope);
      for (int64_t head = begin; head < end; ++head) {
        source.Read(head * rows, (head + 1) * rows, head_rows.data());
        for (int64_t i = 0; i < nope * rank; ++i) transposed[i % rank * nope + i / rank] = head_rows[i];
        MOED_RETURN_IF_ERROR(PackWeightRows(TensorView::Of(transposed.data(), {rank, nope}), 0, rank, dtype_,
                                            const_cast<void*>(out->k_up[head].data)));
        MOED_RETURN_IF_ERROR(PackWeightRows(TensorView::Of(head_rows.data() + nope * rank, {v_dim, rank}), 0, v_dim,
                                            dtype_, const_cast<void*>(out->v_up[head].data)));
      }
      return absl::OkStatus();
    });
    checkpoint_.Release(name);
    return packed;
  }

  // An expert's matrix a piece, for their packing is most of the loading; a single feed-forward's are cut into rows.
  absl::Status LoadFfn(int32_t layer, const FfnShape& shape, ExpertWeights* out) {
    const int64_t hidden = config_.hidden_size, inner = shape.intermediate;
    struct Part {
      FfnPart part;
      int64_t n, k;
      std::vector<PackedWeight>* packed;
    };
    const Part parts[] = {{FfnPart::kGate, inner, hidden, &out->gate},
                          {FfnPart::kUp, inner, hidden, &out->up},
                          {FfnPart::kDown, hidden, inner, &out->down}};
    std::vector<void*> places;
    for (const Part& part : parts) {
      part.packed->resize(shape.count);
      for (int32_t e = 0; e < shape.count; ++e) places.push_back(Take(PackedBytes(part.n, part.k, shape.format)));
    }
    const auto load = [&](int64_t piece, const auto& pack) -> absl::Status {
      const Part& part = parts[piece / shape.count];
      const int32_t expert = static_cast<int32_t>(piece % shape.count);
      MOED_ASSIGN_OR_RETURN(const WeightMatrix source, FfnMatrix(layer, shape, part.part, expert));
      MOED_ASSIGN_OR_RETURN(const ActivationRounding rounding, Rounding(source, shape.format));
      MOED_RETURN_IF_ERROR(pack(source, places[piece]));
      if (shape.layout == ExpertLayout::kSeparate && (part.part == FfnPart::kDown || !shape.up.empty())) {
        checkpoint_.Release(Name(PartName(shape, part.part), layer, expert));
      }
      (*part.packed)[expert] = PackedWeight{
          .data = places[piece], .n = part.n, .k = part.k, .format = shape.format, .activations = rounding};
      return absl::OkStatus();
    };
    const int64_t pieces = std::ssize(places);
    if (shape.count == 1) {
      for (int64_t piece = 0; piece < pieces; ++piece) {
        MOED_RETURN_IF_ERROR(load(piece, [&](const WeightMatrix& source, void* destination) {
          return Pack(source, 0, source.rows(), shape.format, destination);
        }));
      }
    } else {
      const absl::Status loaded = InParallel(pieces, 1, [&](int64_t begin, int64_t end) -> absl::Status {
        for (int64_t piece = begin; piece < end; ++piece) {
          MOED_RETURN_IF_ERROR(load(piece, [&](const WeightMatrix& source, void* destination) {
            return PackMatrixRows(source, 0, source.rows(), 0, source.rows(), shape.format, destination);
          }));
        }
        return absl::OkStatus();
      });
      MOED_RETURN_IF_ERROR(loaded);
    }
    for (const Part& part : parts) {
      for (const PackedWeight& weight : *part.packed) {
        const PackedWeight& first = part.part == FfnPart::kDown ? out->down[0] : out->gate[0];
        if (weight.activations == first.activations) continue;
        return Unimplemented(
            "{}: activations are quantised for some experts, or for one of gate and up, in another way "
            "than for others, which is not supported",
            Name(PartName(shape, part.part), layer));
      }
    }
    // What several pieces were read from; the others are gone already.
    checkpoint_.Release(Name(shape.gate, layer));
    checkpoint_.Release(Name(shape.down, layer));
    return shape.bias ? LoadFfnBiases(layer, shape, out) : absl::OkStatus();
  }

  // The tensor that holds a part: that of gate holds up too where up has no name.
  static const std::string& PartName(const FfnShape& shape, FfnPart part) {
    if (part == FfnPart::kDown) return shape.down;
    return part == FfnPart::kUp && !shape.up.empty() ? shape.up : shape.gate;
  }

  // The matrix [outputs, inputs] of one expert, wherever the checkpoint has it.
  absl::StatusOr<WeightMatrix> FfnMatrix(int32_t layer, const FfnShape& shape, FfnPart part, int32_t expert) {
    const std::string name = Name(PartName(shape, part), layer, expert);
    const bool down = part == FfnPart::kDown, fused = !down && shape.up.empty();
    const int64_t n = down ? config_.hidden_size : shape.intermediate;
    const int64_t k = down ? shape.intermediate : config_.hidden_size;
    const int64_t stored_n = fused ? 2 * n : n;
    if (shape.layout == ExpertLayout::kTransposed) {
      MOED_ASSIGN_OR_RETURN(const TensorView all, checkpoint_.Get(name, {shape.count, k, stored_n}));
      return WeightMatrix(std::make_shared<TransposedMatrix>(Slice(all, expert), fused ? FusedRow(shape, part, 0) : 0,
                                                             fused ? 2 : 1, n));
    }
    WeightMatrix matrix;
    if (shape.layout == ExpertLayout::kSeparate) {
      MOED_ASSIGN_OR_RETURN(matrix, checkpoint_.GetMatrix(name, stored_n, k));
    } else {
      MOED_ASSIGN_OR_RETURN(matrix, checkpoint_.GetStackedMatrix(name, expert, shape.count, stored_n, k));
    }
    if (!fused) return matrix;
    std::vector<int32_t> rows(n);
    for (int64_t i = 0; i < n; ++i) rows[i] = static_cast<int32_t>(FusedRow(shape, part, i));
    return matrix.SelectRows(std::move(rows));
  }

  // Matrix `index` of [matrices, rows, columns].
  static TensorView Slice(const TensorView& all, int64_t index) {
    char* const data = all.As<char>() + index * all.stride(0) * static_cast<int64_t>(DTypeSize(all.dtype));
    return TensorView(data, {all.dim(1), all.dim(2)}, all.dtype);
  }

  absl::Status LoadFfnBiases(int32_t layer, const FfnShape& shape, ExpertWeights* out) {
    const auto load = [&](FfnPart part, int64_t size, TensorView* bias) -> absl::Status {
      const int64_t count = shape.count, stored = part != FfnPart::kDown && shape.up.empty() ? 2 * size : size;
      const std::string name = BiasName(Name(PartName(shape, part), layer));
      *bias = TensorView(Take(count * size * sizeof(float)), {count, size}, DType::kF32);
      const bool stacked = shape.layout != ExpertLayout::kSeparate;
      MOED_ASSIGN_OR_RETURN(const TensorView source,
                            stacked ? checkpoint_.Get(name, {count, stored}) : checkpoint_.Get(name, {stored}));
      std::vector<float> values(count * stored);
      ConvertToFloat(source.data, source.dtype, std::ssize(values), values.data());
      for (int64_t e = 0; e < count; ++e) {
        for (int64_t i = 0; i < size; ++i) {
          const int64_t at = stored == size ? i : FusedRow(shape, part, i);
          bias->As<float>()[e * size + i] = values[e * stored + at];
        }
      }
      checkpoint_.Release(name);
      return absl::OkStatus();
    };
    MOED_RETURN_IF_ERROR(load(FfnPart::kGate, shape.intermediate, &out->gate_bias));
    MOED_RETURN_IF_ERROR(load(FfnPart::kUp, shape.intermediate, &out->up_bias));
    return load(FfnPart::kDown, config_.hidden_size, &out->down_bias);
  }

  const ModelConfig& config_;
  Checkpoint& checkpoint_;
  const WeightPolicy& policy_;
  const DType dtype_;
  const ExecContext& ctx_;
  const LoadProgress& progress_;
  ModelWeights weights_;
  WeightStaging staging_;
  char* region_ = nullptr;
  size_t region_left_ = 0;
  std::future<void> read_ahead_;  // its end waits for the thread
};

absl::StatusOr<ModelWeights> ModelWeights::Load(const ModelConfig& config, Checkpoint& checkpoint,
                                                const WeightPolicy& policy, const ExecContext& ctx,
                                                const LoadProgress& progress) {
  if (policy.dtype != DType::kF32 && policy.dtype != DType::kBF16) {
    return Unimplemented("weights in {} are not supported; fp32 and bf16 are", DTypeName(policy.dtype));
  }
  return WeightLoader(config, checkpoint, policy, ctx, progress).Load();
}

uint64_t ModelWeights::PlannedBytes(const ModelConfig& config, const WeightPolicy& policy) {
  uint64_t bytes = OuterBytes(config, policy);
  for (int32_t layer = 0; layer < config.num_layers(); ++layer) bytes += LayerBytes(config, policy, layer);
  return bytes;
}

uint64_t ModelWeights::num_bytes() const {
  uint64_t bytes = 0;
  for (const Buffer& buffer : buffers_) bytes += buffer.size();
  return bytes;
}

}  // namespace moed
