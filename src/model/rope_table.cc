#include "model/rope_table.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

namespace moed {
namespace {

// theta^(2i / rotary_dim): the positions that dimension i takes for one radian.
float Wavelength(const RopeConfig& config, int64_t i) {
  const float exponent = static_cast<float>(2 * i) / static_cast<float>(config.rotary_dim);
  return std::pow(static_cast<float>(config.theta), exponent);
}

// The dimension, as a real number, that turns `turns` times over the original context.
double DimensionOfTurns(const RopeConfig& config, const YarnScaling& yarn, double turns) {
  const double positions_a_turn = static_cast<double>(yarn.original_positions) / (turns * 2.0 * M_PI);
  return config.rotary_dim * std::log(positions_a_turn) / (2.0 * std::log(config.theta));
}

void ScaleFrequencies(const RopeConfig& config, const YarnScaling& yarn, std::vector<float>* frequencies) {
  double low = DimensionOfTurns(config, yarn, yarn.beta_fast);
  double high = DimensionOfTurns(config, yarn, yarn.beta_slow);
  if (yarn.truncate) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0);
  high = std::min(high, config.rotary_dim - 1.0);
  if (low == high) high += 0.001;
  for (size_t i = 0; i < frequencies->size(); ++i) {
    const float ramp = (static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low);
    const float kept = 1.0f - std::clamp(ramp, 0.0f, 1.0f);
    const float wavelength = Wavelength(config, static_cast<int64_t>(i));
    const float stretched = 1.0f / (static_cast<float>(yarn.factor) * wavelength);
    (*frequencies)[i] = stretched * (1.0f - kept) + 1.0f / wavelength * kept;
  }
}

}  // namespace

absl::StatusOr<RopeTable> RopeTable::Create(const RopeConfig& config, int32_t max_positions, Device device) {
  RopeTable table;
  const int64_t dim = config.rotary_dim, half = dim / 2;
  MOED_ASSIGN_OR_RETURN(table.buffer_, Buffer::Allocate(max_positions * dim * sizeof(float), device));
  table.cos_sin_ = TensorView(table.buffer_.data(), {max_positions, dim}, DType::kF32, device);
  std::vector<float> frequencies(half);
  for (int64_t i = 0; i < half; ++i) frequencies[i] = 1.0f / Wavelength(config, i);
  float magnitude = 1.0f;
  if (const auto* yarn = std::get_if<YarnScaling>(&config.scaling)) {
    ScaleFrequencies(config, *yarn, &frequencies);
    magnitude = static_cast<float>(yarn->attention_factor);
  }
  float* row = table.cos_sin_.As<float>();
  for (int32_t position = 0; position < max_positions; ++position, row += dim) {
    for (int64_t i = 0; i < half; ++i) {
      const float angle = static_cast<float>(position) * frequencies[i];
      row[i] = std::cos(angle) * magnitude;
      row[half + i] = std::sin(angle) * magnitude;
    }
  }
  return table;
}

}  // namespace moed
