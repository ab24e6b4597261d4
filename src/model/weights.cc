#include "model/weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <string>
#include <utility>

#include "base/logging.h"

namespace moed {

using kernels::PackedBytes;
using kernels::PackedWeight;
using kernels::PackWeightRows;

namespace {

constexpr size_t kAlignment = 64;

size_t Align(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

std::string Name(const std::string& pattern, int32_t layer = 0, int32_t expert = 0) {
  return fmt::format(fmt::runtime(pattern), layer, expert);
}

std::string BiasName(const std::string& weight_name) {
  return weight_name.substr(0, weight_name.size() - std::string_view("weight").size()) + "bias";
}

// Sizes of one layer's matrices, named once for planning and for loading.
struct LayerShape {
  LayerShape(const ModelConfig& config, const LayerConfig& layer)
      : q_rows(int64_t{config.attention.num_heads} * config.attention.k_head_dim),
        k_rows(int64_t{config.attention.num_kv_heads} * config.attention.k_head_dim),
        v_rows(int64_t{config.attention.num_kv_heads} * config.attention.v_head_dim),
        output_columns(int64_t{config.attention.num_heads} * config.attention.v_head_dim),
        num_experts(layer.is_moe ? config.moe.num_experts : 1),
        intermediate(layer.is_moe ? config.moe.intermediate_size : config.intermediate_size) {}
  int64_t qkv_rows() const { return q_rows + k_rows + v_rows; }

  int64_t q_rows, k_rows, v_rows, output_columns;
  int32_t num_experts;
  int64_t intermediate;
};

size_t LayerBytes(const ModelConfig& config, const LayerConfig& layer, DType dtype) {
  const LayerShape shape(config, layer);
  const int64_t hidden = config.hidden_size;
  size_t bytes =
      Align(PackedBytes(shape.qkv_rows(), hidden, dtype)) + Align(PackedBytes(hidden, shape.output_columns, dtype));
  bytes += 2 * Align(hidden * sizeof(float));
  if (config.attention.qk_norm) bytes += 2 * Align(config.attention.k_head_dim * sizeof(float));
  if (config.attention.qkv_bias) bytes += Align(shape.qkv_rows() * sizeof(float));
  if (config.attention.output_bias) bytes += Align(hidden * sizeof(float));
  if (layer.is_moe) bytes += Align(PackedBytes(shape.num_experts, hidden, DType::kF32));
  bytes += shape.num_experts * (2 * Align(PackedBytes(shape.intermediate, hidden, dtype)) +
                                Align(PackedBytes(hidden, shape.intermediate, dtype)));
  return bytes;
}

size_t OuterBytes(const ModelConfig& config, DType dtype) {
  return Align(size_t(config.vocab_size) * config.hidden_size * DTypeSize(dtype)) +
         Align(PackedBytes(config.vocab_size, config.hidden_size, dtype)) + Align(config.hidden_size * sizeof(float));
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
                            DType dtype, void* destination) {
  if (source.is_plain()) {
    return PackWeightRows(source.plain().Rows(begin, end), first_row + begin, n, dtype, destination);
  }
  std::vector<float> scratch(kRowsAtOnce * source.columns());
  for (int64_t row = begin; row < end; row += kRowsAtOnce) {
    const int64_t count = std::min(kRowsAtOnce, end - row);
    source.Read(row, row + count, scratch.data());
    MOED_RETURN_IF_ERROR(PackWeightRows(TensorView::Of(scratch.data(), {count, source.columns()}), first_row + row, n,
                                        dtype, destination));
  }
  return absl::OkStatus();
}

}  // namespace

// Walks the tensors in the order of the file's usual layout. One instance a Load.
class WeightLoader {
 public:
  WeightLoader(const ModelConfig& config, Checkpoint& checkpoint, DType dtype, const ExecContext& ctx,
               const LoadProgress& progress)
      : config_(config), checkpoint_(checkpoint), dtype_(dtype), ctx_(ctx), progress_(progress) {}

  absl::StatusOr<ModelWeights> Load() {
    weights_.dtype_ = dtype_;
    weights_.layers_.resize(config_.num_layers());
    MOED_RETURN_IF_ERROR(LoadOuter());
    for (int32_t layer = 0; layer < config_.num_layers(); ++layer) {
      Report(static_cast<double>(layer) / config_.num_layers());
      MOED_RETURN_IF_ERROR(LoadLayer(layer));
    }
    Report(1.0);
    return std::move(weights_);
  }

 private:
  void Report(double fraction) const {
    if (progress_) progress_(fraction);
  }

  // A fresh region that the following Take calls cut up.
  absl::Status Reserve(size_t bytes) {
    MOED_ASSIGN_OR_RETURN(Buffer buffer, Buffer::Allocate(bytes, ctx_.device));
    region_ = static_cast<char*>(buffer.data());
    region_left_ = bytes;
    weights_.buffers_.push_back(std::move(buffer));
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

  absl::Status LoadVectorInto(const std::string& name, int64_t size, float* destination) {
    MOED_ASSIGN_OR_RETURN(const TensorView source, checkpoint_.Get(name, {size}));
    ConvertToFloat(source.data, source.dtype, size, destination);
    checkpoint_.Release(name);
    return absl::OkStatus();
  }

  absl::StatusOr<PackedWeight> LoadMatrix(const std::string& name, int64_t n, int64_t k, DType dtype) {
    return LoadMatrixInto(name, n, k, dtype, Take(PackedBytes(n, k, dtype)));
  }

  absl::StatusOr<PackedWeight> LoadMatrixInto(const std::string& name, int64_t n, int64_t k, DType dtype,
                                              void* destination) {
    MOED_ASSIGN_OR_RETURN(const WeightMatrix source, checkpoint_.GetMatrix(name, n, k));
    MOED_RETURN_IF_ERROR(Pack(source, 0, n, dtype, destination));
    checkpoint_.Release(name);
    return PackedWeight{.data = destination, .n = n, .k = k, .format = dtype};
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
  absl::Status Pack(const WeightMatrix& source, int64_t first_row, int64_t n, DType dtype, void* destination) const {
    return InParallel(source.rows(), 4 * kRowsAtOnce, [&](int64_t begin, int64_t end) {
      return PackMatrixRows(source, begin, end, first_row, n, dtype, destination);
    });
  }

  absl::Status LoadOuter() {
    MOED_RETURN_IF_ERROR(Reserve(OuterBytes(config_, dtype_)));
    const int64_t vocab = config_.vocab_size, hidden = config_.hidden_size;
    const std::string& name = config_.names.embedding;
    MOED_ASSIGN_OR_RETURN(const WeightMatrix table, checkpoint_.GetMatrix(name, vocab, hidden));
    weights_.embedding_ = TensorView(Take(vocab * hidden * DTypeSize(dtype_)), {vocab, hidden}, dtype_);
    ctx_.threads->ParallelFor(vocab, 256, [&](int64_t begin, int64_t end, int) {
      std::vector<float> scratch;
      for (int64_t row = begin; row < end; ++row) ConvertRow(table, row, weights_.embedding_.data, dtype_, &scratch);
    });
    void* head = Take(PackedBytes(vocab, hidden, dtype_));
    if (config_.tied_embeddings) {
      MOED_RETURN_IF_ERROR(Pack(table, 0, vocab, dtype_, head));
      weights_.lm_head_ = PackedWeight{.data = head, .n = vocab, .k = hidden, .format = dtype_};
    }
    checkpoint_.Release(name);
    if (!config_.tied_embeddings) {
      MOED_ASSIGN_OR_RETURN(weights_.lm_head_, LoadMatrixInto(config_.names.lm_head, vocab, hidden, dtype_, head));
    }
    MOED_ASSIGN_OR_RETURN(weights_.final_norm_, LoadVector(config_.names.final_norm, hidden));
    return absl::OkStatus();
  }

  absl::Status LoadLayer(int32_t index) {
    const LayerConfig& layer = config_.layers[index];
    MOED_RETURN_IF_ERROR(Reserve(LayerBytes(config_, layer, dtype_)));
    const LayerShape shape(config_, layer);
    const TensorNames& names = config_.names;
    const int64_t hidden = config_.hidden_size;
    LayerWeights& out = weights_.layers_[index];

    MOED_ASSIGN_OR_RETURN(out.attention_norm, LoadVector(Name(names.attention_norm, index), hidden));
    MOED_RETURN_IF_ERROR(LoadQkv(index, shape, &out));
    if (config_.attention.qk_norm) {
      const int64_t dim = config_.attention.k_head_dim;
      MOED_ASSIGN_OR_RETURN(out.q_norm, LoadVector(Name(names.q_norm, index), dim));
      MOED_ASSIGN_OR_RETURN(out.k_norm, LoadVector(Name(names.k_norm, index), dim));
    }
    const std::string o_proj = Name(names.o_proj, index);
    MOED_ASSIGN_OR_RETURN(out.output.weight, LoadMatrix(o_proj, hidden, shape.output_columns, dtype_));
    if (config_.attention.output_bias) {
      MOED_ASSIGN_OR_RETURN(out.output.bias, LoadVector(BiasName(o_proj), hidden));
    }
    MOED_ASSIGN_OR_RETURN(out.ffn_norm, LoadVector(Name(names.ffn_norm, index), hidden));
    if (layer.is_moe) {
      MOED_ASSIGN_OR_RETURN(out.router, LoadMatrix(Name(names.router, index), shape.num_experts, hidden, DType::kF32));
    }
    return LoadExperts(index, shape, &out.experts);
  }

  absl::Status LoadQkv(int32_t index, const LayerShape& shape, LayerWeights* out) {
    const TensorNames& names = config_.names;
    const int64_t hidden = config_.hidden_size, n = shape.qkv_rows();
    const std::pair<const std::string*, int64_t> parts[] = {
        {&names.q_proj, shape.q_rows}, {&names.k_proj, shape.k_rows}, {&names.v_proj, shape.v_rows}};
    void* data = Take(PackedBytes(n, hidden, dtype_));
    out->qkv.weight = PackedWeight{.data = data, .n = n, .k = hidden, .format = dtype_};
    if (config_.attention.qkv_bias) out->qkv.bias = TensorView(Take(n * sizeof(float)), {n}, DType::kF32);
    int64_t first_row = 0;
    for (const auto& [pattern, rows] : parts) {
      const std::string name = Name(*pattern, index);
      MOED_ASSIGN_OR_RETURN(const WeightMatrix source, checkpoint_.GetMatrix(name, rows, hidden));
      MOED_RETURN_IF_ERROR(Pack(source, first_row, n, dtype_, data));
      checkpoint_.Release(name);
      if (config_.attention.qkv_bias) {
        MOED_RETURN_IF_ERROR(LoadVectorInto(BiasName(name), rows, out->qkv.bias.As<float>() + first_row));
      }
      first_row += rows;
    }
    return absl::OkStatus();
  }

  // An expert a piece: their packing is most of the loading.
  absl::Status LoadExperts(int32_t index, const LayerShape& shape, ExpertWeights* out) {
    const TensorNames& names = config_.names;
    const bool moe = config_.layers[index].is_moe;
    const int64_t hidden = config_.hidden_size, inner = shape.intermediate;
    struct Part {
      const std::string& pattern;
      int64_t n, k;
      std::vector<PackedWeight>* packed;
    };
    const Part parts[] = {{moe ? names.expert_gate : names.dense_gate, inner, hidden, &out->gate},
                          {moe ? names.expert_up : names.dense_up, inner, hidden, &out->up},
                          {moe ? names.expert_down : names.dense_down, hidden, inner, &out->down}};
    std::vector<void*> places;
    for (const Part& part : parts) {
      part.packed->resize(shape.num_experts);
      for (int32_t e = 0; e < shape.num_experts; ++e) places.push_back(Take(PackedBytes(part.n, part.k, dtype_)));
    }
    const auto load = [&](int64_t piece, const auto& pack) -> absl::Status {
      const Part& part = parts[piece / shape.num_experts];
      const int32_t expert = static_cast<int32_t>(piece % shape.num_experts);
      const std::string name = Name(part.pattern, index, expert);
      MOED_ASSIGN_OR_RETURN(const WeightMatrix source, checkpoint_.GetMatrix(name, part.n, part.k));
      MOED_RETURN_IF_ERROR(pack(source, places[piece]));
      checkpoint_.Release(name);
      (*part.packed)[expert] = PackedWeight{.data = places[piece], .n = part.n, .k = part.k, .format = dtype_};
      return absl::OkStatus();
    };
    const int64_t pieces = std::ssize(places);
    if (shape.num_experts == 1) {
      for (int64_t piece = 0; piece < pieces; ++piece) {
        MOED_RETURN_IF_ERROR(load(piece, [&](const WeightMatrix& source, void* destination) {
          return Pack(source, 0, source.rows(), dtype_, destination);
        }));
      }
      return absl::OkStatus();
    }
    return InParallel(pieces, 1, [&](int64_t begin, int64_t end) -> absl::Status {
      for (int64_t piece = begin; piece < end; ++piece) {
        MOED_RETURN_IF_ERROR(load(piece, [&](const WeightMatrix& source, void* destination) {
          return PackMatrixRows(source, 0, source.rows(), 0, source.rows(), dtype_, destination);
        }));
      }
      return absl::OkStatus();
    });
  }

  const ModelConfig& config_;
  Checkpoint& checkpoint_;
  const DType dtype_;
  const ExecContext& ctx_;
  const LoadProgress& progress_;
  ModelWeights weights_;
  char* region_ = nullptr;
  size_t region_left_ = 0;
};

absl::StatusOr<ModelWeights> ModelWeights::Load(const ModelConfig& config, Checkpoint& checkpoint, DType dtype,
                                                const ExecContext& ctx, const LoadProgress& progress) {
  if (dtype != DType::kF32 && dtype != DType::kBF16) {
    return Unimplemented("weights in {} are not supported; fp32 and bf16 are", DTypeName(dtype));
  }
  return WeightLoader(config, checkpoint, dtype, ctx, progress).Load();
}

uint64_t ModelWeights::PlannedBytes(const ModelConfig& config, DType dtype) {
  uint64_t bytes = OuterBytes(config, dtype);
  for (const LayerConfig& layer : config.layers) bytes += LayerBytes(config, layer, dtype);
  return bytes;
}

uint64_t ModelWeights::num_bytes() const {
  uint64_t bytes = 0;
  for (const Buffer& buffer : buffers_) bytes += buffer.size();
  return bytes;
}

}  // namespace moed
