// The product of a tile of rows with panels of a packed weight, the innermost loop of everything that multiplies
// weights. For CPU bodies only (see simd.h).
//
// An output is one chain of additions over k = 0, 1, 2, … in its own accumulator, whatever the number of rows or panels
// beside it: a row's results are the same to the bit in any company.
#ifndef KERNELS_GEMM_MICRO_KERNEL_H_
#define KERNELS_GEMM_MICRO_KERNEL_H_

#include "kernels/common/simd.h"
#include "kernels/gemm/integer_micro_kernel.h"
#include "kernels/gemm/packed_weight.h"

namespace moed::kernels::MOED_ISA {

constexpr int kPanel = PackedWeight::kPanel;
constexpr int kPanelVectors = kPanel / kLanes;

// The largest tile of floats. Its accumulators, a row of weights and one activation fill the registers: 32 of 16 lanes,
// or 16.
constexpr int kMaxFloatTileRows = kLanes == 16 ? 12 : kLanes == 8 ? 3 : 2;
// The largest of any format.
constexpr int kMaxTileRows = kMaxFloatTileRows > kMaxIntegerTileRows ? kMaxFloatTileRows : kMaxIntegerTileRows;

// Panels that a tile of `rows` takes side by side: a chain of additions waits for each before the next, so that few
// rows need several panels to keep the arithmetic units (or the memory) busy.
constexpr int PanelsAtOnce(int rows) {
  const int chains = rows * kPanelVectors;
  return chains >= 8 ? 1 : 8 / chains >= 4 ? 4 : 8 / chains >= 2 ? 2 : 1;
}

// Panels that `rows` rows in num_tiles tiles take side by side: one where there are several tiles, so that it stays in
// the second-level cache while they pass.
constexpr int PanelStep(int64_t rows, int64_t num_tiles) {
  return num_tiles > 1 ? 1 : PanelsAtOnce(static_cast<int>(rows));
}

// Floats that a tile's results take at most.
constexpr int kMaxTileOutputs = kPanel * (kMaxTileRows > 4 ? kMaxTileRows : 4);

// The panels of a weight, as raw memory.
struct Panels {
  const char* data;
  int64_t panel_bytes;
  int64_t k;
  WeightFormat::Type type;
  IntegerLayout layout;

  MOED_ALWAYS_INLINE explicit Panels(const PackedWeight& weight)
      : data(static_cast<const char*>(weight.data)), k(weight.k), type(weight.format.type), layout(weight.format) {
    panel_bytes = type == WeightFormat::Type::kF32    ? k * kPanel * 4
                  : type == WeightFormat::Type::kBF16 ? (k + 1) / 2 * kPanel * 4
                                                      : layout.PanelBytes(k);
  }
  MOED_ALWAYS_INLINE static int64_t Count(const PackedWeight& weight) { return (weight.n + kPanel - 1) / kPanel; }
  MOED_ALWAYS_INLINE const char* Panel(int64_t i) const { return data + i * panel_bytes; }
};

namespace micro_kernel {

// Vectors of a panel that one pass takes: all of them, unless the accumulators would not fit in 16 registers of 4.
constexpr int PassVectors(int rows) { return kLanes == 4 && rows > 1 ? kPanelVectors / 2 : kPanelVectors; }

// accumulators[row][vector] += activations[row] * weights[vector]
template <int kRows, int kVectors>
MOED_ALWAYS_INLINE void Accumulate(const float* activations, const VecF32 (&weights)[kVectors],
                                   VecF32 (&accumulators)[kRows][kVectors]) {
#pragma GCC unroll 16
  for (int row = 0; row < kRows; ++row) {
    const VecF32 activation = Set(activations[row]);
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) accumulators[row][v] = MulAdd(activation, weights[v], accumulators[row][v]);
  }
}

// bf16 weights lie in pairs along k: the even one in the low half of 32 bits, the odd one in the high half.
MOED_ALWAYS_INLINE VecF32 EvenOfPair(VecU32 pair) { return reinterpret_cast<VecF32>(pair << 16); }
MOED_ALWAYS_INLINE VecF32 OddOfPair(VecU32 pair) { return reinterpret_cast<VecF32>(pair & 0xffff0000u); }

// One pass over k for kVectors vectors of each of kPanels panels, `weights` pointing at the first.
template <WeightFormat::Type kType, int kRows, int kPanels, int kVectors>
MOED_ALWAYS_INLINE void Pass(const float* activations, const char* weights, int64_t panel_bytes, int64_t k,
                             Prefetch prefetch, VecF32 (&accumulators)[kRows][kPanels * kVectors]) {
  constexpr int64_t kStep = kPanel * 4;  // bytes of one k (fp32) or two (bf16) in a panel
  constexpr int64_t kVectorBytes = sizeof(VecF32);
  const int64_t steps = kType == WeightFormat::Type::kF32 ? k : k / 2;
  for (int64_t step = 0; step < steps; ++step, weights += kStep) {
    if constexpr (kRows > 1) {  // a single row only waits for memory anyway
      PrefetchL2(prefetch.from);
      prefetch.from += prefetch.step;
    }
    if constexpr (kType == WeightFormat::Type::kF32) {
      VecF32 w[kPanels * kVectors];
#pragma GCC unroll 16
      for (int v = 0; v < kPanels * kVectors; ++v) {
        w[v] = LoadBits<VecF32>(weights + v / kVectors * panel_bytes + v % kVectors * kVectorBytes);
      }
      Accumulate(activations, w, accumulators);
      activations += kRows;
    } else {
      VecU32 pairs[kPanels * kVectors];
      VecF32 w[kPanels * kVectors];
#pragma GCC unroll 16
      for (int v = 0; v < kPanels * kVectors; ++v) {
        pairs[v] = LoadBits<VecU32>(weights + v / kVectors * panel_bytes + v % kVectors * kVectorBytes);
        w[v] = EvenOfPair(pairs[v]);
      }
      Accumulate(activations, w, accumulators);
#pragma GCC unroll 16
      for (int v = 0; v < kPanels * kVectors; ++v) w[v] = OddOfPair(pairs[v]);
      Accumulate(activations + kRows, w, accumulators);
      activations += 2 * kRows;
    }
  }
  if (kType == WeightFormat::Type::kBF16 && k % 2 != 0) {
    VecF32 w[kPanels * kVectors];
#pragma GCC unroll 16
    for (int v = 0; v < kPanels * kVectors; ++v) {
      w[v] = EvenOfPair(LoadBits<VecU32>(weights + v / kVectors * panel_bytes + v % kVectors * kVectorBytes));
    }
    Accumulate(activations, w, accumulators);
  }
}

template <WeightFormat::Type kType, int kRows, int kPanels>
void Tile(const float* activations, const char* weights, int64_t panel_bytes, int64_t k, Prefetch prefetch,
          float* out) {
  constexpr int kVectors = PassVectors(kRows);
  for (int first = 0; first < kPanelVectors; first += kVectors) {
    VecF32 accumulators[kRows][kPanels * kVectors] = {};
    Pass<kType, kRows, kPanels, kVectors>(activations, weights + first * sizeof(VecF32), panel_bytes, k, prefetch,
                                          accumulators);
#pragma GCC unroll 4
    for (int panel = 0; panel < kPanels; ++panel) {
#pragma GCC unroll 16
      for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 16
        for (int v = 0; v < kVectors; ++v) {
          Store(out + (panel * kRows + row) * kPanel + (first + v) * kLanes, accumulators[row][panel * kVectors + v]);
        }
      }
    }
  }
}

using TileFunction = void (*)(const float* activations, const char* weights, int64_t panel_bytes, int64_t k,
                              Prefetch prefetch, float* out);

// [rows - 1]
template <bool kWide, WeightFormat::Type kType, int kRows>
constexpr TileFunction Choose() {
  if constexpr (kRows > kMaxFloatTileRows) {
    return nullptr;
  } else {
    return Tile < kType, kRows, kWide ? PanelsAtOnce(kRows) : 1 > ;
  }
}
template <bool kWide, WeightFormat::Type kType>
struct Table {
  static constexpr TileFunction kFunctions[12] = {
      Choose<kWide, kType, 1>(), Choose<kWide, kType, 2>(),  Choose<kWide, kType, 3>(),  Choose<kWide, kType, 4>(),
      Choose<kWide, kType, 5>(), Choose<kWide, kType, 6>(),  Choose<kWide, kType, 7>(),  Choose<kWide, kType, 8>(),
      Choose<kWide, kType, 9>(), Choose<kWide, kType, 10>(), Choose<kWide, kType, 11>(), Choose<kWide, kType, 12>(),
  };
};

}  // namespace micro_kernel

// What TileProduct() is to prefetch for tile `tile` of num_tiles, when panel `next` (null: none) comes after this one:
// the first few tiles share the next panel, so that their own loads do not wait behind it. Other tiles ask for what
// lies ahead of them (TileProduct), since the processor's own prefetching stops at the end of each page.
MOED_ALWAYS_INLINE Prefetch PartToPrefetch(const char* next, const Panels& panels, int64_t tile, int64_t num_tiles) {
  constexpr int64_t kMaxParts = 8;
  const int64_t parts = num_tiles < kMaxParts ? num_tiles : kMaxParts;
  if (next == nullptr || parts < 2 || tile >= parts) return {nullptr, 0};
  return {next + tile * panels.panel_bytes / parts, Prefetch::kStepBytes / parts};
}

// out[panel][row][kPanel] = tile * panel for `count` panels from `first`, count <= PanelsAtOnce(rows); `tile` is packed
// for the weight's format (row_tiles.h).
MOED_ALWAYS_INLINE void TileProduct(const void* tile, int rows, const Panels& panels, int64_t first, int count,
                                    Prefetch prefetch, float* out) {
  using Type = WeightFormat::Type;
  const char* const weights = panels.Panel(first);
  constexpr int64_t kAhead = 4096;
  if (prefetch.from == nullptr) prefetch = {weights + kAhead, Prefetch::kStepBytes};
  if (panels.type == Type::kInt8 || panels.type == Type::kInt4) {
    const auto* function = panels.type == Type::kInt8 ? integer_micro_kernel::Table<Type::kInt8>::kFunctions
                                                      : integer_micro_kernel::Table<Type::kInt4>::kFunctions;
    for (int i = 0; i < count; ++i) {
      function[rows - 1](static_cast<const char*>(tile), weights + i * panels.panel_bytes, panels.layout, panels.k,
                         prefetch, out + i * rows * kPanel);
    }
    return;
  }
  using micro_kernel::Table;
  const float* const activations = static_cast<const float*>(tile);
  const bool is_f32 = panels.type == Type::kF32;
  if (count > 1 && count == PanelsAtOnce(rows)) {
    const auto* function = is_f32 ? Table<true, Type::kF32>::kFunctions : Table<true, Type::kBF16>::kFunctions;
    function[rows - 1](activations, weights, panels.panel_bytes, panels.k, prefetch, out);
    return;
  }
  const auto* function = is_f32 ? Table<false, Type::kF32>::kFunctions : Table<false, Type::kBF16>::kFunctions;
  for (int i = 0; i < count; ++i) {
    function[rows - 1](activations, weights + i * panels.panel_bytes, panels.panel_bytes, panels.k, prefetch,
                       out + i * rows * kPanel);
  }
}

}  // namespace moed::kernels::MOED_ISA

#endif  // KERNELS_GEMM_MICRO_KERNEL_H_
