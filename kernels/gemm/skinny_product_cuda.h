// The product of a few rows with one panel of a weight, bound by the bandwidth at which the panel comes: each warp
// takes every so many groups of k straight from memory to its registers, all 1024 bytes of a step in two loads, and the
// warps' sums are added in their order at the end. A row's result does not depend on how many rows there are.
#ifndef KERNELS_GEMM_SKINNY_PRODUCT_CUDA_H_
#define KERNELS_GEMM_SKINNY_PRODUCT_CUDA_H_

#include <type_traits>

#include "kernels/gemm/operands_cuda.h"

namespace moed::kernels {

// Rows [rows][kOutputStride] of a warp's sums; the padding spreads rows over the banks of the shared memory.
constexpr int kOutputStride = kPanelOutputs + 4;
constexpr int kRowsPerTile = 8;
// Blocks of 256 threads that an SM is to have room for at least; sums of integers need more registers.
template <typename Words, int kTiles>
constexpr int kSkinnyBlocks = !std::is_base_of_v<Bf16Words, Words> ? 1
                              : kTiles == 1                        ? 3
                                                                   : 2;

namespace skinny {

// What lies at p, or zeros.
template <typename T>
__device__ __forceinline__ T LoadIf(bool valid, const void* p) {
  return valid ? *static_cast<const T*>(p) : T{};
}

// The two words of a row that a lane has in a step.
__device__ __forceinline__ uint2 AsWords(const uint2& words) { return words; }
__device__ __forceinline__ uint2 AsWords(const float4& floats) {
  return make_uint2(PackBf16(floats.x, floats.y), PackBf16(floats.z, floats.w));
}

// Steps of a group whose loads are under way together: all of them are started before the first product waits.
template <typename Words, int kTiles>
struct Steps {
  static constexpr int kCount = kTiles > 2 ? 2 : 4;  // as the registers allow
  static constexpr int kRowStepBytes = kStepBytes * (Words::kRowsAreFloats ? 2 : 1);
  using RowWords = std::conditional_t<Words::kRowsAreFloats, float4, uint2>;

  uint4 quads[kCount][2];
  RowWords x[kCount][kTiles];

  // Steps [begin, begin + kCount) as far as the group has them.
  __device__ __forceinline__ void LoadWeights(const char* lines, int num_lines, int begin) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
#pragma unroll
      for (int j = 0; j < kLinesPerLane<Words>; ++j) {
        const int line = (begin + i) * Words::kLinesPerStep + lane % 4 * kLinesPerLane<Words> + j;
        quads[i][j] = LoadIf<uint4>(line < num_lines, lines + line * kLineBytes + lane / 4 * 16);
      }
    }
  }

  // `inputs` is how many the rows have from the group's first on.
  __device__ __forceinline__ void LoadRows(const char* const (&rows)[kTiles], int steps_per_group, int inputs,
                                           int begin) {
    const int member = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        const int step = begin + i;
        const bool valid =
            Words::kRowsAreFloats ? step * (kStepBytes / 2) + member * 4 < inputs : step < steps_per_group;
        const char* words = rows[tile] + step * kRowStepBytes + member * static_cast<int>(sizeof(RowWords));
        x[i][tile] = LoadIf<RowWords>(valid && rows[tile] != nullptr, words);
      }
    }
  }

  // sums[tile of rows][half of the quad]
  __device__ __forceinline__ void Multiply(typename Words::Sum (&sums)[kTiles][2][4]) const {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      uint4 words[2];
      Words::Unpack(quads[i], words);
      const unsigned lower[4] = {words[0].x, words[0].y, words[1].x, words[1].y};
      const unsigned upper[4] = {words[0].z, words[0].w, words[1].z, words[1].w};
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        const uint2 own = AsWords(x[i][tile]);
        const unsigned row_words[2] = {own.x, own.y};
        Words::Multiply(sums[tile][0], lower, row_words);
        Words::Multiply(sums[tile][1], upper, row_words);
      }
    }
  }
};

// The scales of a group of integers: of a lane's four outputs, and of the rows whose sums it has.
template <int kTiles>
struct GroupScales {
  uint2 weights;  // halves
  float rows[kTiles][2];

  __device__ __forceinline__ void Load(const char* place, const OperandRows& x, int group,
                                       const int (&places)[kTiles][2]) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    weights = *reinterpret_cast<const uint2*>(place + lane / 4 * 8);
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int row = places[tile][i];
        rows[tile][i] = LoadIf<float>(row >= 0, x.scales + row * x.row_scales + group);
      }
    }
  }

  __device__ __forceinline__ void Add(const int (&products)[kTiles][2][4], float (&sums)[kTiles][2][4]) const {
    const unsigned words[2] = {weights.x, weights.y};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float2 scales = UnpackHalf(words[half]);
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float* sum = sums[tile][half];
          const int* product = products[tile][half];
          sum[i] = fmaf(static_cast<float>(product[i]), scales.x * rows[tile][i], sum[i]);
          sum[2 + i] = fmaf(static_cast<float>(product[2 + i]), scales.y * rows[tile][i], sum[2 + i]);
        }
      }
    }
  }
};

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
// __syncwarp keeps the compiler from starting loads only when a product needs them.
template <typename Words, int kTiles, typename RowOf>
__device__ __forceinline__ void SkinnyProduct(const OperandRows& x, const RowOf& row_of, const char* panel,
                                              const PanelLayout& layout, int k, int first_group, int group_step,
                                              float* partial) {
  using Steps = skinny::Steps<Words, kTiles>;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const char* rows[kTiles];
  int scaled[kTiles][2];
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    const int row = row_of(tile * kRowsPerTile + lane / 4);
    rows[tile] = row < 0 ? nullptr : x.data + row * x.row_bytes;
#pragma unroll
    for (int i = 0; i < 2; ++i)
      scaled[tile][i] = Words::kIsInteger ? row_of(tile * kRowsPerTile + lane % 4 * 2 + i) : 0;
  }
  float sums[kTiles][2][4] = {};
  for (int group = first_group; group < layout.num_groups; group += group_step) {
    const char* lines = panel + group * layout.group_bytes;
    const int num_lines = layout.LinesOf(group);
    const int first_step = group * layout.steps_per_group;
    const int inputs = k - first_step * (kStepBytes / 2);  // of rows of floats
    const char* group_rows[kTiles];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const int64_t offset = static_cast<int64_t>(first_step) * Steps::kRowStepBytes;
      group_rows[tile] = rows[tile] == nullptr ? nullptr : rows[tile] + offset;
    }
    const auto multiply = [&](int begin, auto& to) {
      Steps steps;
      steps.LoadWeights(lines, num_lines, begin);
      steps.LoadRows(group_rows, layout.steps_per_group, inputs, begin);
      __syncwarp();
      steps.Multiply(to);
    };
    if constexpr (!Words::kIsInteger) {
#pragma unroll
      for (int begin = 0; begin < kBf16GroupSteps; begin += Steps::kCount) multiply(begin, sums);
    } else {
      skinny::GroupScales<kTiles> scales;
      int products[kTiles][2][4] = {};
      scales.Load(lines + num_lines * kLineBytes, x, group, scaled);
      for (int begin = 0; begin < layout.steps_per_group; begin += Steps::kCount) multiply(begin, products);
      scales.Add(products, sums);
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
    SkinnyProduct<Words, kTiles>(x, row_of, panel, layout, k, part, num_parts, partial);
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
