// Vectors of floats as wide as the instruction set that a CPU body is compiled for.
//
// For <op>_cpu.cc only, which moed_cpu_bodies compiles once for each instruction set: everything here lives in the
// namespace of that set (MOED_ISA), so that copies never mix at link time. VecF32 is a GCC/Clang vector: + - * / and
// comparisons work on it as they are, and a comparison gives a mask (VecI32, lanes 0 or -1) for `mask ? a : b`.
// Loops are written once over kLanes; rows whose length is no multiple of it end in LoadFirst() and StoreFirst().
#ifndef KERNELS_COMMON_SIMD_H_
#define KERNELS_COMMON_SIMD_H_

#include <cstdint>
#include <cstring>

#include "tensor/dtype.h"
#include "tensor/tensor_view.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#ifndef MOED_ISA
#error "simd.h is for sources that moed_cpu_bodies compiles"
#endif

namespace moed::kernels::MOED_ISA {

// Floats in a vector.
#if defined(__AVX512F__)
constexpr int kLanes = 16;
// For the intrinsics' forms with a mask: g++ 12 warns of the others' (harmless) uninitialised operand.
constexpr __mmask16 kAllLanes = 0xffff;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float VecF32 __attribute__((vector_size(kLanes * 4)));
typedef int32_t VecI32 __attribute__((vector_size(kLanes * 4)));
typedef uint32_t VecU32 __attribute__((vector_size(kLanes * 4)));
// As many of 16 and of 8 bits as VecF32 has floats.
typedef uint16_t VecU16 __attribute__((vector_size(kLanes * 2)));
typedef int8_t VecI8 __attribute__((vector_size(kLanes)));

// ---------------------------------------------------------------------------------------------- loads and stores
// No alignment is asked for anywhere. "First" versions touch only the first n lanes' memory, 0 <= n <= kLanes.

template <typename Vec, typename T>
MOED_ALWAYS_INLINE Vec LoadBits(const T* p) {
  Vec v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

template <typename Vec, typename T>
MOED_ALWAYS_INLINE Vec LoadBitsFirst(const T* p, int64_t n) {
  Vec v = {};
  std::memcpy(&v, p, static_cast<size_t>(n) * sizeof(T));
  return v;
}

MOED_ALWAYS_INLINE VecF32 Set(float value) {
#if defined(__AVX512F__)
  return reinterpret_cast<VecF32>(_mm512_set1_ps(value));
#elif defined(__AVX2__)
  return reinterpret_cast<VecF32>(_mm256_set1_ps(value));
#else
  return VecF32{value, value, value, value};
#endif
}
MOED_ALWAYS_INLINE VecI32 SetI32(int32_t value) { return VecI32{} + value; }

// 0, 1, 2, …
MOED_ALWAYS_INLINE VecI32 Iota() {
  VecI32 v = {};
  for (int i = 0; i < kLanes; ++i) v[i] = i;
  return v;
}

// Between widths, each lane for itself; narrowing drops the upper bits. (g++ 12 makes __builtin_convertvector of these
// from pieces, down to single lanes.)
MOED_ALWAYS_INLINE VecU32 Widen(VecU16 v) {
#if defined(__AVX512F__)
  return reinterpret_cast<VecU32>(_mm512_maskz_cvtepu16_epi32(kAllLanes, reinterpret_cast<__m256i>(v)));
#elif defined(__AVX2__)
  return reinterpret_cast<VecU32>(_mm256_cvtepu16_epi32(reinterpret_cast<__m128i>(v)));
#else
  return __builtin_convertvector(v, VecU32);
#endif
}
MOED_ALWAYS_INLINE VecI32 Widen(VecI8 v) {
#if defined(__AVX512F__)
  return reinterpret_cast<VecI32>(_mm512_maskz_cvtepi8_epi32(kAllLanes, reinterpret_cast<__m128i>(v)));
#elif defined(__AVX2__)
  return reinterpret_cast<VecI32>(_mm256_cvtepi8_epi32(_mm_cvtsi64_si128(reinterpret_cast<int64_t>(v))));
#else
  return __builtin_convertvector(v, VecI32);
#endif
}
MOED_ALWAYS_INLINE VecU16 NarrowTo16(VecU32 v) {
#if defined(__AVX512F__)
  return reinterpret_cast<VecU16>(_mm512_maskz_cvtepi32_epi16(kAllLanes, reinterpret_cast<__m512i>(v)));
#elif defined(__AVX2__)
  const __m256i low = reinterpret_cast<__m256i>(v & 0xffffu);
  const __m256i halves = _mm256_packus_epi32(low, low);  // of each half, twice
  return reinterpret_cast<VecU16>(_mm256_castsi256_si128(_mm256_permute4x64_epi64(halves, 0x08)));
#else
  return __builtin_convertvector(v, VecU16);
#endif
}
MOED_ALWAYS_INLINE VecI8 NarrowTo8(VecI32 v) {
#if defined(__AVX512F__)
  return reinterpret_cast<VecI8>(_mm512_maskz_cvtepi32_epi8(kAllLanes, reinterpret_cast<__m512i>(v)));
#elif defined(__AVX2__)
  const __m256i first_bytes = _mm256_set1_epi32(0x0c080400);
  const __m256i fours = _mm256_shuffle_epi8(reinterpret_cast<__m256i>(v), first_bytes);  // of each half
  const __m128i eight = _mm_unpacklo_epi32(_mm256_castsi256_si128(fours), _mm256_extracti128_si256(fours, 1));
  return reinterpret_cast<VecI8>(_mm_cvtsi128_si64(eight));
#else
  return __builtin_convertvector(v, VecI8);
#endif
}

MOED_ALWAYS_INLINE VecF32 BFloat16ToFloat(VecU16 v) { return reinterpret_cast<VecF32>(Widen(v) << 16); }

// Rounds to nearest even; a NaN stays a quiet NaN.
MOED_ALWAYS_INLINE VecU16 FloatToBFloat16(VecF32 v) {
  const VecU32 bits = reinterpret_cast<VecU32>(v);
  const VecU32 rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const VecI32 is_nan = v != v;
  return NarrowTo16(is_nan ? (bits >> 16) | 0x40u : rounded);
}

MOED_ALWAYS_INLINE VecF32 HalfToFloat(VecU16 v) {
#if defined(__AVX512F__)
  return reinterpret_cast<VecF32>(_mm512_maskz_cvtph_ps(kAllLanes, reinterpret_cast<__m256i>(v)));
#elif defined(__F16C__)
  return reinterpret_cast<VecF32>(_mm256_cvtph_ps(reinterpret_cast<__m128i>(v)));
#else
  // The exponent moves to its place by a multiplication, which also brings subnormals to their value.
  const VecU32 bits = Widen(v);
  const VecU32 sign = (bits & 0x8000u) << 16;
  const VecU32 magnitude = (bits & 0x7fffu) << 13;
  const VecF32 scaled = reinterpret_cast<VecF32>(magnitude) * 0x1p112f;
  const VecI32 is_special = magnitude >= 0x0f800000u;  // infinity and NaN
  const VecU32 result = is_special ? magnitude | 0x7f800000u : reinterpret_cast<VecU32>(scaled);
  return reinterpret_cast<VecF32>(result | sign);
#endif
}

// Rounds to nearest even, overflows to infinity.
MOED_ALWAYS_INLINE VecU16 FloatToHalf(VecF32 v) {
#if defined(__AVX512F__)
  return reinterpret_cast<VecU16>(
      _mm512_maskz_cvtps_ph(kAllLanes, reinterpret_cast<__m512>(v), _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
  return reinterpret_cast<VecU16>(_mm256_cvtps_ph(reinterpret_cast<__m256>(v), _MM_FROUND_TO_NEAREST_INT));
#else
  const VecU32 all = reinterpret_cast<VecU32>(v);
  const VecU32 sign = (all >> 16) & 0x8000u;
  const VecU32 bits = all & 0x7fffffffu;
  // Normal results: round in place. Subnormal ones: adding 0.5 makes the float unit round at their last place.
  const VecU32 normal = (bits + 0xfffu + ((bits >> 13) & 1u) - 0x38000000u) >> 13;
  const VecU32 subnormal = reinterpret_cast<VecU32>(reinterpret_cast<VecF32>(bits) + 0.5f) - 0x3f000000u;
  VecU32 result = bits < 0x38800000u ? subnormal : normal;
  result = bits >= 0x47800000u ? VecU32{} + 0x7c00u : result;
  result = bits > 0x7f800000u ? VecU32{} + 0x7e00u : result;
  return NarrowTo16(result | sign);
#endif
}

MOED_ALWAYS_INLINE VecF32 Load(const float* p) { return LoadBits<VecF32>(p); }
MOED_ALWAYS_INLINE VecF32 Load(const BFloat16* p) { return BFloat16ToFloat(LoadBits<VecU16>(p)); }
MOED_ALWAYS_INLINE VecF32 Load(const Half* p) { return HalfToFloat(LoadBits<VecU16>(p)); }
MOED_ALWAYS_INLINE VecF32 Load(const int8_t* p) { return __builtin_convertvector(Widen(LoadBits<VecI8>(p)), VecF32); }

// Lanes from n on are 0.
MOED_ALWAYS_INLINE VecF32 LoadFirst(const float* p, int64_t n) {
#if defined(__AVX512F__)
  return reinterpret_cast<VecF32>(_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p));
#elif defined(__AVX2__)
  const VecI32 mask = Iota() < static_cast<int32_t>(n);
  return reinterpret_cast<VecF32>(_mm256_maskload_ps(p, reinterpret_cast<__m256i>(mask)));
#else
  return LoadBitsFirst<VecF32>(p, n);
#endif
}
MOED_ALWAYS_INLINE VecF32 LoadFirst(const BFloat16* p, int64_t n) {
  return BFloat16ToFloat(LoadBitsFirst<VecU16>(p, n));
}
MOED_ALWAYS_INLINE VecF32 LoadFirst(const Half* p, int64_t n) { return HalfToFloat(LoadBitsFirst<VecU16>(p, n)); }
MOED_ALWAYS_INLINE VecF32 LoadFirst(const int8_t* p, int64_t n) {
  return __builtin_convertvector(Widen(LoadBitsFirst<VecI8>(p, n)), VecF32);
}

MOED_ALWAYS_INLINE void Store(float* p, VecF32 v) { std::memcpy(p, &v, sizeof(v)); }
MOED_ALWAYS_INLINE void Store(BFloat16* p, VecF32 v) {
  const VecU16 bits = FloatToBFloat16(v);
  std::memcpy(p, &bits, sizeof(bits));
}
MOED_ALWAYS_INLINE void Store(Half* p, VecF32 v) {
  const VecU16 bits = FloatToHalf(v);
  std::memcpy(p, &bits, sizeof(bits));
}

MOED_ALWAYS_INLINE void StoreFirst(float* p, VecF32 v, int64_t n) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), reinterpret_cast<__m512>(v));
#elif defined(__AVX2__)
  const VecI32 mask = Iota() < static_cast<int32_t>(n);
  _mm256_maskstore_ps(p, reinterpret_cast<__m256i>(mask), reinterpret_cast<__m256>(v));
#else
  std::memcpy(p, &v, static_cast<size_t>(n) * sizeof(float));
#endif
}
MOED_ALWAYS_INLINE void StoreFirst(BFloat16* p, VecF32 v, int64_t n) {
  const VecU16 bits = FloatToBFloat16(v);
  std::memcpy(p, &bits, static_cast<size_t>(n) * sizeof(BFloat16));
}
MOED_ALWAYS_INLINE void StoreFirst(Half* p, VecF32 v, int64_t n) {
  const VecU16 bits = FloatToHalf(v);
  std::memcpy(p, &bits, static_cast<size_t>(n) * sizeof(Half));
}

// ----------------------------------------------------------------------------------------------------- arithmetic

// a * b + c, rounded once where the instruction set has it (all but x86 without FMA).
MOED_ALWAYS_INLINE VecF32 MulAdd(VecF32 a, VecF32 b, VecF32 c) {
#if defined(__AVX512F__)
  return reinterpret_cast<VecF32>(
      _mm512_fmadd_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), reinterpret_cast<__m512>(c)));
#elif defined(__FMA__)
  return reinterpret_cast<VecF32>(
      _mm256_fmadd_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b), reinterpret_cast<__m256>(c)));
#else
  return a * b + c;  // contracts where it can (-ffp-contract=fast)
#endif
}

// b where a is NaN.
MOED_ALWAYS_INLINE VecF32 Max(VecF32 a, VecF32 b) { return a > b ? a : b; }
MOED_ALWAYS_INLINE VecF32 Min(VecF32 a, VecF32 b) { return a < b ? a : b; }
MOED_ALWAYS_INLINE VecI32 Max(VecI32 a, VecI32 b) { return a > b ? a : b; }

namespace simd_internal {

// Folds the upper half of the lanes on the lower with `op` until one is left: a fixed tree.
template <typename T, typename Vec, typename Op>
MOED_ALWAYS_INLINE T Reduce(Vec v, const Op& op) {
  typedef T Vec4 __attribute__((vector_size(16)));
#if defined(__AVX512F__)
  typedef T Vec8 __attribute__((vector_size(32)));
  const Vec8 v8 = op(__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7),
                     __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15));
  Vec4 v4 = op(__builtin_shufflevector(v8, v8, 0, 1, 2, 3), __builtin_shufflevector(v8, v8, 4, 5, 6, 7));
#elif defined(__AVX2__)
  Vec4 v4 = op(__builtin_shufflevector(v, v, 0, 1, 2, 3), __builtin_shufflevector(v, v, 4, 5, 6, 7));
#else
  Vec4 v4 = v;
#endif
  v4 = op(v4, __builtin_shufflevector(v4, v4, 2, 3, 0, 1));
  v4 = op(v4, __builtin_shufflevector(v4, v4, 1, 0, 3, 2));
  return v4[0];
}

struct Add {
  template <typename V>
  MOED_ALWAYS_INLINE V operator()(V a, V b) const {
    return a + b;
  }
};
struct Maximum {
  template <typename V>
  MOED_ALWAYS_INLINE V operator()(V a, V b) const {
    return a > b ? a : b;
  }
};

}  // namespace simd_internal

// Over the lanes, in one fixed order.
MOED_ALWAYS_INLINE float ReduceSum(VecF32 v) { return simd_internal::Reduce<float>(v, simd_internal::Add()); }
MOED_ALWAYS_INLINE float ReduceMax(VecF32 v) { return simd_internal::Reduce<float>(v, simd_internal::Maximum()); }
MOED_ALWAYS_INLINE int32_t ReduceSum(VecI32 v) { return simd_internal::Reduce<int32_t>(v, simd_internal::Add()); }
MOED_ALWAYS_INLINE int32_t ReduceMax(VecI32 v) { return simd_internal::Reduce<int32_t>(v, simd_internal::Maximum()); }

// e^x within 2 ulp, subnormal results included; exact at 0, ±infinity; NaN stays NaN. With x = n ln2 + r,
// |r| <= ln2 / 2: e^r by a polynomial (Cephes' expf, Moshier 1989), times 2^n.
MOED_ALWAYS_INLINE VecF32 Exp(VecF32 x) {
  // Beyond these the result is 0 or infinity, and n would no longer fit.
  x = x < -104.0f ? Set(-104.0f) : x;
  x = x > 89.0f ? Set(89.0f) : x;
  // Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits.
  const VecF32 shifted = MulAdd(x, Set(1.44269504088896341f), Set(12582912.0f));
  const VecF32 n = shifted - 12582912.0f;
  // ln2 in two parts; n times the first is exact.
  VecF32 r = MulAdd(n, Set(-0.693359375f), x);
  r = MulAdd(n, Set(2.12194440e-4f), r);
  VecF32 p = Set(1.9875691500e-4f);
  p = MulAdd(p, r, Set(1.3981999507e-3f));
  p = MulAdd(p, r, Set(8.3334519073e-3f));
  p = MulAdd(p, r, Set(4.1665795894e-2f));
  p = MulAdd(p, r, Set(1.6666665459e-1f));
  p = MulAdd(p, r, Set(5.0000001201e-1f));
  p = MulAdd(p, r * r, r) + 1.0f;
#if defined(__AVX512F__)
  return reinterpret_cast<VecF32>(
      _mm512_maskz_scalef_ps(kAllLanes, reinterpret_cast<__m512>(p), reinterpret_cast<__m512>(n)));
#else
  // 2^n in two factors: n reaches from -150 to 128, farther than a float's exponent.
  const VecI32 exponent = reinterpret_cast<VecI32>(shifted) - 0x4b400000;
  const VecI32 half = exponent >> 1;
  const VecF32 first = reinterpret_cast<VecF32>((half + 127) << 23);
  const VecF32 second = reinterpret_cast<VecF32>((exponent - half + 127) << 23);
  return p * first * second;
#endif
}

// 1 / (1 + e^-x)
MOED_ALWAYS_INLINE VecF32 Sigmoid(VecF32 x) { return 1.0f / (1.0f + Exp(-x)); }
// x * sigmoid(x)
MOED_ALWAYS_INLINE VecF32 Silu(VecF32 x) { return x / (1.0f + Exp(-x)); }
// 0.5 x (1 + tanh(u)) with u = sqrt(2 / pi) (x + 0.044715 x^3), which is x * sigmoid(2 u).
MOED_ALWAYS_INLINE VecF32 GeluTanh(VecF32 x) {
  const VecF32 twice_u = 1.5957691216057308f * x * MulAdd(x * x, Set(0.044715f), Set(1.0f));
  return x / (1.0f + Exp(-twice_u));
}

// Asks for the cache line at p to be brought into the second-level cache.
MOED_ALWAYS_INLINE void PrefetchL2(const void* p) { __builtin_prefetch(p, 0, 2); }

}  // namespace moed::kernels::MOED_ISA

#endif  // KERNELS_COMMON_SIMD_H_
