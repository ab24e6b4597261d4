// The instructions beyond AVX2 that the CPU bodies use, by AVX2 and plain C++: included before the bodies' own text
// (-include), so that they can be compared with their references on a machine that lacks them.
#ifndef TESTS_SUPPORT_ISA_EMULATION_H_
#define TESTS_SUPPORT_ISA_EMULATION_H_

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#define MOED_EMULATED_ISA 1
#if defined(MOED_ISA_avx_vnni)
#define __AVXVNNI__ 1
#else
#define __AVX512F__ 1
#endif
#if defined(MOED_ISA_avx512_vnni) || defined(MOED_ISA_avx512_bf16) || defined(MOED_ISA_amx)
#define __AVX512VNNI__ 1
#endif
#if defined(MOED_ISA_avx512_bf16) || defined(MOED_ISA_amx)
#define __AVX512BF16__ 1
#endif
#if defined(MOED_ISA_amx)
#define __AMX_TILE__ 1
#endif

// In a namespace of the instruction set, as the bodies are, so that none takes another's copy.
namespace moed_emulation {
inline namespace MOED_ISA {

// 64 bytes as two halves or as elements.
union Bits {
  __m512 ps;
  __m512i i;
  __m256 half_ps[2];
  __m256i half_i[2];
  float f32[16];
  int32_t i32[16];
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

MOED_EMULATED __m512i maskz_cvtepu16_epi32(__mmask16 /*all*/, __m256i v) {
  Bits r;
  r.half_i[0] = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(v));
  r.half_i[1] = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(v, 1));
  return r.i;
}
MOED_EMULATED __m512i maskz_cvtepi8_epi32(__mmask16 /*all*/, __m128i v) {
  Bits r;
  r.half_i[0] = _mm256_cvtepi8_epi32(v);
  r.half_i[1] = _mm256_cvtepi8_epi32(_mm_srli_si128(v, 8));
  return r.i;
}
template <typename Vec, typename Lane>
MOED_EMULATED Vec Truncate(__m512i v) {
  const Bits x = {.i = v};
  Lane lanes[16];
  for (int i = 0; i < 16; ++i) lanes[i] = static_cast<Lane>(x.i32[i]);
  Vec result;
  static_assert(sizeof(result) == sizeof(lanes));
  std::memcpy(&result, lanes, sizeof(result));
  return result;
}
MOED_EMULATED __m256i maskz_cvtepi32_epi16(__mmask16 /*all*/, __m512i v) { return Truncate<__m256i, int16_t>(v); }
MOED_EMULATED __m128i maskz_cvtepi32_epi8(__mmask16 /*all*/, __m512i v) { return Truncate<__m128i, int8_t>(v); }

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

// sums + the products of a lane's four bytes without and four with sign (vpdpbusd).
template <typename Sums, typename Bytes>
MOED_EMULATED Sums ByteDots(Sums sums, Bytes without_sign, Bytes with_sign) {
  uint8_t u[sizeof(Bytes)];
  int8_t s[sizeof(Bytes)];
  std::memcpy(u, &without_sign, sizeof(u));
  std::memcpy(s, &with_sign, sizeof(s));
  for (size_t i = 0; i < sizeof(Bytes); ++i) sums[i / 4] += u[i] * s[i];
  return sums;
}

// What the bf16 instructions make of a subnormal number.
MOED_EMULATED float Flush(float x) { return std::abs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }
MOED_EMULATED float FromBf16(uint32_t bits) {
  float x;
  bits <<= 16;
  std::memcpy(&x, &bits, sizeof(x));
  return Flush(x);
}
MOED_EMULATED float AddProduct(float sum, uint32_t a, uint32_t b) {
  return Flush(std::fma(FromBf16(a), FromBf16(b), Flush(sum)));
}

// sums + the products of a lane's two bf16, the upper ones' first (vdpbf16ps).
template <typename Sums, typename Pairs>
MOED_EMULATED Sums Bf16Dots(Sums sums, Pairs a, Pairs b) {
  for (size_t i = 0; i < sizeof(Sums) / sizeof(float); ++i) {
    const float odd = AddProduct(sums[i], a[i] >> 16, b[i] >> 16);
    sums[i] = AddProduct(odd, a[i] & 0xffff, b[i] & 0xffff);
  }
  return sums;
}

#if defined(__AMX_TILE__)

struct TileRegister {
  int rows = 0, row_bytes = 0;  // 0: not configured
  union Row {
    uint8_t u8[64];
    int8_t i8[64];
    int32_t i32[16];
    uint16_t bf16[32];
    float f32[16];
  } row[16] = {};
};
inline thread_local TileRegister tile_registers[8];

// Where the processor would fault.
MOED_EMULATED TileRegister& Configured(int tile) {
  if (tile_registers[tile].rows == 0) std::abort();
  return tile_registers[tile];
}

inline void TileLoadConfig(const void* configuration) {
  uint8_t bytes[64];
  std::memcpy(bytes, configuration, sizeof(bytes));
  if (bytes[0] != 1 || bytes[1] != 0) std::abort();
  for (int i = 2; i < 16; ++i) {
    if (bytes[i] != 0) std::abort();
  }
  for (int tile = 0; tile < 8; ++tile) {
    const int rows = bytes[48 + tile], row_bytes = bytes[16 + 2 * tile] | bytes[17 + 2 * tile] << 8;
    if (rows > 16 || row_bytes > 64 || (rows == 0) != (row_bytes == 0)) std::abort();
    tile_registers[tile] = {.rows = rows, .row_bytes = row_bytes};
  }
}

inline void TileRelease() {
  for (TileRegister& tile : tile_registers) tile = {};
}

inline void TileZero(int to) {
  TileRegister& tile = Configured(to);
  tile = {.rows = tile.rows, .row_bytes = tile.row_bytes};
}

inline void TileLoad(int to, const void* from, int64_t stride) {
  TileZero(to);
  TileRegister& tile = tile_registers[to];
  for (int row = 0; row < tile.rows; ++row) {
    std::memcpy(&tile.row[row], static_cast<const char*>(from) + row * stride, static_cast<size_t>(tile.row_bytes));
  }
}

inline void TileStore(int from, void* to, int64_t stride) {
  const TileRegister& tile = Configured(from);
  for (int row = 0; row < tile.rows; ++row) {
    std::memcpy(static_cast<char*>(to) + row * stride, &tile.row[row], static_cast<size_t>(tile.row_bytes));
  }
}

inline void CheckShapes(const TileRegister& sums, const TileRegister& a, const TileRegister& b) {
  if (a.rows != sums.rows || a.row_bytes != b.rows * 4 || b.row_bytes != sums.row_bytes) std::abort();
}

// Bytes with sign times bytes without (tdpbsud).
inline void TileByteDots(int to, int with_sign, int without_sign) {
  TileRegister& sums = Configured(to);
  const TileRegister &a = Configured(with_sign), &b = Configured(without_sign);
  CheckShapes(sums, a, b);
  for (int m = 0; m < sums.rows; ++m) {
    for (int k = 0; k < a.row_bytes; ++k) {
      for (int n = 0; n < sums.row_bytes / 4; ++n) {
        sums.row[m].i32[n] += a.row[m].i8[k] * b.row[k / 4].u8[4 * n + k % 4];
      }
    }
  }
}

// Even and odd products apart, then their sum to the old one (tdpbf16ps).
inline void TileBf16Dots(int to, int first, int second) {
  TileRegister& sums = Configured(to);
  const TileRegister &a = Configured(first), &b = Configured(second);
  CheckShapes(sums, a, b);
  for (int m = 0; m < sums.rows; ++m) {
    for (int n = 0; n < sums.row_bytes / 4; ++n) {
      float even = 0, odd = 0;
      for (int k = 0; k < b.rows; ++k) {
        even = AddProduct(even, a.row[m].bf16[2 * k], b.row[k].bf16[2 * n]);
        odd = AddProduct(odd, a.row[m].bf16[2 * k + 1], b.row[k].bf16[2 * n + 1]);
      }
      sums.row[m].f32[n] = Flush(Flush(sums.row[m].f32[n]) + Flush(even + odd));
    }
  }
}

#endif  // __AMX_TILE__

#undef MOED_EMULATED

}  // namespace MOED_ISA
}  // namespace moed_emulation

#define _mm512_set1_ps moed_emulation::set1_ps
#define _mm512_fmadd_ps moed_emulation::fmadd_ps
#define _mm512_maskz_loadu_ps moed_emulation::maskz_loadu_ps
#define _mm512_mask_storeu_ps moed_emulation::mask_storeu_ps
#define _mm512_maskz_cvtph_ps moed_emulation::maskz_cvtph_ps
#define _mm512_maskz_cvtps_ph moed_emulation::maskz_cvtps_ph
#define _mm512_maskz_scalef_ps moed_emulation::maskz_scalef_ps
#define _mm512_maskz_cvtepu16_epi32 moed_emulation::maskz_cvtepu16_epi32
#define _mm512_maskz_cvtepi8_epi32 moed_emulation::maskz_cvtepi8_epi32
#define _mm512_maskz_cvtepi32_epi16 moed_emulation::maskz_cvtepi32_epi16
#define _mm512_maskz_cvtepi32_epi8 moed_emulation::maskz_cvtepi32_epi8
#define _mm512_cvtepu8_epi16 moed_emulation::cvtepu8_epi16
#define _mm512_madd_epi16 moed_emulation::madd_epi16
#define _mm512_maddubs_epi16 moed_emulation::maddubs_epi16

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbsud
#undef _tile_dpbf16ps
#define _tile_loadconfig moed_emulation::TileLoadConfig
#define _tile_release moed_emulation::TileRelease
#define _tile_zero moed_emulation::TileZero
#define _tile_loadd moed_emulation::TileLoad
#define _tile_stored moed_emulation::TileStore
#define _tile_dpbsud moed_emulation::TileByteDots
#define _tile_dpbf16ps moed_emulation::TileBf16Dots

#endif  // TESTS_SUPPORT_ISA_EMULATION_H_
