// Cosines and sines of the rotary position embedding.
#ifndef MOED_MODEL_ROPE_TABLE_H_
#define MOED_MODEL_ROPE_TABLE_H_

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "model/model_config.h"
#include "tensor/buffer.h"
#include "tensor/tensor_view.h"

namespace moed {

// What a dimension's pair turns by at each position, in radians, and what cosines and sines are multiplied by.
struct RopeFrequencies {
  std::vector<float> radians;  // [rotary_dim / 2]
  float magnitude = 1.0f;
};

// For contexts of up to max_positions. Taken in float as transformers does.
RopeFrequencies ComputeRopeFrequencies(const RopeConfig& config, int64_t max_positions);

// Immutable after construction.
class RopeTable {
 public:
  // For positions [0, max_positions). RESOURCE_EXHAUSTED for memory.
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
