// The product of a tile of rows with panels of a packed weight in the tile registers of AMX. For CPU bodies only (see
// simd.h).
//
// Whole sums of integers are exact, and added up group by group as integer_micro_kernel.h does it: the same results. A
// sum of bf16 products is one chain over blocks of 32 inputs, each added as the instruction does it: a row's results
// are the same to the bit in any company, but not those of other instruction sets.
#ifndef KERNELS_GEMM_TILE_MICRO_KERNEL_H_
#define KERNELS_GEMM_TILE_MICRO_KERNEL_H_

#include "kernels/common/simd_tiles.h"
#include "kernels/gemm/integer_micro_kernel.h"

#if defined(__AMX_TILE__)

namespace moed::kernels::MOED_ISA::tile_micro_kernel {

constexpr int64_t kPanel = PackedWeight::kPanel;
// Weights that meet a block: 64 bytes for each output.
constexpr int64_t kBlockWeights = kPanel * kTileRegisterBytes;

MOED_ALWAYS_INLINE void PrefetchSteps(Prefetch& prefetch, int64_t steps) {
  for (int64_t i = 0; i < steps; ++i) prefetch.Next<1>();
}

// `bytes` of weights that a block of block_weights bytes meets: where they lie or, if they are fewer, in `copy` with
// zeros behind them. (What the tile would read instead may not be there, or not be numbers.)
MOED_ALWAYS_INLINE const char* WholeBlock(const char* weights, int64_t bytes, int64_t block_weights, char* copy) {
  if (bytes >= block_weights) return weights;
  std::memcpy(copy, weights, static_cast<size_t>(bytes));
  std::memset(copy + bytes, 0, static_cast<size_t>(block_weights - bytes));
  return copy;
}

// The weights of `inputs` inputs of four bits as bytes, with zeros up to a block of block_inputs.
MOED_ALWAYS_INLINE const char* Unpack(const char* weights, int64_t inputs, int64_t block_inputs, char* bytes) {
  constexpr int64_t kStepBytes = Prefetch::kStepBytes;
  int64_t i = 0;
  for (; i < block_inputs && i < inputs; i += 8, weights += kStepBytes, bytes += 2 * kStepBytes) {
    for (int64_t v = 0; v < kStepBytes; v += sizeof(VecInt)) {
      const VecInt pairs = LoadUnsignedBytes(weights + v);
      const VecInt low = LowFourBits(pairs), high = HighFourBits(pairs);
      std::memcpy(bytes + v, &low, sizeof(low));
      std::memcpy(bytes + kStepBytes + v, &high, sizeof(high));
    }
  }
  if (i < block_inputs) std::memset(bytes, 0, static_cast<size_t>((block_inputs - i) / 4 * kStepBytes));
  return bytes - i / 4 * kStepBytes;
}

// out (+)= (sums + correction) * weight scale * activation scale, all [rows][kPanel].
MOED_ALWAYS_INLINE void AddGroup(int rows, const int32_t* sums, const int32_t* corrections,
                                 const float* activation_scales, const Half* weight_scales, bool is_first, float* out) {
  const VecF32 scales[2] = {Load(weight_scales), Load(weight_scales + kLanes)};
  for (int row = 0; row < rows; ++row) {
    const VecI32 correction = SetI32(corrections[row]);
    const VecF32 activation_scale = Set(activation_scales[row]);
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) {
      const int64_t i = row * kPanel + v * kLanes;
      const VecI32 sum = LoadBits<VecI32>(sums + i) + correction;
      const VecF32 value = __builtin_convertvector(sum, VecF32) * scales[v];
      Store(out + i, MulAdd(value, activation_scale, is_first ? VecF32{} : Load(out + i)));
    }
  }
}

template <WeightFormat::Type kType>
void IntegerProduct(const char* activations, int rows, const char* weights, const IntegerLayout& layout, int64_t k,
                    Prefetch prefetch, float* out) {
  constexpr bool kIsInt4 = kType == WeightFormat::Type::kInt4;
  const IntegerTileLayout tile(rows, layout);
  const int64_t block = tile.block_inputs, num_groups = layout.NumGroups(k);
  const ProductTiles tiles(rows, block);
  alignas(64) int32_t sums[2 * kTileRegisterRows * kPanel];
  alignas(64) char block_copy[kBlockWeights];
  for (int64_t group = 0; group < num_groups; ++group) {
    const int64_t inputs = layout.GroupInputs(k, group);
    tiles.Zero();
    for (int64_t i = 0; i < inputs; i += block) {
      const char* const from = weights + layout.DataBytes(i);
      PrefetchSteps(prefetch, (inputs - i < block ? inputs - i : block) / (kIsInt4 ? 8 : 4));
      tiles.Load(activations + i * rows, kIsInt4 ? Unpack(from, inputs - i, block, block_copy)
                                                 : WholeBlock(from, (inputs - i) * kPanel, block * kPanel, block_copy));
      tiles.AddIntegers();
    }
    tiles.Store(sums);
    const char* const after = activations + tile.DataBytes(inputs);
    AddGroup(rows, sums, reinterpret_cast<const int32_t*>(after), reinterpret_cast<const float*>(after + rows * 4),
             reinterpret_cast<const Half*>(weights + layout.DataBytes(inputs)), group == 0, out);
    activations += tile.GroupBytes(inputs);
    weights += layout.DataBytes(inputs) + IntegerLayout::kScaleBytes;
  }
}

// `activations`: [blocks of 32 inputs][rows][32] bf16, with zeros behind the last input.
inline void Bf16Product(const char* activations, int rows, const char* weights, int64_t k, Prefetch prefetch,
                        float* out) {
  const ProductTiles tiles(rows, kTileRegisterBytes);
  alignas(64) char block_copy[kBlockWeights];
  tiles.Zero();
  const int64_t panel_bytes = (k + 1) / 2 * kPanel * 4;
  for (int64_t i = 0; i < panel_bytes; i += kBlockWeights, activations += rows * kTileRegisterBytes) {
    const int64_t bytes = panel_bytes - i < kBlockWeights ? panel_bytes - i : kBlockWeights;
    PrefetchSteps(prefetch, bytes / Prefetch::kStepBytes);
    tiles.Load(activations, WholeBlock(weights + i, bytes, kBlockWeights, block_copy));
    tiles.AddBf16();
  }
  tiles.Store(out);
}

}  // namespace moed::kernels::MOED_ISA::tile_micro_kernel

#endif  // __AMX_TILE__

#endif  // KERNELS_GEMM_TILE_MICRO_KERNEL_H_
