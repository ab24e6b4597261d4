// The product of a few rows with one panel of a weight, bound by the bandwidth at which the panel comes: each warp
// takes every so many groups of k straight from memory to its registers, all 1024 bytes of a step in two loads, and the
// warps' sums are added in their order at the end. A row's result does not depend on how many rows there are.
#ifndef KERNELS_GEMM_SKINNY_PRODUCT_CUDA_H_
#define KERNELS_GEMM_SKINNY_PRODUCT_CUDA_H_

#include "kernels/gemm/operands_cuda.h"

namespace moed::kernels {

// Rows [rows][kOutputStride] of a warp's sums; the padding spreads rows over the banks of the shared memory.
constexpr int kOutputStride = kPanelOutputs + 4;
constexpr int kRowsPerTile = 8;

namespace skinny {

// Steps whose loads are under way together.
constexpr int kStepsAtOnce = 4;

__device__ __forceinline__ uint4 LoadQuad(const char* line) { return *reinterpret_cast<const uint4*>(line); }

// Steps [begin, begin + kStepsAtOnce) of a group, as far as it has them: sums[tile of rows][half of the quad].
template <typename Words, int kTiles>
__device__ __forceinline__ void AddSteps(const char* lines, int num_lines, int steps_per_group, int begin,
                                         const char* const (&rows)[kTiles], typename Words::Sum (&sums)[kTiles][2][4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int member = lane % 4;
  uint4 quads[kStepsAtOnce][2];
  uint2 x[kStepsAtOnce][kTiles];
#pragma unroll
  for (int i = 0; i < kStepsAtOnce; ++i) {
#pragma unroll
    for (int j = 0; j < kLinesPerLane<Words>; ++j) {
      const int line = (begin + i) * Words::kLinesPerStep + member * kLinesPerLane<Words> + j;
      quads[i][j] = line < num_lines ? LoadQuad(lines + line * kLineBytes + lane / 4 * 16) : make_uint4(0, 0, 0, 0);
    }
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const bool valid = rows[tile] != nullptr && begin + i < steps_per_group;
      const char* words = rows[tile] + (begin + i) * kStepBytes + member * 8;
      x[i][tile] = valid ? *reinterpret_cast<const uint2*>(words) : make_uint2(0, 0);
    }
  }
#pragma unroll
  for (int i = 0; i < kStepsAtOnce; ++i) {
    uint4 words[2];
    Words::Unpack(quads[i], words);
    const unsigned lower[4] = {words[0].x, words[0].y, words[1].x, words[1].y};
    const unsigned upper[4] = {words[0].z, words[0].w, words[1].z, words[1].w};
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const unsigned row_words[2] = {x[i][tile].x, x[i][tile].y};
      Words::Multiply(sums[tile][0], lower, row_words);
      Words::Multiply(sums[tile][1], upper, row_words);
    }
  }
}

// A lane's sums to partial[row][output]: outputs 4 (lane / 4) .. + 3 of rows 2 member and 2 member + 1 of each tile.
template <int kTiles>
__device__ __forceinline__ void StoreSums(const float (&sums)[kTiles][2][4], float* partial) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = tile * kRowsPerTile + lane % 4 * 2 + i;
      const float4 quad = make_float4(sums[tile][0][i], sums[tile][0][2 + i], sums[tile][1][i], sums[tile][1][2 + i]);
      *reinterpret_cast<float4*>(partial + row * kOutputStride + lane / 4 * 4) = quad;
    }
  }
}

}  // namespace skinny

// The calling warp's part of the product of 8 kTiles rows with `panel`: groups first_group, first_group + group_step, …
// goes to partial[8 kTiles][kOutputStride]. row_of(i) is the place of row i in `x`, or -1 for a row of zeros.
template <typename Words, int kTiles, typename RowOf>
__device__ __forceinline__ void SkinnyProduct(const OperandRows& x, const RowOf& row_of, const char* panel,
                                              const PanelLayout& layout, int first_group, int group_step,
                                              float* partial) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const char* rows[kTiles];
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    const int row = row_of(tile * kRowsPerTile + lane / 4);
    rows[tile] = row < 0 ? nullptr : x.data + row * x.row_bytes;
  }
  float sums[kTiles][2][4] = {};
  for (int group = first_group; group < layout.num_groups; group += group_step) {
    const char* lines = panel + group * layout.group_bytes;
    const int num_lines = layout.LinesOf(group);
    const char* group_rows[kTiles];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const int64_t offset = static_cast<int64_t>(group) * layout.steps_per_group * kStepBytes;
      group_rows[tile] = rows[tile] == nullptr ? nullptr : rows[tile] + offset;
    }
    if constexpr (!Words::kIsInteger) {
      skinny::AddSteps<Words, kTiles>(lines, num_lines, layout.steps_per_group, 0, group_rows, sums);
    } else {
      int products[kTiles][2][4] = {};
      for (int step = 0; step < layout.steps_per_group; step += skinny::kStepsAtOnce) {
        skinny::AddSteps<Words, kTiles>(lines, num_lines, layout.steps_per_group, step, group_rows, products);
      }
      float weight_scales[4];
      LoadWeightScales(panel, layout, group, lane / 4 * 4, weight_scales);
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int row = row_of(tile * kRowsPerTile + lane % 4 * 2 + i);
          const float row_scale = row < 0 ? 0.0f : x.scales[row * x.row_scales + group];
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            float* sum = sums[tile][half];
            const int* product = products[tile][half];
            sum[i] += static_cast<float>(product[i]) * (weight_scales[2 * half] * row_scale);
            sum[2 + i] += static_cast<float>(product[2 + i]) * (weight_scales[2 * half + 1] * row_scale);
          }
        }
      }
    }
  }
  skinny::StoreSums<kTiles>(sums, partial);
}

// The same for weights of floats: `first_group` and `group_step` count pieces of 32 inputs, and `partial` holds the
// warp's piece of the rows meanwhile. A lane has an output.
template <int kTiles, typename RowOf>
__device__ __forceinline__ void SkinnyFloatProduct(const OperandRows& x, const RowOf& row_of, const char* panel, int k,
                                                   int first_piece, int piece_step, float* partial) {
  constexpr int kRows = kTiles * kRowsPerTile;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float sums[kRows] = {};
  for (int begin = first_piece * 32; begin < k; begin += piece_step * 32) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int row = row_of(i);
      const bool valid = row >= 0 && begin + lane < k;
      partial[i * kOutputStride + lane] =
          valid ? reinterpret_cast<const float*>(x.data + row * x.row_bytes)[begin + lane] : 0.0f;
    }
    __syncwarp();
    const float* weights = reinterpret_cast<const float*>(panel) + static_cast<int64_t>(begin) * kPanelOutputs + lane;
#pragma unroll
    for (int i = 0; i < 32; i += 4) {
      float w[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) w[j] = begin + i + j < k ? weights[(i + j) * kPanelOutputs] : 0.0f;
#pragma unroll
      for (int row = 0; row < kRows; ++row) {
        const float4 values = *reinterpret_cast<const float4*>(partial + row * kOutputStride + i);
        sums[row] = fmaf(values.x, w[0], sums[row]);
        sums[row] = fmaf(values.y, w[1], sums[row]);
        sums[row] = fmaf(values.z, w[2], sums[row]);
        sums[row] = fmaf(values.w, w[3], sums[row]);
      }
    }
    __syncwarp();
  }
#pragma unroll
  for (int row = 0; row < kRows; ++row) partial[row * kOutputStride + lane] = sums[row];
}

// Either of the two; a group of `layout` or a piece of 32 inputs is what the warps share out.
template <typename Words, int kTiles, typename RowOf>
__device__ __forceinline__ void SkinnyPart(const OperandRows& x, const RowOf& row_of, const char* panel,
                                           const PanelLayout& layout, int k, int part, int num_parts, float* partial) {
  if constexpr (requires { Words::kIsInteger; }) {
    SkinnyProduct<Words, kTiles>(x, row_of, panel, layout, part, num_parts, partial);
  } else {
    SkinnyFloatProduct<kTiles>(x, row_of, panel, k, part, num_parts, partial);
  }
}

// Element `i` of the block's results [8 kTiles][kPanelOutputs], of which `count` warps have partial sums from
// `partials` on, each [8 kTiles][kOutputStride].
template <int kTiles>
__device__ __forceinline__ float SumOfParts(const float* partials, int count, int row, int output) {
  float sum = 0.0f;
  for (int warp = 0; warp < count; ++warp) {
    sum += partials[(warp * kTiles * kRowsPerTile + row) * kOutputStride + output];
  }
  return sum;
}

}  // namespace moed::kernels

#endif  // KERNELS_GEMM_SKINNY_PRODUCT_CUDA_H_
