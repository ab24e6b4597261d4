#include <cmath>

#include "kernels/common/reference.h"
#include "kernels/sampling/logit_row.h"

namespace moed::kernels::reference {

void RowMaximum(const RowMaximumArgs& args) {
  float max = -INFINITY;
  int32_t index = 0;
  bool finite = true, found = false;
  for (int64_t i = 0; i < args.x.dim(0); ++i) {
    const float value = At<float>(args.x, i);
    finite = finite && std::isfinite(value);
    if (std::isnan(value) || (found && value <= max)) continue;
    max = value;
    index = static_cast<int32_t>(i);
    found = true;
  }
  At<float>(args.max, 0) = max;
  At<int32_t>(args.index, 0) = index;
  At<int32_t>(args.finite, 0) = finite ? 1 : 0;
}

void SoftmaxWeights(const SoftmaxWeightsArgs& args) {
  for (int64_t block = 0; block < args.block_sums.dim(0); ++block) {
    double sum = 0.0;
    const int64_t begin = block * SoftmaxWeightsArgs::kBlock;
    for (int64_t i = begin; i < args.x.dim(0) && i < begin + SoftmaxWeightsArgs::kBlock; ++i) {
      const double power = (static_cast<double>(At<float>(args.x, i)) - args.max) * args.inverse_temperature;
      At<float>(args.weights, i) = static_cast<float>(std::exp(power));
      sum += std::exp(power);
    }
    At<float>(args.block_sums, block) = static_cast<float>(sum);
  }
}

}  // namespace moed::kernels::reference
