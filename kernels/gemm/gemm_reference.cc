#include <algorithm>
#include <cmath>

#include "kernels/common/reference.h"
#include "kernels/gemm/gemm.h"
#include "kernels/gemm/reference_product.h"

namespace moed::kernels::reference {

std::vector<double> AsMultiplied(const std::vector<float>& x, WeightFormat format) {
  std::vector<double> result(x.begin(), x.end());
  if (!format.is_integer()) return result;
  for (size_t begin = 0; begin < x.size(); begin += format.group_size) {
    const size_t end = std::min(x.size(), begin + format.group_size);
    float largest = 0;
    for (size_t i = begin; i < end; ++i) {
      largest = std::isfinite(x[i]) ? std::max(largest, std::abs(x[i])) : NAN;
      if (std::isnan(largest)) break;
    }
    // In floats, as the bodies do it, so that a value between two integers goes to the same one.
    const float inverse = largest < 1e-30f ? 0 : 127 / largest;
    for (size_t i = begin; i < end; ++i) {
      result[i] = std::isnan(largest) ? NAN : std::nearbyint(x[i] * inverse) * (static_cast<double>(largest) / 127);
    }
  }
  return result;
}

std::vector<double> Product(const std::vector<float>& x, const PackedWeight& weight) {
  const std::vector<double> multiplied = AsMultiplied(x, weight.format);
  std::vector<double> result(weight.n);
  for (int64_t output = 0; output < weight.n; ++output) {
    for (int64_t i = 0; i < weight.k; ++i) result[output] += multiplied[i] * PackedElement(weight, output, i);
  }
  return result;
}

void Gemm(const GemmArgs& args) {
  std::vector<float> x(args.weight.k);
  for (int64_t row = 0; row < args.x.dim(0); ++row) {
    for (int64_t i = 0; i < args.weight.k; ++i) x[i] = At<float>(args.x, row, i);
    const std::vector<double> product = Product(x, args.weight);
    for (int64_t output = 0; output < args.weight.n; ++output) {
      const double sum = product[output] + (args.bias.empty() ? 0 : At<float>(args.bias, output));
      float& out = At<float>(args.out, row, output);
      out = static_cast<float>(args.accumulate ? out + sum : sum);
    }
  }
}

void BatchedGemm(const BatchedGemmArgs& args) {
  for (int64_t head = 0; head < args.x.dim(1); ++head) {
    const PackedWeight& weight = args.weights[head];
    std::vector<float> x(weight.k);
    for (int64_t row = 0; row < args.x.dim(0); ++row) {
      for (int64_t i = 0; i < weight.k; ++i) x[i] = At<float>(args.x, row, head, i);
      const std::vector<double> product = Product(x, weight);
      for (int64_t output = 0; output < weight.n; ++output) {
        At<float>(args.out, row, head, output) = static_cast<float>(product[output]);
      }
    }
  }
}

}  // namespace moed::kernels::reference
