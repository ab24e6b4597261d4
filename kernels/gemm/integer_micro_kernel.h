// The product of a tile of quantised rows with panels of an integer weight. For CPU bodies only (see simd.h).
//
// Sums within a group are whole numbers, exact in any order; groups are added in one order, as floats: a row's results
// are the same to the bit in any company.
#ifndef KERNELS_GEMM_INTEGER_MICRO_KERNEL_H_
#define KERNELS_GEMM_INTEGER_MICRO_KERNEL_H_

#include <type_traits>

#include "kernels/common/simd.h"
#include "kernels/common/simd_int.h"
#include "kernels/common/simd_tiles.h"
#include "kernels/gemm/packed_weight.h"

namespace moed::kernels::MOED_ISA {

// Rows of a tile of quantised activations, at most: as many as two vectors of accumulators each fit in the registers,
// or two tile registers.
constexpr int kMaxIntegerTileRows = kHasTiles ? 2 * kTileRegisterRows : kLanes == 16 ? 12 : 6;

// A tile of quantised rows is a chain of groups. In a group of `inputs` inputs (padded with zeros to whole blocks):
//   [inputs / block][rows][block] integers  of activation_bytes each, so that the micro-kernel reads one stream
//   [rows] int32                            -offset * their sum, where offset is what the weights were raised by
//   [rows] float                            scales, in units of kScaleUnit
struct IntegerTileLayout {
  int64_t rows;
  int64_t activation_bytes;
  int64_t block_inputs;  // 4, or as many as a row of a tile register holds: 64, or a whole group that is smaller

  // For products with weights of that layout.
  MOED_ALWAYS_INLINE IntegerTileLayout(int64_t rows, const IntegerLayout& weight)
      : rows(rows),
        activation_bytes(kHasNarrowDots && weight.is_int4() ? 1 : static_cast<int64_t>(sizeof(ActivationInt))),
        block_inputs(!kHasTiles                               ? 4
                     : weight.group_size < kTileRegisterBytes ? weight.group_size
                                                              : kTileRegisterBytes) {}

  // A group's inputs, of which the weight has `inputs`.
  MOED_ALWAYS_INLINE int64_t Padded(int64_t inputs) const {
    return (inputs + block_inputs - 1) / block_inputs * block_inputs;
  }
  MOED_ALWAYS_INLINE int64_t DataBytes(int64_t inputs) const { return Padded(inputs) * rows * activation_bytes; }
  MOED_ALWAYS_INLINE int64_t GroupBytes(int64_t inputs) const { return DataBytes(inputs) + rows * 8; }
  MOED_ALWAYS_INLINE int64_t TileBytes(const IntegerLayout& weight, int64_t k) const {
    const int64_t last = weight.NumGroups(k) - 1;
    return last * GroupBytes(weight.group_size) + GroupBytes(weight.GroupInputs(k, last));
  }
};

// What is brought into the second-level cache while weights pass: `step` bytes at `from` for their first kStepBytes,
// the next for the next, and so on.
struct Prefetch {
  static constexpr int64_t kStepBytes = PackedWeight::kPanel * 4;
  static_assert(kStepBytes == 128, "two lines");
  const char* from;
  int64_t step;

  // For tiles of so many rows: many rows are mostly of several tiles, which take a line each at most.
  template <int kRows>
  MOED_ALWAYS_INLINE void Next() {
    PrefetchL2(from);
    if constexpr (kRows <= 6) PrefetchL2(from + step / 2);
    from += step;
  }
};

namespace integer_micro_kernel {

constexpr int64_t kPanel = PackedWeight::kPanel;
constexpr int64_t kStepBytes = Prefetch::kStepBytes;

// How products with weights of one type are made.
template <WeightFormat::Type kType>
struct Dots {
  static constexpr bool kNarrow = kHasNarrowDots && kType == WeightFormat::Type::kInt4;
  using Activation = std::conditional_t<kNarrow, int8_t, ActivationInt>;
  // Lanes that make one output's sum.
  static constexpr int kPartials = kNarrow ? 1 : kPartialSums;
  // Outputs whose sums one vector of accumulators holds, and such vectors of a panel.
  static constexpr int kOutputs = kLanes / kPartials;
  static constexpr int kPanelVectors = static_cast<int>(kPanel) / kOutputs;

  // As many as stay in registers.
  static constexpr int kAccumulators = kLanes == 16 ? 24 : 12;

  // Vectors of a panel that one pass over a group takes, so that rows * vectors accumulators stay in registers. The
  // passes over a group follow each other while its weights are in the first cache.
  static constexpr int PassVectors(int rows) {
    int vectors = kPanelVectors;
    while (vectors > 1 && rows * vectors > kAccumulators) vectors /= 2;
    // Two vectors of partial sums make one of outputs.
    return vectors < kPartials ? kPartials : vectors;
  }
};

// The accumulators of one group for kVectors vectors of outputs from the first that `weights` points at.
template <WeightFormat::Type kType, int kRows, int kVectors>
MOED_ALWAYS_INLINE void GroupSums(const ActivationInt* activations, const char* weights, int64_t inputs,
                                  Prefetch prefetch, VecI32 (&sums)[kRows][kVectors]) {
  constexpr bool kIsInt4 = kType == WeightFormat::Type::kInt4;
  constexpr int64_t kVectorBytes = Dots<kType>::kOutputs * 4;
  // A dot waits for the one before it on the same sums: where there are few, every other step has sums of its own.
  constexpr bool kTwoChains = kRows * kVectors <= 8 && 2 * kRows * kVectors <= Dots<kType>::kAccumulators;
  VecI32 odd_sums[kRows][kVectors] = {};
  // Groups are padded to 8 inputs: two steps of 4 at a time, for what a loop costs beside the dots.
  for (int64_t i = 0; i < inputs; i += 8, activations += 8 * kRows) {
    VecInt loaded[kVectors];
#pragma GCC unroll 2
    for (int step = 0; step < 2; ++step) {
      if (!kIsInt4 || step == 0) {
        prefetch.Next<kRows>();
#pragma GCC unroll 16
        for (int v = 0; v < kVectors; ++v) loaded[v] = LoadUnsignedBytes(weights + v * kVectorBytes);
        weights += kStepBytes;
      }
      VecInt w[kVectors];
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) {
        w[v] = !kIsInt4 ? loaded[v] : step == 0 ? LowFourBits(loaded[v]) : HighFourBits(loaded[v]);
      }
#pragma GCC unroll 16
      for (int row = 0; row < kRows; ++row) {
        const VecInt a = BroadcastFour(activations + (step * kRows + row) * 4);
#pragma GCC unroll 16
        for (int v = 0; v < kVectors; ++v) {
          VecI32& sum = kTwoChains && step == 1 ? odd_sums[row][v] : sums[row][v];
          sum = Dot(w[v], a, sum);
        }
      }
    }
  }
  if constexpr (kTwoChains) {
#pragma GCC unroll 16
    for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) sums[row][v] += odd_sums[row][v];
    }
  }
}

// The same of four-bit weights with narrow dots.
template <int kRows, int kVectors>
MOED_ALWAYS_INLINE void NarrowGroupSums(const int8_t* activations, const char* weights, int64_t inputs,
                                        Prefetch prefetch, VecI32 (&sums)[kRows][kVectors]) {
  constexpr int64_t kVectorBytes = kLanes * 4;
  constexpr int64_t kInputs = 8, kPieceInputs = kNarrowDots / 2 * kInputs;  // two dots a step
  for (int64_t begin = 0; begin < inputs; begin += kPieceInputs) {
    const int64_t end = inputs - begin < kPieceInputs ? inputs : begin + kPieceInputs;
    VecI16 narrow[kRows][kVectors] = {};
    for (int64_t i = begin; i < end; i += kInputs, weights += kStepBytes, activations += kInputs * kRows) {
      prefetch.Next<kRows>();
      VecU32 pairs[kVectors];
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) pairs[v] = LoadBits<VecU32>(weights + v * kVectorBytes);
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        VecU32 part[kVectors];
#pragma GCC unroll 16
        for (int v = 0; v < kVectors; ++v) part[v] = (half == 0 ? pairs[v] : pairs[v] >> 4) & 0x0f0f0f0fu;
#pragma GCC unroll 16
        for (int row = 0; row < kRows; ++row) {
          const VecU32 a = BroadcastFourBytes(activations + (half * kRows + row) * 4);
#pragma GCC unroll 16
          for (int v = 0; v < kVectors; ++v) narrow[row][v] = NarrowDot(part[v], a, narrow[row][v]);
        }
      }
    }
#pragma GCC unroll 16
    for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) sums[row][v] = AddNarrow(narrow[row][v], sums[row][v]);
    }
  }
}

// out[row][…] (+)= (sums + correction) * weight scale * activation scale; where one lane makes an output's sum, it has
// started from the correction.
template <int kPartials, int kRows, int kVectors>
MOED_ALWAYS_INLINE void AddGroup(const VecI32 (&sums)[kRows][kVectors], const int32_t* corrections,
                                 const float* activation_scales, const Half* weight_scales, bool is_first, float* out) {
  constexpr int kOutputVectors = kVectors / kPartials;
  VecF32 scales[kOutputVectors];
#pragma GCC unroll 16
  for (int v = 0; v < kOutputVectors; ++v) scales[v] = Load(weight_scales + v * kLanes);
#pragma GCC unroll 16
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 16
    for (int v = 0; v < kOutputVectors; ++v) {
      VecI32 sum;
      if constexpr (kPartials == 1) {
        sum = sums[row][v];
      } else {
        sum = AddPairs(sums[row][2 * v], sums[row][2 * v + 1]) + SetI32(corrections[row]);
      }
      const VecF32 value = __builtin_convertvector(sum, VecF32) * scales[v];
      float* const to = out + row * kPanel + v * kLanes;
      const VecF32 old = is_first ? VecF32{} : Load(to);
      Store(to, MulAdd(value, Set(activation_scales[row]), old));
    }
  }
}

// What the sums of a group start from.
template <int kPartials, int kRows, int kVectors>
MOED_ALWAYS_INLINE void StartSums(const int32_t* corrections, VecI32 (&sums)[kRows][kVectors]) {
#pragma GCC unroll 16
  for (int row = 0; row < kRows; ++row) {
    const VecI32 start = kPartials == 1 ? SetI32(corrections[row]) : VecI32{};
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) sums[row][v] = start;
  }
}

template <WeightFormat::Type kType, int kRows>
void Tile(const char* activations, const char* weights, const IntegerLayout& layout, int64_t k, Prefetch prefetch,
          float* out) {
  using Dots = integer_micro_kernel::Dots<kType>;
  constexpr int kVectors = Dots::PassVectors(kRows);
  const IntegerTileLayout tile(kRows, layout);
  constexpr int64_t kStepInputs = kType == WeightFormat::Type::kInt8 ? 4 : 8;
  const int64_t num_groups = layout.NumGroups(k);
  for (int64_t group = 0; group < num_groups; ++group) {
    const int64_t inputs = layout.GroupInputs(k, group), data_bytes = layout.DataBytes(inputs);
    const char* const after = activations + tile.DataBytes(inputs);
    const auto* const corrections = reinterpret_cast<const int32_t*>(after);
    const auto* const scales = reinterpret_cast<const float*>(after + kRows * 4);
    const auto* const weight_scales = reinterpret_cast<const Half*>(weights + data_bytes);
    for (int first = 0; first < Dots::kPanelVectors; first += kVectors) {
      VecI32 sums[kRows][kVectors];
      StartSums<Dots::kPartials>(corrections, sums);
      const auto* const integers = reinterpret_cast<const typename Dots::Activation*>(activations);
      const char* const of_pass = weights + first * Dots::kOutputs * 4;
      if constexpr (Dots::kNarrow) {
        NarrowGroupSums<kRows, kVectors>(integers, of_pass, inputs, prefetch, sums);
      } else {
        GroupSums<kType, kRows, kVectors>(integers, of_pass, inputs, prefetch, sums);
      }
      AddGroup<Dots::kPartials, kRows, kVectors>(sums, corrections, scales, weight_scales + first * Dots::kOutputs,
                                                 group == 0, out + first * Dots::kOutputs);
    }
    activations += tile.GroupBytes(inputs);
    weights += data_bytes + IntegerLayout::kScaleBytes;
    prefetch.from += inputs / kStepInputs * prefetch.step;
  }
}

using TileFunction = void (*)(const char* activations, const char* weights, const IntegerLayout& layout, int64_t k,
                              Prefetch prefetch, float* out);

template <WeightFormat::Type kType, int kRows>
constexpr TileFunction Choose() {
  // More than one row is for the tile registers, where there are some.
  if constexpr (kRows > kMaxIntegerTileRows || (kHasTiles && kRows > 1)) {
    return nullptr;
  } else {
    return Tile<kType, kRows>;
  }
}
// [rows - 1]
template <WeightFormat::Type kType>
struct Table {
  static constexpr TileFunction kFunctions[12] = {
      Choose<kType, 1>(), Choose<kType, 2>(),  Choose<kType, 3>(),  Choose<kType, 4>(),
      Choose<kType, 5>(), Choose<kType, 6>(),  Choose<kType, 7>(),  Choose<kType, 8>(),
      Choose<kType, 9>(), Choose<kType, 10>(), Choose<kType, 11>(), Choose<kType, 12>(),
  };
};

}  // namespace integer_micro_kernel

// Quantises a row of `k` floats, group by group, and writes it as a tile of one row: the largest magnitude of a group
// becomes 127. A row with an infinity or a NaN has NaN as that group's scale. `by_row`: as ActivationRounding::kInt8Row
// says.
void QuantizeRow(const float* row, int64_t k, const IntegerLayout& layout, int32_t offset, bool by_row, void* tile);

}  // namespace moed::kernels::MOED_ISA

#endif  // KERNELS_GEMM_INTEGER_MICRO_KERNEL_H_
