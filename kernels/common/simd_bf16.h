// Dot products of bf16, as the instruction set has them. For CPU bodies only (see simd.h).
#ifndef KERNELS_COMMON_SIMD_BF16_H_
#define KERNELS_COMMON_SIMD_BF16_H_

#include "kernels/common/simd.h"

namespace moed::kernels::MOED_ISA {

#if defined(__AVX512BF16__)
constexpr bool kHasBf16Dots = true;
#else
constexpr bool kHasBf16Dots = false;
#endif

// sums + the products of each lane's two bf16 values, the odd ones' first. Subnormal values and sums are taken as zero.
MOED_ALWAYS_INLINE VecF32 Bf16Dot([[maybe_unused]] VecU32 a, [[maybe_unused]] VecU32 b, VecF32 sums) {
#if defined(__AVX512BF16__) && defined(MOED_EMULATED_ISA)
  return moed_emulation::Bf16Dots(sums, a, b);
#elif defined(__AVX512BF16__)
  asm("vdpbf16ps %2, %1, %0" : "+v"(sums) : "v"(a), "v"(b));
  return sums;
#else
  return sums;  // not called
#endif
}

}  // namespace moed::kernels::MOED_ISA

#endif  // KERNELS_COMMON_SIMD_BF16_H_
