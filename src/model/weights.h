// A model's weights, packed for the kernels.
#ifndef MOED_MODEL_WEIGHTS_H_
#define MOED_MODEL_WEIGHTS_H_

#include <functional>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "checkpoint/checkpoint.h"
#include "kernels/gemm/packed_weight.h"
#include "model/model_config.h"
#include "tensor/buffer.h"
#include "tensor/exec_context.h"

namespace moed {

// out = x * weight^T + bias
struct Linear {
  kernels::PackedWeight weight;  // [outputs, inputs]
  TensorView bias;               // f32 [outputs], or empty
};

// A dense feed-forward is one expert.
struct ExpertWeights {
  std::vector<kernels::PackedWeight> gate;  // [experts] of [intermediate, hidden]
  std::vector<kernels::PackedWeight> up;    // [experts] of [intermediate, hidden]
  std::vector<kernels::PackedWeight> down;  // [experts] of [hidden, intermediate]
};

struct LayerWeights {
  TensorView attention_norm;  // f32 [hidden]
  Linear qkv;                 // Q, K and V, one under the other
  TensorView q_norm, k_norm;  // f32 [k_head_dim], or empty
  Linear output;              // [hidden, num_heads * v_head_dim]
  TensorView ffn_norm;        // f32 [hidden]
  // Always f32: a choice among experts must not hang on the rounding of the scores. Empty in a dense layer.
  kernels::PackedWeight router;  // [num_experts, hidden]
  ExpertWeights experts;
};

// Called while loading, from one thread, with the part done in [0, 1].
using LoadProgress = std::function<void(double fraction)>;

// Immutable after Load and shared by all threads. Embedding and LM head are kept apart even when tied: the one is read
// by row, the other streamed in panels.
class ModelWeights {
 public:
  // Reads and packs all tensors as `dtype` (kF32 or kBF16), an expert a thread of `ctx`, and gives each back to the
  // checkpoint as soon as it is packed. Errors are the checkpoint's, or RESOURCE_EXHAUSTED for memory.
  static absl::StatusOr<ModelWeights> Load(const ModelConfig& config, Checkpoint& checkpoint, DType dtype,
                                           const ExecContext& ctx, const LoadProgress& progress);

  // Bytes that Load will take, without the checkpoint.
  static uint64_t PlannedBytes(const ModelConfig& config, DType dtype);

  const TensorView& embedding() const { return embedding_; }  // dtype [vocab, hidden]
  const kernels::PackedWeight& lm_head() const { return lm_head_; }
  const TensorView& final_norm() const { return final_norm_; }  // f32 [hidden]
  const LayerWeights& layer(int32_t index) const { return layers_[index]; }
  DType dtype() const { return dtype_; }
  uint64_t num_bytes() const;

 private:
  friend class WeightLoader;
  ModelWeights() = default;

  DType dtype_ = DType::kF32;
  TensorView embedding_;
  kernels::PackedWeight lm_head_;
  TensorView final_norm_;
  std::vector<LayerWeights> layers_;
  std::vector<Buffer> buffers_;
};

}  // namespace moed

#endif  // MOED_MODEL_WEIGHTS_H_
