// Dot products of small integers, as the instruction set has them. For CPU bodies only (see simd.h).
//
// Weights are bytes without sign, activations have one. A step takes four inputs: with 8-bit dot products (VNNI) a lane
// holds an output's four weights and gets their whole sum; otherwise both operands are widened to 16 bits, a lane holds
// two weights, and two adjacent lanes hold an output's partial sums. Weights of four bits are small enough to stay
// bytes without VNNI too: products are added up in 16 bits for a while (narrow dots below).
#ifndef KERNELS_COMMON_SIMD_INT_H_
#define KERNELS_COMMON_SIMD_INT_H_

#include "kernels/common/simd.h"

// Whether there are 8-bit dot products of whole vectors.
#if defined(__AVX512VNNI__) || (defined(__AVXVNNI__) && !defined(__AVX512F__))
#define MOED_BYTE_DOTS 1
#endif

namespace moed::kernels::MOED_ISA {

#if defined(MOED_BYTE_DOTS)
using ActivationInt = int8_t;
constexpr int kPartialSums = 1;
using VecInt = VecU32;
#else
using ActivationInt = int16_t;
constexpr int kPartialSums = 2;
typedef int16_t VecInt __attribute__((vector_size(kLanes * 4)));
#endif

// The weights of as many outputs as there are lanes / kPartialSums.
MOED_ALWAYS_INLINE VecInt LoadUnsignedBytes(const char* p) {
#if defined(MOED_BYTE_DOTS)
  return LoadBits<VecInt>(p);
#elif defined(__AVX512F__)
  return reinterpret_cast<VecInt>(_mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif defined(__AVX2__)
  return reinterpret_cast<VecInt>(_mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
  typedef uint8_t Bytes __attribute__((vector_size(kLanes * 2)));
  return __builtin_convertvector(LoadBits<Bytes>(p), VecInt);
#endif
}

// Of bytes that hold two weights each.
MOED_ALWAYS_INLINE VecInt LowFourBits(VecInt pairs) {
#if defined(MOED_BYTE_DOTS)
  return pairs & 0x0f0f0f0fu;
#else
  return pairs & 15;
#endif
}
MOED_ALWAYS_INLINE VecInt HighFourBits(VecInt pairs) {
#if defined(MOED_BYTE_DOTS)
  return (pairs >> 4) & 0x0f0f0f0fu;
#else
  return pairs >> 4;
#endif
}

// Four activations in every output's place.
MOED_ALWAYS_INLINE VecInt BroadcastFour(const ActivationInt* p) {
#if defined(MOED_BYTE_DOTS)
  uint32_t four;
  std::memcpy(&four, p, sizeof(four));
  return VecInt{} + four;
#else
  typedef int64_t Wide __attribute__((vector_size(kLanes * 4)));
  int64_t four;
  std::memcpy(&four, p, sizeof(four));
  return reinterpret_cast<VecInt>(Wide{} + four);
#endif
}

// sums + the products of adjacent weights and activations, added within each lane.
MOED_ALWAYS_INLINE VecI32 Dot(VecInt weights, VecInt activations, VecI32 sums) {
#if defined(MOED_BYTE_DOTS) && defined(MOED_EMULATED_ISA)
  return moed_emulation::ByteDots(sums, weights, activations);
#elif defined(__AVX512VNNI__)
  // g++ 12 copies the accumulator to and fro for the intrinsic.
  asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(weights), "v"(activations));
  return sums;
#elif defined(MOED_BYTE_DOTS)
  asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sums) : "x"(weights), "x"(activations));
  return sums;
#elif defined(__AVX512F__)
  return sums + reinterpret_cast<VecI32>(
                    _mm512_madd_epi16(reinterpret_cast<__m512i>(weights), reinterpret_cast<__m512i>(activations)));
#elif defined(__AVX2__)
  // In one piece: g++ 12 begins products early and keeps them in registers that a tile's sums need.
  VecI32 products;
  asm("vpmaddwd %2, %3, %1\n\tvpaddd %1, %0, %0" : "+x"(sums), "=&x"(products) : "x"(weights), "x"(activations));
  return sums;
#elif defined(__SSE2__)
  return sums + reinterpret_cast<VecI32>(
                    _mm_madd_epi16(reinterpret_cast<__m128i>(weights), reinterpret_cast<__m128i>(activations)));
#else
  for (int i = 0; i < kLanes; ++i) {
    sums[i] += weights[2 * i] * activations[2 * i] + weights[2 * i + 1] * activations[2 * i + 1];
  }
  return sums;
#endif
}

#if !defined(MOED_BYTE_DOTS) && (defined(__AVX512F__) || defined(__AVX2__))
constexpr bool kHasNarrowDots = true;
#else
constexpr bool kHasNarrowDots = false;
#endif
// So many products of a weight below 16 and an activation of 128 in magnitude at most, in pairs, fit in 16 bits.
constexpr int kNarrowDots = 32767 / (2 * 15 * 128);
typedef int16_t VecI16 __attribute__((vector_size(kLanes * 4)));

// Four activations of eight bits in every output's place.
MOED_ALWAYS_INLINE VecU32 BroadcastFourBytes(const int8_t* p) {
  uint32_t four;
  std::memcpy(&four, p, sizeof(four));
  return VecU32{} + four;
}

// sums + the products of an output's four weights and activations, added in pairs.
MOED_ALWAYS_INLINE VecI16 NarrowDot([[maybe_unused]] VecU32 weights, [[maybe_unused]] VecU32 activations, VecI16 sums) {
#if defined(__AVX512F__)
  return sums + reinterpret_cast<VecI16>(
                    _mm512_maddubs_epi16(reinterpret_cast<__m512i>(weights), reinterpret_cast<__m512i>(activations)));
#elif defined(__AVX2__)
  VecI16 products;
  asm("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(sums), "=&x"(products) : "x"(weights), "x"(activations));
  return sums;
#else
  return sums;  // not called
#endif
}

// sums + an output's two narrow sums.
MOED_ALWAYS_INLINE VecI32 AddNarrow([[maybe_unused]] VecI16 narrow, VecI32 sums) {
#if defined(__AVX512F__)
  return sums + reinterpret_cast<VecI32>(
                    _mm512_madd_epi16(reinterpret_cast<__m512i>(narrow), reinterpret_cast<__m512i>(VecI16{} + 1)));
#elif defined(__AVX2__)
  return sums + reinterpret_cast<VecI32>(
                    _mm256_madd_epi16(reinterpret_cast<__m256i>(narrow), reinterpret_cast<__m256i>(VecI16{} + 1)));
#else
  return sums;  // not called
#endif
}

// Adds adjacent lanes: those of `low` give the lower half of the result, those of `high` the upper.
MOED_ALWAYS_INLINE VecI32 AddPairs(VecI32 low, VecI32 high) {
#if defined(__AVX512F__)
  return __builtin_shufflevector(low, high, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) +
         __builtin_shufflevector(low, high, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
#elif defined(__AVX2__)
  // In each half of the register: two sums of `low`, two of `high`.
  const __m256i sums = _mm256_hadd_epi32(reinterpret_cast<__m256i>(low), reinterpret_cast<__m256i>(high));
  return reinterpret_cast<VecI32>(_mm256_permute4x64_epi64(sums, 0b11011000));
#else
  return __builtin_shufflevector(low, high, 0, 2, 4, 6) + __builtin_shufflevector(low, high, 1, 3, 5, 7);
#endif
}

}  // namespace moed::kernels::MOED_ISA

#endif  // KERNELS_COMMON_SIMD_INT_H_
