// The product of a tile of rows with panels of a packed weight, the innermost loop of everything that multiplies
// weights. For CPU bodies only (see simd.h).
//
// An output is one chain of additions over k = 0, 1, 2, … in its own accumulator, whatever the number of rows or panels
// beside it: a row's results are the same to the bit in any company.
#ifndef KERNELS_GEMM_MICRO_KERNEL_H_
#define KERNELS_GEMM_MICRO_KERNEL_H_

#include "kernels/common/simd.h"
#include "kernels/gemm/packed_weight.h"

namespace moed::kernels::MOED_ISA {

constexpr int kPanel = PackedWeight::kPanel;
constexpr int kPanelVectors = kPanel / kLanes;
constexpr int64_t kCacheLine = 64;

// The largest tile. Its accumulators, a row of weights and one activation fill the registers: 32 of 16 lanes, or 16.
constexpr int kMaxTileRows = kLanes == 16 ? 12 : kLanes == 8 ? 3 : 2;

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
  DType dtype;

  MOED_ALWAYS_INLINE explicit Panels(const PackedWeight& weight)
      : data(static_cast<const char*>(weight.data)),
        panel_bytes(weight.dtype == DType::kF32 ? weight.k * kPanel * 4 : (weight.k + 1) / 2 * kPanel * 4),
        k(weight.k),
        dtype(weight.dtype) {}
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
// Meanwhile it asks for a cache line a step from `prefetch` on.
template <DType kDType, int kRows, int kPanels, int kVectors>
MOED_ALWAYS_INLINE void Pass(const float* activations, const char* weights, int64_t panel_bytes, int64_t k,
                             const char* prefetch, VecF32 (&accumulators)[kRows][kPanels * kVectors]) {
  constexpr int64_t kStep = kPanel * 4;  // bytes of one k (fp32) or two (bf16) in a panel
  constexpr int64_t kVectorBytes = sizeof(VecF32);
  const int64_t steps = kDType == DType::kF32 ? k : k / 2;
  for (int64_t step = 0; step < steps; ++step, weights += kStep) {
    if constexpr (kRows > 1) PrefetchL2(prefetch + step * kCacheLine);  // a single row only waits for memory anyway
    if constexpr (kDType == DType::kF32) {
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
  if (kDType == DType::kBF16 && k % 2 != 0) {
    VecF32 w[kPanels * kVectors];
#pragma GCC unroll 16
    for (int v = 0; v < kPanels * kVectors; ++v) {
      w[v] = EvenOfPair(LoadBits<VecU32>(weights + v / kVectors * panel_bytes + v % kVectors * kVectorBytes));
    }
    Accumulate(activations, w, accumulators);
  }
}

template <DType kDType, int kRows, int kPanels>
void Tile(const float* activations, const char* weights, int64_t panel_bytes, int64_t k, const char* prefetch,
          float* out) {
  constexpr int kVectors = PassVectors(kRows);
  for (int first = 0; first < kPanelVectors; first += kVectors) {
    VecF32 accumulators[kRows][kPanels * kVectors] = {};
    Pass<kDType, kRows, kPanels, kVectors>(activations, weights + first * sizeof(VecF32), panel_bytes, k, prefetch,
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
                              const char* prefetch, float* out);

// [dtype is bf16][rows - 1]
template <bool kWide, DType kDType, int kRows>
constexpr TileFunction Choose() {
  if constexpr (kRows > kMaxTileRows) {
    return nullptr;
  } else {
    return Tile < kDType, kRows, kWide ? PanelsAtOnce(kRows) : 1 > ;
  }
}
template <bool kWide, DType kDType>
struct Table {
  static constexpr TileFunction kFunctions[12] = {
      Choose<kWide, kDType, 1>(), Choose<kWide, kDType, 2>(),  Choose<kWide, kDType, 3>(),  Choose<kWide, kDType, 4>(),
      Choose<kWide, kDType, 5>(), Choose<kWide, kDType, 6>(),  Choose<kWide, kDType, 7>(),  Choose<kWide, kDType, 8>(),
      Choose<kWide, kDType, 9>(), Choose<kWide, kDType, 10>(), Choose<kWide, kDType, 11>(), Choose<kWide, kDType, 12>(),
  };
};

}  // namespace micro_kernel

// What TileProduct() is to prefetch for tile `tile` of num_tiles, when panel `next` (null: none) comes after this one:
// with two tiles or more, the first reads this panel and each of the first two fetches half of the next meanwhile. A
// single tile is bound by memory, where more requests do not help.
MOED_ALWAYS_INLINE const char* PartToPrefetch(const char* next, const Panels& panels, int64_t tile, int64_t num_tiles) {
  return next == nullptr || num_tiles < 2 || tile >= 2 ? nullptr : next + tile * panels.panel_bytes / 2;
}

// out[panel][row][kPanel] = tile * panel for `count` panels from `first`, count <= PanelsAtOnce(rows);
// `activations` is a packed tile (row_tiles.h), 1 <= rows <= kMaxTileRows. Meanwhile half a panel's bytes from
// `prefetch` on, where it is not null, are brought into the second-level cache.
MOED_ALWAYS_INLINE void TileProduct(const float* activations, int rows, const Panels& panels, int64_t first, int count,
                                    const char* prefetch, float* out) {
  using micro_kernel::Table;
  const bool is_f32 = panels.dtype == DType::kF32;
  const char* const weights = panels.Panel(first);
  if (prefetch == nullptr) prefetch = weights;  // which is being read anyway
  if (count > 1 && count == PanelsAtOnce(rows)) {
    const auto* tile = is_f32 ? Table<true, DType::kF32>::kFunctions : Table<true, DType::kBF16>::kFunctions;
    tile[rows - 1](activations, weights, panels.panel_bytes, panels.k, prefetch, out);
    return;
  }
  const auto* tile = is_f32 ? Table<false, DType::kF32>::kFunctions : Table<false, DType::kBF16>::kFunctions;
  for (int i = 0; i < count; ++i) {
    tile[rows - 1](activations, weights + i * panels.panel_bytes, panels.panel_bytes, panels.k, prefetch,
                   out + i * rows * kPanel);
  }
}

}  // namespace moed::kernels::MOED_ISA

#endif  // KERNELS_GEMM_MICRO_KERNEL_H_
