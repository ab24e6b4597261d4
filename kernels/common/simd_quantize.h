// From floats to integers of eight bits, symmetric about zero. For CPU bodies only (see simd.h).
#ifndef KERNELS_COMMON_SIMD_QUANTIZE_H_
#define KERNELS_COMMON_SIMD_QUANTIZE_H_

#include "kernels/common/simd.h"

namespace moed::kernels::MOED_ISA {

// The largest magnitude of x[0, n); NaN where there is an infinity or a NaN.
[[gnu::noinline, maybe_unused]] static float LargestMagnitude(const float* x, int64_t n) {
  VecF32 largest = {}, poison = {};
  for (int64_t i = 0; i < n; i += kLanes) {
    const VecF32 v = n - i < kLanes ? LoadFirst(x + i, n - i) : Load(x + i);
    largest = Max(v < 0.0f ? -v : v, largest);
    poison += v * 0.0f;
  }
  return ReduceMax(largest) + ReduceSum(poison);
}

// What values are multiplied by so that the largest becomes 127. Where that is beyond the floats, the values are as
// good as zero.
MOED_ALWAYS_INLINE float InverseScale(float largest) { return largest < 1e-30f ? 0.0f : 127.0f / largest; }

// x to the nearest integer, to even where two are as near, in [low, 127]; NaN gives some integer too.
MOED_ALWAYS_INLINE VecI32 RoundToInt(VecF32 x, float low) {
  return reinterpret_cast<VecI32>(Min(Max(x, Set(low)), Set(127.0f)) + 12582912.0f) - 0x4b400000;
}
// v * inverse likewise, in [-127, 127].
MOED_ALWAYS_INLINE VecI32 QuantizeToInt(VecF32 v, float inverse) { return RoundToInt(v * inverse, -127.0f); }

}  // namespace moed::kernels::MOED_ISA

#endif  // KERNELS_COMMON_SIMD_QUANTIZE_H_
