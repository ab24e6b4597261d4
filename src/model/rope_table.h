// Cosines and sines of the rotary position embedding.
#ifndef MOED_MODEL_ROPE_TABLE_H_
#define MOED_MODEL_ROPE_TABLE_H_

#include <cstdint>

#include "base/status.h"
#include "model/model_config.h"
#include "tensor/buffer.h"
#include "tensor/tensor_view.h"

namespace moed {

// Immutable after construction.
class RopeTable {
 public:
  // For positions [0, max_positions); angles are position * theta^(-2i / rotary_dim), scaled as the configuration says,
  // taken in float as transformers does. RESOURCE_EXHAUSTED for memory.
  static absl::StatusOr<RopeTable> Create(const RopeConfig& config, int32_t max_positions, Device device);

  // f32 [max_positions, rotary_dim]: rotary_dim / 2 cosines, then as many sines.
  const TensorView& cos_sin() const { return cos_sin_; }

 private:
  RopeTable() = default;
  Buffer buffer_;
  TensorView cos_sin_;
};

}  // namespace moed

#endif  // MOED_MODEL_ROPE_TABLE_H_
