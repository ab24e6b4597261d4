// The product of a few rows with weights of floats, which are small: a router. What counts is that many threads share
// the work, so a block takes only 8 outputs of a panel, and its warps and their lanes share out k. Sums are added in an
// order that hangs on k alone: a row's result does not depend on how many rows there are.
#ifndef KERNELS_GEMM_FLOAT_PRODUCT_CUDA_H_
#define KERNELS_GEMM_FLOAT_PRODUCT_CUDA_H_

#include "kernels/gemm/operands_cuda.h"

namespace moed::kernels {

// Lane l has inputs 4 (l / 2) .. + 3 of each of its warp's pieces of 64, and outputs 4 (l % 2) .. + 3.
template <int kRows>
struct FloatProduct {
  static_assert(kRows == 1 || kRows == 8);
  static constexpr int kWarps = 16;
  static constexpr int kOutputs = 8;
  static constexpr int kPiece = 64;
  static constexpr int kPiecesAtOnce = kRows == 1 ? 2 : 1;  // as the registers allow

  // [warps][rows][outputs]
  using Partials = float[kWarps][kRows][kOutputs];

  // The block's rows.
  struct Rows {
    const float* data;
    int64_t stride;
    int count;      // the rest are zeros
    bool in_fours;  // rows start at multiples of 16 bytes
  };

  static __device__ __forceinline__ float4 LoadInputs(const Rows& rows, int i, int first, int k) {
    if (i >= rows.count || first >= k) return make_float4(0, 0, 0, 0);
    const float* row = rows.data + i * rows.stride;
    if (rows.in_fours && first + 4 <= k) return LoadFour(row + first);
    return make_float4(row[first], first + 1 < k ? row[first + 1] : 0.0f, first + 2 < k ? row[first + 2] : 0.0f,
                       first + 3 < k ? row[first + 3] : 0.0f);
  }

  // The calling lane's sums[row * 4 + output] of its inputs. `weights` starts at the block's outputs in a panel.
  static __device__ __forceinline__ void AddPieces(const Rows& rows, const float* weights, int k,
                                                   float (&sums)[kRows * 4]) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int warp = static_cast<int>(threadIdx.x) / 32;
#pragma unroll kPiecesAtOnce
    for (int begin = warp * kPiece; begin < k; begin += kWarps * kPiece) {
      const int first = begin + lane / 2 * 4;
      float4 w[4];
      float4 x[kRows];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float* line = weights + static_cast<int64_t>(first + i) * kPanelOutputs + lane % 2 * 4;
        w[i] = first + i < k ? LoadFour(line) : make_float4(0, 0, 0, 0);
      }
#pragma unroll
      for (int row = 0; row < kRows; ++row) x[row] = LoadInputs(rows, row, first, k);
#pragma unroll
      for (int row = 0; row < kRows; ++row) {
        const float inputs[4] = {x[row].x, x[row].y, x[row].z, x[row].w};
        float* sum = sums + row * 4;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          sum[0] = fmaf(inputs[i], w[i].x, sum[0]);
          sum[1] = fmaf(inputs[i], w[i].y, sum[1]);
          sum[2] = fmaf(inputs[i], w[i].z, sum[2]);
          sum[3] = fmaf(inputs[i], w[i].w, sum[3]);
        }
      }
    }
  }

  // Adds the lanes of each parity. A step halves what a lane holds, as long as there is more than one row: its partner
  // takes the other half. In the end lane l has sums (l & 30) and (l & 30) + 1, or with one row all of them.
  static __device__ __forceinline__ void AddLanes(float (&sums)[kRows * 4]) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int distance = 16; distance >= 2; distance /= 2) {
      if constexpr (kRows == 1) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[i] += __shfl_xor_sync(kAllLanes, sums[i], distance);
      } else {
        const bool is_upper = (lane & distance) != 0;
#pragma unroll
        for (int i = 0; i < distance; ++i) {
          const float other = __shfl_xor_sync(kAllLanes, is_upper ? sums[i] : sums[i + distance], distance);
          sums[i] = (is_upper ? sums[i + distance] : sums[i]) + other;
        }
      }
    }
  }

  // All of the block's work; out(row, output, value) is called for each result.
  template <typename Out>
  static __device__ __forceinline__ void Run(const Rows& rows, const float* weights, int k, Partials& partials,
                                             const Out& out) {
    const int thread = static_cast<int>(threadIdx.x);
    const int lane = thread % 32;
    float sums[kRows * 4] = {};
    AddPieces(rows, weights, k, sums);
    AddLanes(sums);
    float* own = partials[thread / 32][0];
    if constexpr (kRows == 1) {
      if (lane < 2) StoreFour(own + lane * 4, make_float4(sums[0], sums[1], sums[2], sums[3]));
    } else {
      const int first = lane & 30;
      float* to = own + first / 4 * kOutputs + lane % 2 * 4 + first % 4;
      to[0] = sums[0];
      to[1] = sums[1];
    }
    __syncthreads();
    if (thread < kRows * kOutputs) {
      float sum = 0.0f;
#pragma unroll
      for (int warp = 0; warp < kWarps; ++warp) sum += partials[warp][thread / kOutputs][thread % kOutputs];
      out(thread / kOutputs, thread % kOutputs, sum);
    }
  }
};

}  // namespace moed::kernels

#endif  // KERNELS_GEMM_FLOAT_PRODUCT_CUDA_H_
