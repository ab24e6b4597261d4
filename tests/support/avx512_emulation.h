// The AVX-512 intrinsics that the CPU bodies use, by AVX2 and plain C++: included before the bodies' own text
// (-include), so that they can be compared with their references on a machine that lacks AVX-512.
#ifndef TESTS_SUPPORT_AVX512_EMULATION_H_
#define TESTS_SUPPORT_AVX512_EMULATION_H_

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#define __AVX512F__ 1
#if defined(MOED_ISA_avx512_vnni)
#define __AVX512VNNI__ 1
#endif
#define MOED_EMULATED_ISA 1

// 64 bytes as two halves or as elements.
namespace moed_emulation {

union Bits {
  __m512 ps;
  __m512i i;
  __m256 half_ps[2];
  __m256i half_i[2];
  __m128i quarter_i[4];
  float f32[16];
  int32_t i32[16];
  uint8_t u8[64];
  int8_t i8[64];
};

#define MOED_EMULATED [[gnu::always_inline]] inline

MOED_EMULATED __m512 set1_ps(float value) {
  Bits r;
  for (float& lane : r.f32) lane = value;
  return r.ps;
}

MOED_EMULATED __m512 fmadd_ps(__m512 a, __m512 b, __m512 c) {
  Bits x = {.ps = a}, y = {.ps = b}, z = {.ps = c}, r;
  for (int i = 0; i < 2; ++i) r.half_ps[i] = _mm256_fmadd_ps(x.half_ps[i], y.half_ps[i], z.half_ps[i]);
  return r.ps;
}

// The callers' masks have all lanes set, or the first ones.
MOED_EMULATED __m512 maskz_loadu_ps(__mmask16 mask, const void* p) {
  Bits r = {.i = __m512i{}};
  for (int i = 0; i < 16; ++i) {
    if (mask >> i & 1) std::memcpy(&r.f32[i], static_cast<const float*>(p) + i, sizeof(float));
  }
  return r.ps;
}
MOED_EMULATED void mask_storeu_ps(void* p, __mmask16 mask, __m512 v) {
  const Bits x = {.ps = v};
  for (int i = 0; i < 16; ++i) {
    if (mask >> i & 1) std::memcpy(static_cast<float*>(p) + i, &x.f32[i], sizeof(float));
  }
}

MOED_EMULATED __m512 maskz_cvtph_ps(__mmask16 /*all*/, __m256i v) {
  Bits r;
  r.half_ps[0] = _mm256_cvtph_ps(_mm256_castsi256_si128(v));
  r.half_ps[1] = _mm256_cvtph_ps(_mm256_extracti128_si256(v, 1));
  return r.ps;
}
MOED_EMULATED __m256i maskz_cvtps_ph(__mmask16 /*all*/, __m512 v, int /*to nearest*/) {
  const Bits x = {.ps = v};
  return _mm256_set_m128i(_mm256_cvtps_ph(x.half_ps[1], _MM_FROUND_TO_NEAREST_INT),
                          _mm256_cvtps_ph(x.half_ps[0], _MM_FROUND_TO_NEAREST_INT));
}

// a * 2^floor(b)
MOED_EMULATED __m512 maskz_scalef_ps(__mmask16 /*all*/, __m512 a, __m512 b) {
  Bits x = {.ps = a}, y = {.ps = b};
  for (int i = 0; i < 16; ++i) {
    x.f32[i] = std::isnan(y.f32[i]) ? y.f32[i] : std::scalbn(x.f32[i], static_cast<int>(std::floor(y.f32[i])));
  }
  return x.ps;
}

MOED_EMULATED __m512i cvtepu8_epi16(__m256i v) {
  Bits r;
  r.half_i[0] = _mm256_cvtepu8_epi16(_mm256_castsi256_si128(v));
  r.half_i[1] = _mm256_cvtepu8_epi16(_mm256_extracti128_si256(v, 1));
  return r.i;
}
MOED_EMULATED __m512i madd_epi16(__m512i a, __m512i b) {
  Bits x = {.i = a}, y = {.i = b}, r;
  for (int i = 0; i < 2; ++i) r.half_i[i] = _mm256_madd_epi16(x.half_i[i], y.half_i[i]);
  return r.i;
}
MOED_EMULATED __m512i maddubs_epi16(__m512i a, __m512i b) {
  Bits x = {.i = a}, y = {.i = b}, r;
  for (int i = 0; i < 2; ++i) r.half_i[i] = _mm256_maddubs_epi16(x.half_i[i], y.half_i[i]);
  return r.i;
}
// sums + the products of four bytes without and four with sign
MOED_EMULATED __m512i dpbusd_epi32(__m512i sums, __m512i u, __m512i s) {
  Bits x = {.i = sums};
  const Bits y = {.i = u}, z = {.i = s};
  for (int i = 0; i < 64; ++i) x.i32[i / 4] += y.u8[i] * z.i8[i];
  return x.i;
}

#undef MOED_EMULATED

}  // namespace moed_emulation

#define _mm512_set1_ps moed_emulation::set1_ps
#define _mm512_fmadd_ps moed_emulation::fmadd_ps
#define _mm512_maskz_loadu_ps moed_emulation::maskz_loadu_ps
#define _mm512_mask_storeu_ps moed_emulation::mask_storeu_ps
#define _mm512_maskz_cvtph_ps moed_emulation::maskz_cvtph_ps
#define _mm512_maskz_cvtps_ph moed_emulation::maskz_cvtps_ph
#define _mm512_maskz_scalef_ps moed_emulation::maskz_scalef_ps
#define _mm512_cvtepu8_epi16 moed_emulation::cvtepu8_epi16
#define _mm512_madd_epi16 moed_emulation::madd_epi16
#define _mm512_maddubs_epi16 moed_emulation::maddubs_epi16
#define _mm512_dpbusd_epi32 moed_emulation::dpbusd_epi32

#endif  // TESTS_SUPPORT_AVX512_EMULATION_H_
