// The product of a tile of rows with panels of a packed weight, the innermost loop of everything that multiplies
// weights. For CPU bodies only (see simd.h).
//
// An output is one chain of additions over k = 0, 1, 2, … in its own accumulator, whatever the number of rows or panels
// beside it: a row's results are the same to the bit in any company.
#ifndef KERNELS_GEMM_MICRO_KERNEL_H_
#define KERNELS_GEMM_MICRO_KERNEL_H_

#include "kernels/common/simd.h"
#include "kernels/common/simd_bf16.h"
#include "kernels/gemm/integer_micro_kernel.h"
#include "kernels/gemm/packed_weight.h"
#include "kernels/gemm/tile_micro_kernel.h"

namespace moed::kernels::MOED_ISA {

constexpr int kPanel = PackedWeight::kPanel;
constexpr int kPanelVectors = kPanel / kLanes;

// What rows are when they are multiplied.
enum class RowFormat {
  kFloats,
  kBf16,      // rounded, where there are bf16 dot products and the weight is bf16 and asks for nothing else
  kIntegers,  // for integer weights
};
MOED_ALWAYS_INLINE RowFormat RowFormatFor(const PackedWeight& weight) {
  using Type = WeightFormat::Type;
  if (weight.format.type == Type::kInt8 || weight.format.type == Type::kInt4) return RowFormat::kIntegers;
  return kHasBf16Dots && weight.format.type == Type::kBF16 && weight.activations == ActivationRounding::kNone
             ? RowFormat::kBf16
             : RowFormat::kFloats;
}

// The largest tile of floats. Its accumulators, a row of weights and one activation fill the registers: 32 of 16 lanes,
// or 16.
constexpr int kMaxFloatTileRows = kLanes == 16 ? 12 : kLanes == 8 ? 3 : 2;
constexpr int kMaxBf16TileRows = kHasTiles ? 2 * kTileRegisterRows : kMaxFloatTileRows;
// The largest of any format.
constexpr int kMaxTileRows = kMaxFloatTileRows > kMaxIntegerTileRows ? kMaxFloatTileRows : kMaxIntegerTileRows;
static_assert(kMaxTileRows >= kMaxBf16TileRows);

// Inputs of a row of bf16, rounded up to what products take at once.
MOED_ALWAYS_INLINE int64_t PaddedBf16Inputs(int64_t k) {
  constexpr int64_t kBlock = kHasTiles ? kTileRegisterBytes / 2 : 2;
  return (k + kBlock - 1) / kBlock * kBlock;
}

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
  RowFormat rows;
  IntegerLayout layout;

  MOED_ALWAYS_INLINE explicit Panels(const PackedWeight& weight)
      : data(static_cast<const char*>(weight.data)),
        k(weight.k),
        type(weight.format.type),
        rows(RowFormatFor(weight)),
        layout(weight.format) {
    panel_bytes = type == WeightFormat::Type::kF32    ? k * kPanel * 4
                  : type == WeightFormat::Type::kBF16 ? (k + 1) / 2 * kPanel * 4
                                                      : layout.PanelBytes(k);
  }
  MOED_ALWAYS_INLINE static int64_t Count(const PackedWeight& weight) { return (weight.n + kPanel - 1) / kPanel; }
  MOED_ALWAYS_INLINE const char* Panel(int64_t i) const { return data + i * panel_bytes; }
};

namespace micro_kernel {

enum class Operands {
  kF32,        // floats and floats
  kBf16,       // floats and weights of bf16
  kBf16Pairs,  // both bf16, in pairs along k
};

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
template <Operands kOperands, int kRows, int kPanels, int kVectors>
MOED_ALWAYS_INLINE void Pass(const float* activations, const char* weights, int64_t panel_bytes, int64_t k,
                             Prefetch prefetch, VecF32 (&accumulators)[kRows][kPanels * kVectors]) {
  constexpr int64_t kStep = kPanel * 4;  // bytes of one k (fp32) or two (bf16) in a panel
  constexpr int64_t kVectorBytes = sizeof(VecF32);
  const int64_t steps = kOperands == Operands::kF32 ? k : kOperands == Operands::kBf16 ? k / 2 : (k + 1) / 2;
  for (int64_t step = 0; step < steps; ++step, weights += kStep) {
    if constexpr (kRows > 1) {  // a single row's floats are no work beside their memory
      prefetch.Next<kRows>();
    }
    if constexpr (kOperands == Operands::kF32) {
      VecF32 w[kPanels * kVectors];
#pragma GCC unroll 16
      for (int v = 0; v < kPanels * kVectors; ++v) {
        w[v] = LoadBits<VecF32>(weights + v / kVectors * panel_bytes + v % kVectors * kVectorBytes);
      }
      Accumulate(activations, w, accumulators);
      activations += kRows;
    } else if constexpr (kOperands == Operands::kBf16Pairs) {
      VecU32 w[kPanels * kVectors];
#pragma GCC unroll 16
      for (int v = 0; v < kPanels * kVectors; ++v) {
        w[v] = LoadBits<VecU32>(weights + v / kVectors * panel_bytes + v % kVectors * kVectorBytes);
      }
#pragma GCC unroll 16
      for (int row = 0; row < kRows; ++row) {
        uint32_t pair;
        std::memcpy(&pair, activations + row, sizeof(pair));
#pragma GCC unroll 16
        for (int v = 0; v < kPanels * kVectors; ++v) {
          accumulators[row][v] = Bf16Dot(VecU32{} + pair, w[v], accumulators[row][v]);
        }
      }
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
  if (kOperands == Operands::kBf16 && k % 2 != 0) {
    VecF32 w[kPanels * kVectors];
#pragma GCC unroll 16
    for (int v = 0; v < kPanels * kVectors; ++v) {
      w[v] = EvenOfPair(LoadBits<VecU32>(weights + v / kVectors * panel_bytes + v % kVectors * kVectorBytes));
    }
    Accumulate(activations, w, accumulators);
  }
}

template <Operands kOperands, int kRows, int kPanels>
void Tile(const float* activations, const char* weights, int64_t panel_bytes, int64_t k, Prefetch prefetch,
          float* out) {
  constexpr int kVectors = PassVectors(kRows);
  for (int first = 0; first < kPanelVectors; first += kVectors) {
    VecF32 accumulators[kRows][kPanels * kVectors] = {};
    Pass<kOperands, kRows, kPanels, kVectors>(activations, weights + first * sizeof(VecF32), panel_bytes, k, prefetch,
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
template <bool kWide, Operands kOperands, int kRows>
constexpr TileFunction Choose() {
  if constexpr (kRows > kMaxFloatTileRows) {
    return nullptr;
  } else {
    return Tile < kOperands, kRows, kWide ? PanelsAtOnce(kRows) : 1 > ;
  }
}
template <bool kWide, Operands kTypes>
struct Table {
  static constexpr TileFunction kFunctions[12] = {
      Choose<kWide, kTypes, 1>(), Choose<kWide, kTypes, 2>(),  Choose<kWide, kTypes, 3>(),  Choose<kWide, kTypes, 4>(),
      Choose<kWide, kTypes, 5>(), Choose<kWide, kTypes, 6>(),  Choose<kWide, kTypes, 7>(),  Choose<kWide, kTypes, 8>(),
      Choose<kWide, kTypes, 9>(), Choose<kWide, kTypes, 10>(), Choose<kWide, kTypes, 11>(), Choose<kWide, kTypes, 12>(),
  };
};

// Of tiles whose rows are floats or bf16.
template <bool kWide>
MOED_ALWAYS_INLINE TileFunction FunctionFor(const Panels& panels, int rows) {
  if (panels.type == WeightFormat::Type::kF32) return Table<kWide, Operands::kF32>::kFunctions[rows - 1];
  if constexpr (kHasBf16Dots && !kHasTiles) {
    if (panels.rows == RowFormat::kBf16) return Table<kWide, Operands::kBf16Pairs>::kFunctions[rows - 1];
  }
  return Table<kWide, Operands::kBf16>::kFunctions[rows - 1];
}

#if defined(__AMX_TILE__)
// Whether the tile registers make this product; others keep to the vectors. (A single row of integers has the same
// results there, from one pass over the weights as they lie.)
MOED_ALWAYS_INLINE bool TakesTiles(const Panels& panels, int rows) {
  return panels.rows == RowFormat::kBf16 || (panels.rows == RowFormat::kIntegers && rows > 1);
}
MOED_ALWAYS_INLINE void ProductInTiles(const char* tile, int rows, const Panels& panels, const char* weights,
                                       Prefetch prefetch, float* out) {
  using Type = WeightFormat::Type;
  if (panels.rows == RowFormat::kBf16) {
    tile_micro_kernel::Bf16Product(tile, rows, weights, panels.k, prefetch, out);
  } else if (panels.type == Type::kInt8) {
    tile_micro_kernel::IntegerProduct<Type::kInt8>(tile, rows, weights, panels.layout, panels.k, prefetch, out);
  } else {
    tile_micro_kernel::IntegerProduct<Type::kInt4>(tile, rows, weights, panels.layout, panels.k, prefetch, out);
  }
}
#endif

}  // namespace micro_kernel

// What TileProduct() is to prefetch for tile `tile` of num_tiles, when panel `next` (null: none) comes after this one:
// the first few tiles share the next panel, so that their own loads do not wait behind it. Other tiles, with nothing to
// prefetch (null), ask for what lies ahead of them (Ahead), since the processor's own prefetching stops at the end of
// each page.
MOED_ALWAYS_INLINE Prefetch PartToPrefetch(const char* next, const Panels& panels, int64_t tile, int64_t num_tiles) {
  constexpr int64_t kMaxParts = 8;
  const int64_t parts = num_tiles < kMaxParts ? num_tiles : kMaxParts;
  if (next == nullptr || parts < 2 || tile >= parts) return {nullptr, 0};
  return {next + tile * panels.panel_bytes / parts, Prefetch::kStepBytes / parts};
}

// What a tile prefetches while it meets the weights at `weights`: what it was given, or what lies ahead.
MOED_ALWAYS_INLINE Prefetch Ahead(Prefetch given, const char* weights) {
  constexpr int64_t kAhead = 4096;
  return given.from != nullptr ? given : Prefetch{weights + kAhead, Prefetch::kStepBytes};
}

// out[panel][row][kPanel] = tile * panel for `count` panels from `first`, count <= PanelsAtOnce(rows); `tile` is packed
// for the weight's format (row_tiles.h).
MOED_ALWAYS_INLINE void TileProduct(const void* tile, int rows, const Panels& panels, int64_t first, int count,
                                    Prefetch prefetch, float* out) {
  using Type = WeightFormat::Type;
  const char* const weights = panels.Panel(first);
#if defined(__AMX_TILE__)
  if (micro_kernel::TakesTiles(panels, rows)) {
    for (int i = 0; i < count; ++i) {
      const char* const panel = weights + i * panels.panel_bytes;
      micro_kernel::ProductInTiles(static_cast<const char*>(tile), rows, panels, panel, Ahead(prefetch, panel),
                                   out + i * rows * kPanel);
    }
    return;
  }
#endif
  if (panels.rows == RowFormat::kIntegers) {
    const auto* function = panels.type == Type::kInt8 ? integer_micro_kernel::Table<Type::kInt8>::kFunctions
                                                      : integer_micro_kernel::Table<Type::kInt4>::kFunctions;
    for (int i = 0; i < count; ++i) {
      const char* const panel = weights + i * panels.panel_bytes;
      function[rows - 1](static_cast<const char*>(tile), panel, panels.layout, panels.k, Ahead(prefetch, panel),
                         out + i * rows * kPanel);
    }
    return;
  }
  const float* const activations = static_cast<const float*>(tile);
  if (count > 1 && count == PanelsAtOnce(rows)) {
    const auto function = micro_kernel::FunctionFor<true>(panels, rows);
    function(activations, weights, panels.panel_bytes, panels.k, Ahead(prefetch, weights), out);
    return;
  }
  const auto function = micro_kernel::FunctionFor<false>(panels, rows);
  for (int i = 0; i < count; ++i) {
    const char* const panel = weights + i * panels.panel_bytes;
    function(activations, panel, panels.panel_bytes, panels.k, Ahead(prefetch, panel), out + i * rows * kPanel);
  }
}

}  // namespace moed::kernels::MOED_ISA

#endif  // KERNELS_GEMM_MICRO_KERNEL_H_
