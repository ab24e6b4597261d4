// Pages of integers on the tensor cores: keys and values go from shared memory to registers as bytes, and become bf16
// there, which has all 8-bit integers. Their scales, one a position and KV head, count where there is one number a
// position: a key's multiplies the scores, a value's the weight.
//
// ldmatrix moves pairs of bytes as if they were one element of 16 bits, so that a lane gets four neighbouring bytes of
// a key, where the product wants two pairs eight apart, and of values two neighbouring dimensions, where it wants one.
// So queries lie in shared memory in the order in which keys come (PlaceOfQuery), and the results' dimensions in the
// one in which values come: of 16 the even ones first.
#ifndef KERNELS_PAGED_ATTENTION_FLASH_INTEGERS_CUDA_H_
#define KERNELS_PAGED_ATTENTION_FLASH_INTEGERS_CUDA_H_

#include "kernels/paged_attention/flash_tile_cuda.h"

namespace moed::kernels::flash {

// Which bytes of a word: selectors of __byte_perm, of zeros above each.
enum BytePair : unsigned { kFirstTwo = 0x4140, kLastTwo = 0x4342, kEven = 0x4240, kOdd = 0x4341 };

// Two bytes of a word, as integers with a sign, as a pair of bf16.
template <BytePair kBytes>
__device__ __forceinline__ unsigned ToBf16(unsigned word) {
  const unsigned bytes = __byte_perm(word, 0, kBytes);
  // The lower 7 bits beside 0x43 are 128 more than they say, and what their sign says to take away, 128 or 256, is the
  // sign's bit beside 0x43.
  constexpr unsigned kExponents = 0x43004300u;
  return ptx::SubtractBf16((bytes & 0x007f007fu) | kExponents, (bytes & 0x00800080u) | kExponents);
}

// The products of a warp's rows with 8 kScoreTiles positions, without scales. `query` is the warp's first row and
// `keys` its first position, rows kQueryStride elements and kKeyStride bytes apart.
template <int kHeadDim, int kQueryStride, int kKeyStride, int kRowTiles, int kScoreTiles>
__device__ __forceinline__ void ScoresOfIntegers(const BFloat16* query, const int8_t* keys,
                                                 Scores<kRowTiles, kScoreTiles>& scores) {
  static_assert(kHeadDim % 32 == 0 && kKeyStride % 16 == 0);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const BFloat16* const queries = query + lane % 16 * kQueryStride + lane / 16 * 8;
  // Matrices: positions 0 .. 7 and 8 .. 15 of 16 dimensions, then of the next 16.
  const int8_t* const key = keys + lane % 16 * kKeyStride + lane / 16 * 16;
#pragma unroll
  for (int d = 0; d < kHeadDim; d += 32) {
    unsigned q[2][kRowTiles][4];
#pragma unroll
    for (int step = 0; step < 2; ++step) {
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) {
        ptx::LdMatrix<4, false>(q[step][i], queries + i * 16 * kQueryStride + d + step * 16);
      }
    }
#pragma unroll
    for (int n = 0; n < kScoreTiles; n += 2) {
      unsigned k[4];
      ptx::LdMatrix<4, false>(k, key + n * 8 * kKeyStride + d);
#pragma unroll
      for (int step = 0; step < 2; ++step) {
#pragma unroll
        for (int tile = 0; tile < 2; ++tile) {
          const unsigned word = k[step * 2 + tile];
          const unsigned b[2] = {ToBf16<kFirstTwo>(word), ToBf16<kLastTwo>(word)};
#pragma unroll
          for (int i = 0; i < kRowTiles; ++i) ptx::MmaBf16(scores[i][n + tile], q[step][i], b);
        }
      }
    }
  }
}

// Each score times the scale of its position, of the warp's first one on.
template <int kRowTiles, int kScoreTiles>
__device__ __forceinline__ void ScaleByPosition(const float* scales, Scores<kRowTiles, kScoreTiles>& scores) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int n = 0; n < kScoreTiles; ++n) {
    const float2 pair = *reinterpret_cast<const float2*>(scales + n * 8 + lane % 4 * 2);
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
      scores[i][n][0] *= pair.x;
      scores[i][n][1] *= pair.y;
      scores[i][n][2] *= pair.x;
      scores[i][n][3] *= pair.y;
    }
  }
}

// Adds the weighted rows of `from`, which are kStride bytes apart, to `sums`; weights have their scales. Of 16
// dimensions the even ones go to one tile and the odd ones to the next, until SortIntegerValues.
template <int kStride, int kRowTiles, int kScoreTiles, int kValueTiles>
__device__ __forceinline__ void AddIntegerValues(const int8_t* from, const Scores<kRowTiles, kScoreTiles>& weights,
                                                 RowSums<kRowTiles, kValueTiles>& sums) {
  static_assert(kValueTiles % 4 == 0 && kStride % 16 == 0);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int8_t* const value = from + lane % 16 * kStride + lane / 16 * 16;
#pragma unroll
  for (int n = 0; n < kScoreTiles; n += 2) {
    unsigned a[kRowTiles][4];
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) PackWeights<BFloat16>(weights[i], n, a[i]);
#pragma unroll
    for (int d = 0; d < kValueTiles; d += 4) {
      unsigned v[4];
      ptx::LdMatrix<4, true>(v, value + n * 8 * kStride + d * 8);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const unsigned lower = v[half * 2], upper = v[half * 2 + 1];
        const unsigned even[2] = {ToBf16<kEven>(lower), ToBf16<kEven>(upper)};
        const unsigned odd[2] = {ToBf16<kOdd>(lower), ToBf16<kOdd>(upper)};
#pragma unroll
        for (int i = 0; i < kRowTiles; ++i) {
          ptx::MmaBf16(sums.values[i][d + half * 2], a[i], even);
          ptx::MmaBf16(sums.values[i][d + half * 2 + 1], a[i], odd);
        }
      }
    }
  }
}

// Puts pairs of neighbouring dimensions together: lane l then has of each 16 the dimensions 4 (l % 4) and the next in
// one tile, and the two after these in the next tile.
template <int kRowTiles, int kValueTiles>
__device__ __forceinline__ void SortIntegerValues(RowSums<kRowTiles, kValueTiles>& sums) {
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
    for (int n = 0; n < kValueTiles; n += 2) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float next = sums.values[i][n][half * 2 + 1];
        sums.values[i][n][half * 2 + 1] = sums.values[i][n + 1][half * 2];
        sums.values[i][n + 1][half * 2] = next;
      }
    }
  }
}

}  // namespace moed::kernels::flash

#endif  // KERNELS_PAGED_ATTENTION_FLASH_INTEGERS_CUDA_H_
