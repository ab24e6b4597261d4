#include "model/rope_table.h"

#include <cmath>
#include <utility>
#include <vector>

namespace moed {

absl::StatusOr<RopeTable> RopeTable::Create(const RopeConfig& config, int32_t max_positions, Device device) {
  RopeTable table;
  const int64_t dim = config.rotary_dim, half = dim / 2;
  MOED_ASSIGN_OR_RETURN(table.buffer_, Buffer::Allocate(max_positions * dim * sizeof(float), device));
  table.cos_sin_ = TensorView(table.buffer_.data(), {max_positions, dim}, DType::kF32, device);
  std::vector<float> inverse_frequency(half);
  for (int64_t i = 0; i < half; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(dim);
    inverse_frequency[i] = 1.0f / std::pow(static_cast<float>(config.theta), exponent);
  }
  float* row = table.cos_sin_.As<float>();
  for (int32_t position = 0; position < max_positions; ++position, row += dim) {
    for (int64_t i = 0; i < half; ++i) {
      const float angle = static_cast<float>(position) * inverse_frequency[i];
      row[i] = std::cos(angle);
      row[half + i] = std::sin(angle);
    }
  }
  return table;
}

}  // namespace moed
