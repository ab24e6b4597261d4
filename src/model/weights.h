// A model's weights, packed for the kernels.
#ifndef MOED_MODEL_WEIGHTS_H_
#define MOED_MODEL_WEIGHTS_H_

#include <functional>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "checkpoint/checkpoint.h"
#include "kernels/gemm/packed_weight.h"
#include "model/latent_attention.h"
#include "model/model_config.h"
#include "model/weight_policy.h"
#include "tensor/buffer.h"
#include "tensor/exec_context.h"

namespace moed {

// out = x * weight^T + bias
struct Linear {
  kernels::PackedWeight weight;  // [outputs, inputs]
  TensorView bias;               // f32 [outputs], or empty
};

// The bias of LayerNorm; RMSNorm has none.
struct NormWeights {
  TensorView weight;  // f32 [hidden]
  TensorView bias;    // f32 [hidden], or empty
};

// A dense feed-forward is one expert.
struct ExpertWeights {
  std::vector<kernels::PackedWeight> gate;  // [experts] of [intermediate, hidden]
  std::vector<kernels::PackedWeight> up;    // [experts] of [intermediate, hidden]
  std::vector<kernels::PackedWeight> down;  // [experts] of [hidden, intermediate]
  // All or none: f32 [experts, intermediate] for gate and up, [experts, hidden] for down.
  TensorView gate_bias, up_bias, down_bias;
};

struct LayerWeights {
  NormWeights attention_norm;
  Linear qkv;  // Q, K and V, one under the other; of MLA the queries or their latent, then what is cached
  TensorView q_norm, k_norm;  // f32 [k_head_dim], or of all heads together, or empty
  TensorView sinks;           // f32 [num_heads], or empty
  LatentAttentionWeights latent;
  Linear output;  // [hidden, num_heads * v_head_dim]
  NormWeights ffn_norm;
  // Always f32: a choice among experts must not hang on the rounding of the scores. Empty in a dense layer.
  Linear router;               // [num_experts, hidden]
  TensorView correction_bias;  // f32 [num_experts], or empty
  ExpertWeights experts;
  // The experts of every token, as one; empty where there are none.
  ExpertWeights shared;
  kernels::PackedWeight shared_gate;  // f32 [1, hidden], or empty
};

// Called while loading, from one thread, with the part done in [0, 1].
using LoadProgress = std::function<void(double fraction)>;

// What token ids are looked up in: one of the two. A tied head is looked up where it lies, so that it is there once.
struct EmbeddingWeights {
  TensorView table;              // dtype [vocab, hidden]
  kernels::PackedWeight packed;  // [vocab, hidden]
};

// Immutable after Load and shared by all threads.
class ModelWeights {
 public:
  // Reads and packs all tensors as the policy says in the threads of `ctx`, dequantising a few rows at a time,
  // and gives each back to the checkpoint as soon as it is packed. Errors are the checkpoint's, or RESOURCE_EXHAUSTED
  // for memory.
  static absl::StatusOr<ModelWeights> Load(const ModelConfig& config, Checkpoint& checkpoint,
                                           const WeightPolicy& policy, const ExecContext& ctx,
                                           const LoadProgress& progress);

  // Bytes that Load will take, without the checkpoint.
  static uint64_t PlannedBytes(const ModelConfig& config, const WeightPolicy& policy);

  const EmbeddingWeights& embedding() const { return embedding_; }
  const Linear& lm_head() const { return lm_head_; }
  // ModelConfig::logits_multiplier is in it.
  const NormWeights& final_norm() const { return final_norm_; }
  const LayerWeights& layer(int32_t index) const { return layers_[index]; }
  DType dtype() const { return dtype_; }  // of what is not quantised
  uint64_t num_bytes() const;

 private:
  friend class WeightLoader;
  ModelWeights() = default;

  DType dtype_ = DType::kF32;
  EmbeddingWeights embedding_;
  Linear lm_head_;
  NormWeights final_norm_;
  std::vector<LayerWeights> layers_;
  std::vector<Buffer> buffers_;
};

}  // namespace moed

#endif  // MOED_MODEL_WEIGHTS_H_
