#include "kernels/gemm/activation_rounding.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

namespace moed::kernels {
namespace {

constexpr int64_t kFp8BlockInputs = 128;
constexpr float kFp8Largest = 448;

// NaN where there is an infinity or a NaN.
float LargestMagnitude(const float* x, int64_t n) {
  float largest = 0, poison = 0;
  for (int64_t i = 0; i < n; ++i) {
    largest = std::max(largest, std::abs(x[i]));
    poison += x[i] * 0.0f;
  }
  return largest + poison;
}

// To nearest even, for |x| < 2^22.
inline float RoundToInteger(float x) {
  constexpr float kMagic = 12582912.0f;
  return (x + kMagic) - kMagic;
}

// To the nearest E4M3 number, to even, for |x| <= 448: three bits behind the leading one, and a fixed step of 2^-9
// below 2^-6.
inline float RoundToFp8(float x) {
  const float power = std::bit_cast<float>(std::bit_cast<uint32_t>(x) & 0x7f800000u);
  const float magic = std::max(power, 0x1p-6f) * 0x1.8p20f;  // whose last place is an eighth of the power
  return (x + magic) - magic;
}

void RoundInt8(const float* x, int64_t n, float* to) {
  const float scale = LargestMagnitude(x, n) / 127.5f;
  const float divisor = scale == 0 ? 1 : scale;
  for (int64_t i = 0; i < n; ++i) to[i] = std::min(RoundToInteger(x[i] / divisor), 127.0f) * scale;
}

void RoundFp8(const float* x, int64_t n, float* to) {
  const float scale = LargestMagnitude(x, n) / kFp8Largest;
  const float divisor = scale == 0 ? 1 : scale;
  for (int64_t i = 0; i < n; ++i) {
    to[i] = RoundToFp8(std::clamp(x[i] / divisor, -kFp8Largest, kFp8Largest)) * scale;
  }
}

}  // namespace

void RoundActivations(ActivationRounding rounding, const float* const* rows, int count, int64_t k,
                      const float** rounded) {
  static thread_local std::vector<float> memory;
  if (std::ssize(memory) < count * k) memory.resize(count * k);
  for (int row = 0; row < count; ++row) {
    float* const to = memory.data() + row * k;
    rounded[row] = to;
    if (rounding == ActivationRounding::kInt8Row) {
      RoundInt8(rows[row], k, to);
    } else {
      const int64_t block = rounding == ActivationRounding::kFp8Block ? kFp8BlockInputs : k;
      for (int64_t i = 0; i < k; i += block) RoundFp8(rows[row] + i, std::min(block, k - i), to + i);
    }
  }
}

}  // namespace moed::kernels
