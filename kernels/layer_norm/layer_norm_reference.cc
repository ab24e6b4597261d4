#include <cmath>

#include "kernels/common/reference.h"
#include "kernels/layer_norm/layer_norm.h"

namespace moed::kernels::reference {

void LayerNorm(const LayerNormArgs& args) {
  const int64_t size = args.x.dim(1);
  for (int64_t token = 0; token < args.x.dim(0); ++token) {
    TensorView source = args.x;
    if (!args.residual.empty()) {
      source = args.residual;
      for (int64_t i = 0; i < size; ++i) {
        float& sum = At<float>(source, token, i);
        sum = static_cast<float>(sum + static_cast<double>(args.residual_scale) * At<float>(args.x, token, i));
      }
    }
    double mean = 0, variance = 0;
    for (int64_t i = 0; i < size; ++i) mean += At<float>(source, token, i);
    mean /= static_cast<double>(size);
    for (int64_t i = 0; i < size; ++i) variance += std::pow(At<float>(source, token, i) - mean, 2);
    variance /= static_cast<double>(size);
    for (int64_t i = 0; i < size; ++i) {
      const double normal = (At<float>(source, token, i) - mean) / std::sqrt(variance + args.eps);
      At<float>(args.out, token, i) = static_cast<float>(normal * At<float>(args.weight, i) + At<float>(args.bias, i));
    }
  }
}

}  // namespace moed::kernels::reference
