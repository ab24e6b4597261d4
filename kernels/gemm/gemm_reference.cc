#include <algorithm>
#include <cmath>

#include "kernels/common/reference.h"
#include "kernels/gemm/gemm.h"
#include "kernels/gemm/reference_product.h"

namespace moed::kernels::reference {

namespace {

// The largest magnitude of x[begin, end); NaN where there is an infinity or a NaN.
float LargestMagnitude(const std::vector<float>& x, size_t begin, size_t end) {
  float largest = 0;
  for (size_t i = begin; i < end; ++i) {
    if (!std::isfinite(x[i])) return NAN;
    largest = std::max(largest, std::abs(x[i]));
  }
  return largest;
}

// The number of E4M3 nearest to x, |x| <= 448, to even.
double NearestFp8(double x) {
  const int exponent = x == 0 ? -6 : std::max(std::ilogb(x), -6);
  return std::ldexp(std::nearbyint(std::ldexp(x, 3 - exponent)), exponent - 3);
}

}  // namespace

// Scales and quotients in floats, as the bodies have them, so that a value between two numbers goes to the same one.
std::vector<double> AsMultiplied(const std::vector<float>& x, const PackedWeight& weight) {
  const WeightFormat format = weight.format;
  std::vector<double> result(x.begin(), x.end());
  size_t block = x.size();
  if (weight.activations == ActivationRounding::kNone) {
    if (!format.is_integer()) return result;
    block = format.group_size;
  } else if (weight.activations == ActivationRounding::kFp8Block) {
    block = 128;
  }
  for (size_t begin = 0; begin < x.size(); begin += block) {
    const size_t end = std::min(x.size(), begin + block);
    const float largest = LargestMagnitude(x, begin, end);
    for (size_t i = begin; i < end; ++i) {
      if (std::isnan(largest)) {
        result[i] = NAN;
      } else if (weight.activations == ActivationRounding::kNone) {
        const float inverse = largest < 1e-30f ? 0 : 127 / largest;
        result[i] = std::nearbyint(x[i] * inverse) * (static_cast<double>(largest) / 127);
      } else if (weight.activations == ActivationRounding::kInt8Row) {
        const float scale = largest / 127.5f;
        result[i] = scale == 0 ? 0 : std::min<double>(std::nearbyint(x[i] / scale), 127) * scale;
      } else {
        const float scale = largest / 448;
        result[i] = scale == 0 ? 0 : NearestFp8(std::clamp(x[i] / scale, -448.0f, 448.0f)) * scale;
      }
    }
  }
  return result;
}

std::vector<double> Product(const std::vector<float>& x, const PackedWeight& weight) {
  const std::vector<double> multiplied = AsMultiplied(x, weight);
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
