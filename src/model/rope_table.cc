#include "model/rope_table.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <variant>
#include <vector>

namespace moed {
namespace {

// theta^(2i / rotary_dim): the positions that dimension i takes for one radian.
float Wavelength(double theta, const RopeConfig& config, int64_t i) {
  const float exponent = static_cast<float>(2 * i) / static_cast<float>(config.rotary_dim);
  return std::pow(static_cast<float>(theta), exponent);
}

// The dimension, as a real number, that turns `turns` times over the original context.
double DimensionOfTurns(const RopeConfig& config, const YarnScaling& yarn, double turns) {
  const double positions_a_turn = static_cast<double>(yarn.original_positions) / (turns * 2.0 * M_PI);
  return config.rotary_dim * std::log(positions_a_turn) / (2.0 * std::log(config.theta));
}

// A scaling's effect on the frequencies 1 / Wavelength(i).
class Scaler {
 public:
  Scaler(const RopeConfig& config, int64_t max_positions, RopeFrequencies* out)
      : config_(config), max_positions_(max_positions), out_(out) {}

  void operator()(std::monostate) const {}

  void operator()(const LinearScaling& linear) const {
    for (float& radians : out_->radians) radians /= static_cast<float>(linear.factor);
  }

  void operator()(const DynamicScaling& dynamic) const {
    const double dim = config_.rotary_dim, original = static_cast<double>(dynamic.original_positions);
    const double stretched = std::max(static_cast<double>(max_positions_), original) / original;
    const double ratio = dynamic.factor * stretched - (dynamic.factor - 1.0);
    const double theta = config_.theta * std::pow(ratio, dim / (dim - 2.0));
    for (size_t i = 0; i < out_->radians.size(); ++i) {
      out_->radians[i] = 1.0f / Wavelength(theta, config_, static_cast<int64_t>(i));
    }
  }

  void operator()(const YarnScaling& yarn) const {
    out_->magnitude = static_cast<float>(yarn.attention_factor);
    double low = DimensionOfTurns(config_, yarn, yarn.beta_fast);
    double high = DimensionOfTurns(config_, yarn, yarn.beta_slow);
    if (yarn.truncate) low = std::floor(low), high = std::ceil(high);
    low = std::max(low, 0.0);
    high = std::min(high, config_.rotary_dim - 1.0);
    if (low == high) high += 0.001;
    for (size_t i = 0; i < out_->radians.size(); ++i) {
      const float ramp = (static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low);
      const float kept = 1.0f - std::clamp(ramp, 0.0f, 1.0f);
      const float wavelength = Wavelength(config_.theta, config_, static_cast<int64_t>(i));
      const float stretched = 1.0f / (static_cast<float>(yarn.factor) * wavelength);
      out_->radians[i] = stretched * (1.0f - kept) + 1.0f / wavelength * kept;
    }
  }

  void operator()(const Llama3Scaling& llama) const {
    const double original = static_cast<double>(llama.original_positions);
    const auto factor = static_cast<float>(llama.factor);
    for (float& radians : out_->radians) {
      const double wavelength = 2.0 * M_PI / radians;  // positions of a whole turn
      if (wavelength < original / llama.high_freq_factor) continue;
      if (wavelength > original / llama.low_freq_factor) {
        radians /= factor;
        continue;
      }
      const auto smooth = static_cast<float>((original / wavelength - llama.low_freq_factor) /
                                             (llama.high_freq_factor - llama.low_freq_factor));
      radians = (1.0f - smooth) * radians / factor + smooth * radians;
    }
  }

  void operator()(const LongRopeScaling& longrope) const {
    const bool is_long = max_positions_ > longrope.original_positions;
    const std::vector<double>& factors = is_long ? longrope.long_factors : longrope.short_factors;
    out_->magnitude = static_cast<float>(is_long ? longrope.long_magnitude : longrope.short_magnitude);
    for (size_t i = 0; i < out_->radians.size(); ++i) {
      const float wavelength = Wavelength(config_.theta, config_, static_cast<int64_t>(i));
      out_->radians[i] = 1.0f / (static_cast<float>(factors[i]) * wavelength);
    }
  }

 private:
  const RopeConfig& config_;
  const int64_t max_positions_;
  RopeFrequencies* const out_;
};

}  // namespace

RopeFrequencies ComputeRopeFrequencies(const RopeConfig& config, int64_t max_positions) {
  RopeFrequencies frequencies;
  for (int64_t i = 0; i < config.rotary_dim / 2; ++i) {
    frequencies.radians.push_back(1.0f / Wavelength(config.theta, config, i));
  }
  std::visit(Scaler(config, max_positions, &frequencies), config.scaling);
  return frequencies;
}

absl::StatusOr<RopeTable> RopeTable::Create(const RopeConfig& config, int32_t max_positions, Device device) {
  RopeTable table;
  const int64_t dim = config.rotary_dim, half = dim / 2;
  MOED_ASSIGN_OR_RETURN(Buffer host, Buffer::Allocate(max_positions * dim * sizeof(float)));
  const auto [radians, magnitude] = ComputeRopeFrequencies(config, max_positions);
  float* row = static_cast<float*>(host.data());
  for (int32_t position = 0; position < max_positions; ++position, row += dim) {
    for (int64_t i = 0; i < half; ++i) {
      const float angle = static_cast<float>(position) * radians[i];
      row[i] = std::cos(angle) * magnitude;
      row[half + i] = std::sin(angle) * magnitude;
    }
  }
  MOED_ASSIGN_OR_RETURN(table.buffer_, Buffer::MoveTo(std::move(host), device));
  table.cos_sin_ = TensorView(table.buffer_.data(), {max_positions, dim}, DType::kF32, device);
  return table;
}

}  // namespace moed
