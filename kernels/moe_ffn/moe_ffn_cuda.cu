// Three launches: hidden = act(gate(x), up(x)) for the pairs by expert, down(hidden) of each pair to a row of its own,
// and the weighted sum of a token's rows in the order of its choices. Products come in the bodies of gemm: for few rows
// an expert at the speed at which its weights come from memory, for many on the tensor cores, by warps or by
// warpgroups. Where results must not depend on how many rows there are (ExecContext::batch_invariant), all take the
// body for few rows, whatever its tile.
#include <algorithm>

#include "kernels/gemm/skinny_product_cuda.h"
#include "kernels/gemm/tile_product_cuda.h"
#include "kernels/gemm/wgmma_product_cuda.h"
#include "kernels/moe_ffn/expert_tiles_cuda.h"
#include "kernels/moe_ffn/moe_ffn.h"

namespace moed::kernels {
namespace {

// Of the body for few rows: warps of a block, each of which takes its part of k. Gate and up share them.
constexpr int kSkinnyWarps = 8;
constexpr int kCombineThreads = 128;

// One more than of others: down's blocks are short, and one token's shall all run at once.
template <typename Words, int kTiles>
constexpr int kDownBlocks = kSkinnyBlocks<Words, kTiles> == 3 ? 4 : kSkinnyBlocks<Words, kTiles>;

// Of two outputs.
struct BiasPair {
  float first, second;
};

// One matrix of each expert.
struct ExpertWeights {
  const char* data;
  int64_t distance;  // bytes from one expert's to the next
  PanelLayout layout;
  int n, k;
  const float* bias;  // [num_experts, n], or null

  __device__ __forceinline__ const char* Panel(int expert, int panel) const {
    return panel * kPanelOutputs < n ? data + expert * distance + panel * layout.panel_bytes : nullptr;
  }
  __device__ __forceinline__ float Bias(int expert, int output) const {
    return bias == nullptr ? 0.0f : bias[static_cast<int64_t>(expert) * n + output];
  }
  // Of `output` and the next, as far as there are such.
  __device__ __forceinline__ BiasPair TwoBiases(int expert, int output) const {
    return {output < n ? Bias(expert, output) : 0.0f, output + 1 < n ? Bias(expert, output + 1) : 0.0f};
  }
};

struct Routing {
  const int* sorted_pairs;
  const int* expert_offsets;
  int num_experts, top_k;
};

struct GateUpParameters {
  Routing routing;
  OperandRows x;  // of tokens
  ExpertWeights gate, up;
  Activation activation;
  float swiglu_alpha, swiglu_limit;
  // [pairs in sorted order][n], as floats or as bf16 rows.
  void* hidden;
  int64_t hidden_stride;
  bool hidden_is_bf16;
};

struct DownParameters {
  Routing routing;
  OperandRows hidden;  // of pairs, in sorted order
  ExpertWeights down;
  float* results;  // [pairs][n], in their own order
  const float* weights;
  // Where each token has one choice only, it goes to `out` at once.
  bool is_single;
  bool accumulate;
  float* out;
  int64_t out_stride;
};

// The rows of a tile, looked up by all threads of the block: the place of row i, or -1 beyond the last. Who needs the
// tile once more after a long product finds it here, where it takes no registers.
template <int kRows>
struct TileRows {
  int places[kRows];
  ExpertTile tile;

  template <typename PlaceOf>
  __device__ __forceinline__ void Fill(const ExpertTile& found, const PlaceOf& place_of) {
    if (threadIdx.x == 0) tile = found;
    for (int i = static_cast<int>(threadIdx.x); i < kRows; i += static_cast<int>(blockDim.x)) {
      places[i] = i < found.rows ? place_of(found.first + i) : -1;
    }
    __syncthreads();
  }
};

__device__ __forceinline__ float Swiglu(float gate, float up) { return gate / (1.0f + expf(-gate)) * up; }

// The same to about 1e-6 in a few instructions, for results that are rounded to fewer digits next.
[[maybe_unused]] __device__ __forceinline__ float RoughSwiglu(float gate, float up) {
  constexpr float kLog2E = 1.4426950408889634f;
  return gate * __fdividef(1.0f, 1.0f + ptx::Exp2(-kLog2E * gate)) * up;
}

__device__ __forceinline__ float Activate(const GateUpParameters& p, float gate, float up) {
  if (p.activation == Activation::kSilu) return Swiglu(gate, up);
  if (p.activation == Activation::kGeluTanh) {
    constexpr float kRootOf2OverPi = 0.7978845608028654f;
    return 0.5f * gate * (1.0f + tanhf(kRootOf2OverPi * (gate + 0.044715f * gate * gate * gate))) * up;
  }
  // Comparisons that a NaN does not pass leave it as it is.
  const float g = gate > p.swiglu_limit ? p.swiglu_limit : gate;
  const float u = up > p.swiglu_limit ? p.swiglu_limit : up < -p.swiglu_limit ? -p.swiglu_limit : up;
  return g / (1.0f + expf(-p.swiglu_alpha * g)) * (u + 1.0f);
}

__device__ __forceinline__ void StoreHiddenValue(const GateUpParameters& p, int64_t offset, float value) {
  if (p.hidden_is_bf16) {
    StoreFloat(static_cast<BFloat16*>(p.hidden) + offset, value);
  } else {
    static_cast<float*>(p.hidden)[offset] = value;
  }
}

__device__ __forceinline__ void StoreHidden(const GateUpParameters& p, int expert, int64_t place, int output,
                                            float gate, float up) {
  const float value = Activate(p, gate + p.gate.Bias(expert, output), up + p.up.Bias(expert, output));
  StoreHiddenValue(p, place * p.hidden_stride + output, value);
}

// Those of `output`, which is even, and the next, as far as there are such. (Devices without wgmma have no use for it.)
[[maybe_unused]] __device__ __forceinline__ void StoreTwoHidden(const GateUpParameters& p, int64_t place, int output,
                                                                float first, float second) {
  const int64_t offset = place * p.hidden_stride + output;
  if (p.hidden_stride % 2 != 0 || output + 2 > p.gate.n) {
    if (output < p.gate.n) StoreHiddenValue(p, offset, first);
    if (output + 1 < p.gate.n) StoreHiddenValue(p, offset + 1, second);
  } else if (p.hidden_is_bf16) {
    StorePair(static_cast<BFloat16*>(p.hidden) + offset, first, second);
  } else {
    StorePair(static_cast<float*>(p.hidden) + offset, first, second);
  }
}

__device__ __forceinline__ void StoreResultValue(const DownParameters& p, int pair, int output, float value) {
  if (!p.is_single) {
    p.results[static_cast<int64_t>(pair) * p.down.n + output] = value;
    return;
  }
  float* out = p.out + pair * p.out_stride + output;
  // Rounded once in every instance of the kernels, whatever the compiler would fuse.
  *out = fmaf(value, p.weights[pair], p.accumulate ? *out : 0.0f);
}

__device__ __forceinline__ void StoreResult(const DownParameters& p, int expert, int pair, int output, float product) {
  StoreResultValue(p, pair, output, product + p.down.Bias(expert, output));
}

// Those of `output` and the next, as far as there are such.
__device__ __forceinline__ void StoreTwoResults(const DownParameters& p, int pair, int output, float first,
                                                float second) {
  if (output < p.down.n) StoreResultValue(p, pair, output, first);
  if (output + 1 < p.down.n) StoreResultValue(p, pair, output + 1, second);
}

// --------------------------------------------------------------------------------------------------- few rows

// Grid: panels, tiles.
template <typename Words, int kTiles>
__global__ void __launch_bounds__(kSkinnyWarps * 32, kSkinnyBlocks<Words, kTiles>)
    GateUpSkinnyKernel(GateUpParameters p) {
  ptx::AwaitEarlierGrids();
  constexpr int kRows = kTiles * kRowsPerTile;
  constexpr int kParts = kSkinnyWarps / 2;
  MOED_DYNAMIC_SHARED(float, partials);  // [gate, up][kParts][kRows][kOutputStride]
  MOED_SHARED(TileRows<kRows>, rows, [1]);
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / 32;
  const int tile_index = static_cast<int>(blockIdx.y);
  const ExpertTile tile = FindTile(p.routing.expert_offsets, p.routing.num_experts, kRows, tile_index);
  if (tile.rows == 0) return;
  const char* panel = (warp < kParts ? p.gate : p.up).Panel(tile.expert, static_cast<int>(blockIdx.x));
  // Each warp's first lines, while its rows are looked up.
  const int64_t first_bytes = warp % kParts * p.gate.layout.group_bytes + thread % 32 * kLineBytes;
  if (first_bytes < p.gate.layout.panel_bytes) ptx::PrefetchL2(panel + first_bytes);
  rows[0].Fill(tile, [&](int i) { return p.routing.sorted_pairs[i] / p.routing.top_k; });
  const auto row_of = [&](int i) { return rows[0].places[i]; };
  SkinnyPart<Words, kTiles>(p.x, row_of, panel, p.gate.layout, p.gate.k, warp % kParts, kParts,
                            partials + warp * kRows * kOutputStride);
  __syncthreads();
  const int lane = thread % kPanelOutputs;
  const int output = static_cast<int>(blockIdx.x) * kPanelOutputs + lane;
  if (output >= p.gate.n) return;
  const float* up_partials = partials + kParts * kRows * kOutputStride;
  for (int i = warp; i < tile.rows; i += kSkinnyWarps) {
    const float gate = SumOfParts<kTiles>(partials, kParts, i, lane);
    const float up = SumOfParts<kTiles>(up_partials, kParts, i, lane);
    StoreHidden(p, tile.expert, tile.first + i, output, gate, up);
  }
}

// Grid: panels, tiles.
template <typename Words, int kTiles>
__global__ void __launch_bounds__(kSkinnyWarps * 32, kDownBlocks<Words, kTiles>) DownSkinnyKernel(DownParameters p) {
  ptx::AwaitEarlierGrids();
  constexpr int kRows = kTiles * kRowsPerTile;
  MOED_DYNAMIC_SHARED(float, partials);  // [kSkinnyWarps][kRows][kOutputStride]
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / 32;
  const int tile_index = static_cast<int>(blockIdx.y);
  const ExpertTile tile = FindTile(p.routing.expert_offsets, p.routing.num_experts, kRows, tile_index);
  if (tile.rows == 0) return;
  const auto row_of = [&](int i) { return i < tile.rows ? tile.first + i : -1; };
  SkinnyPart<Words, kTiles>(p.hidden, row_of, p.down.Panel(tile.expert, static_cast<int>(blockIdx.x)), p.down.layout,
                            p.down.k, warp, kSkinnyWarps, partials + warp * kRows * kOutputStride);
  __syncthreads();
  const int lane = thread % kPanelOutputs;
  const int output = static_cast<int>(blockIdx.x) * kPanelOutputs + lane;
  if (output >= p.down.n) return;
  for (int i = warp; i < tile.rows; i += kSkinnyWarps) {
    StoreResult(p, tile.expert, p.routing.sorted_pairs[tile.first + i], output,
                SumOfParts<kTiles>(partials, kSkinnyWarps, i, lane));
  }
}

// --------------------------------------------------------------------------------------------------- many rows

// Grid: pairs of panels, tiles. Of a warp's two panels one is of gate, the other of up.
template <typename Words, int kRowWarps>
__global__ void __launch_bounds__(TileProduct<Words, kRowWarps>::kThreads) GateUpTileKernel(GateUpParameters p) {
  using Product = TileProduct<Words, kRowWarps>;
  MOED_DYNAMIC_SHARED(char, shared);
  MOED_SHARED(TileRows<Product::kRows>, rows, [1]);
  const int tile_index = static_cast<int>(blockIdx.y);
  const int first_panel = static_cast<int>(blockIdx.x) * (kTilePanels / 2);
  const ExpertTile tile = FindTile(p.routing.expert_offsets, p.routing.num_experts, Product::kRows, tile_index);
  if (tile.rows == 0) return;
  rows[0].Fill(tile, [&](int i) { return p.routing.sorted_pairs[i] / p.routing.top_k; });
  const auto row_of = [&](int i) { return rows[0].places[i]; };
  const auto panel_of = [&](int i) { return (i % 2 == 0 ? p.gate : p.up).Panel(tile.expert, first_panel + i / 2); };
  TileSums sums;
  Product::Run(p.x, row_of, panel_of, p.gate.layout, shared, &sums);
  Product::ForEachEight(sums, [&](int row, int slot, int output, const float(&gate)[8], const float(&up)[8]) {
    if (row >= tile.rows) return;
    const int first = (first_panel + slot / 2) * kPanelOutputs + output;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (first + i < p.gate.n) StoreHidden(p, tile.expert, tile.first + row, first + i, gate[i], up[i]);
    }
  });
}

// Grid: groups of panels, tiles.
template <typename Words, int kRowWarps>
__global__ void __launch_bounds__(TileProduct<Words, kRowWarps>::kThreads) DownTileKernel(DownParameters p) {
  using Product = TileProduct<Words, kRowWarps>;
  MOED_DYNAMIC_SHARED(char, shared);
  const int tile_index = static_cast<int>(blockIdx.y);
  const int first_panel = static_cast<int>(blockIdx.x) * kTilePanels;
  const ExpertTile tile = FindTile(p.routing.expert_offsets, p.routing.num_experts, Product::kRows, tile_index);
  if (tile.rows == 0) return;
  const auto row_of = [&](int i) { return i < tile.rows ? tile.first + i : -1; };
  const auto panel_of = [&](int i) { return p.down.Panel(tile.expert, first_panel + i); };
  TileSums sums;
  Product::Run(p.hidden, row_of, panel_of, p.down.layout, shared, &sums);
  Product::ForEachEight(sums, [&](int row, int slot, int output, const float(&left)[8], const float(&right)[8]) {
    if (row >= tile.rows) return;
    const int pair = p.routing.sorted_pairs[tile.first + row];
    const int first = (first_panel + slot) * kPanelOutputs + output;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (first + i < p.down.n) StoreResult(p, tile.expert, pair, first + i, left[i]);
      if (first + kPanelOutputs + i < p.down.n) {
        StoreResult(p, tile.expert, pair, first + kPanelOutputs + i, right[i]);
      }
    }
  });
}

// -------------------------------------------------------------------------------------- many rows, by warpgroups

// Grid: tiles of rows and outputs (BlockTile). Of a pair of panels one is of gate, the other of up.
template <typename Words, int kTokens>
__global__ void __launch_bounds__(WgmmaProduct<Words, kTokens>::kThreads, 1)
    GateUpWgmmaKernel(GateUpParameters p, int row_tiles) {
  if constexpr (!ptx::kHasWgmma) {
    ptx::Trap();
  } else {
    using Product = WgmmaProduct<Words, kTokens>;
    MOED_DYNAMIC_SHARED(char, shared);
    MOED_SHARED(TileRows<kTokens>, rows, [1]);
    MOED_SHARED(PanelPairs, panels, [1]);  // here they take no registers
    const int columns = CeilDiv(p.gate.n, Product::kOutputs / 2);
    const BlockTile block = TileOf(static_cast<int>(blockIdx.x), row_tiles, columns);
    const ExpertTile found = FindTile(p.routing.expert_offsets, p.routing.num_experts, kTokens, block.row_tile);
    if (found.rows == 0) return;
    if (threadIdx.x == 0) {
      const int first_panel = block.column * Product::kPairs;
      const int num_panels = CeilDiv(p.gate.n, kPanelOutputs) - first_panel;
      panels[0] = {p.gate.Panel(found.expert, first_panel), p.up.Panel(found.expert, first_panel),
                   p.gate.layout.panel_bytes, num_panels, num_panels};
    }
    rows[0].Fill(found, [&](int i) { return p.routing.sorted_pairs[i] / p.routing.top_k; });
    const auto row_of = [&](int i) { return rows[0].places[i]; };
    typename Product::Sums sums;
    Product::Run(p.x, row_of, panels[0], p.gate.layout, shared, &sums);
    const ExpertTile& tile = rows[0].tile;
    const int column = TileOf(ptx::Recompute(static_cast<int>(blockIdx.x)), row_tiles, columns).column;
    const int output = (column * Product::kPairs + Product::Pair()) * kPanelOutputs + Product::Output();
    const BiasPair gate_bias = p.gate.TwoBiases(tile.expert, output), up_bias = p.up.TwoBiases(tile.expert, output);
    const auto store = [&](const auto& activate) {
      Product::ForEachRow(sums, [&](int row, const float(&gate)[2], const float(&up)[2]) {
        if (row >= tile.rows) return;
        StoreTwoHidden(p, tile.first + row, output, activate(gate[0] + gate_bias.first, up[0] + up_bias.first),
                       activate(gate[1] + gate_bias.second, up[1] + up_bias.second));
      });
    };
    // By itself: few instructions, so many times over.
    if (p.activation == Activation::kSilu) {
      store([](float gate, float up) { return RoughSwiglu(gate, up); });
    } else {
      store([&](float gate, float up) { return Activate(p, gate, up); });
    }
  }
}

// Grid: tiles of rows and outputs (BlockTile).
template <typename Words, int kTokens>
__global__ void __launch_bounds__(WgmmaProduct<Words, kTokens>::kThreads, 1)
    DownWgmmaKernel(DownParameters p, int row_tiles) {
  if constexpr (!ptx::kHasWgmma) {
    ptx::Trap();
  } else {
    using Product = WgmmaProduct<Words, kTokens>;
    MOED_DYNAMIC_SHARED(char, shared);
    MOED_SHARED(TileRows<kTokens>, pairs, [1]);
    MOED_SHARED(PanelPairs, panels, [1]);
    const int columns = CeilDiv(p.down.n, Product::kOutputs);
    const BlockTile block = TileOf(static_cast<int>(blockIdx.x), row_tiles, columns);
    const ExpertTile found = FindTile(p.routing.expert_offsets, p.routing.num_experts, kTokens, block.row_tile);
    if (found.rows == 0) return;
    if (threadIdx.x == 0) {
      const int first_panel = block.column * 2 * Product::kPairs;
      panels[0] = AdjacentPanels(p.down.Panel(found.expert, first_panel), p.down.layout,
                                 CeilDiv(p.down.n, kPanelOutputs) - first_panel);
    }
    pairs[0].Fill(found, [&](int i) { return p.routing.sorted_pairs[i]; });
    const auto row_of = [&](int i) { return i < found.rows ? found.first + i : -1; };
    typename Product::Sums sums;
    Product::Run(p.hidden, row_of, panels[0], p.down.layout, shared, &sums);
    const ExpertTile& tile = pairs[0].tile;
    const int column = TileOf(ptx::Recompute(static_cast<int>(blockIdx.x)), row_tiles, columns).column;
    const int output = column * Product::kOutputs + 2 * Product::Pair() * kPanelOutputs + Product::Output();
    const BiasPair first_bias = p.down.TwoBiases(tile.expert, output);
    const BiasPair second_bias = p.down.TwoBiases(tile.expert, output + kPanelOutputs);
    const auto store = [&](const auto& store_two) {
      Product::ForEachRow(sums, [&](int row, const float(&first)[2], const float(&second)[2]) {
        if (row >= tile.rows) return;
        store_two(pairs[0].places[row], output, first[0] + first_bias.first, first[1] + first_bias.second);
        store_two(pairs[0].places[row], output + kPanelOutputs, second[0] + second_bias.first,
                  second[1] + second_bias.second);
      });
    };
    // By itself: few instructions, so many times over.
    if (!p.is_single && p.down.n % 2 == 0 && output + kPanelOutputs + 2 <= p.down.n) {
      store([&](int pair, int to, float first, float second) {
        StorePair(p.results + static_cast<int64_t>(pair) * p.down.n + to, first, second);
      });
    } else {
      store([&](int pair, int to, float first, float second) { StoreTwoResults(p, pair, to, first, second); });
    }
  }
}

// Grid: tokens, pieces of their outputs. A thread has one output; its loads of several choices are under way together.
__global__ void __launch_bounds__(kCombineThreads) CombineKernel(DownParameters p) {
  ptx::AwaitEarlierGrids();
  constexpr int kAtOnce = 8;
  const int token = static_cast<int>(blockIdx.x);
  const int output = static_cast<int>(blockIdx.y) * kCombineThreads + static_cast<int>(threadIdx.x);
  if (output >= p.down.n) return;
  const int top_k = p.routing.top_k;
  const float* weights = p.weights + static_cast<int64_t>(token) * top_k;
  const float* results = p.results + static_cast<int64_t>(token) * top_k * p.down.n + output;
  float* out = p.out + token * p.out_stride + output;
  float sum = 0.0f;
  for (int first = 0; first < top_k; first += kAtOnce) {
    float values[kAtOnce];
    float factors[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int choice = first + i;
      values[i] = choice < top_k ? results[static_cast<int64_t>(choice) * p.down.n] : 0.0f;
      factors[i] = choice < top_k ? weights[choice] : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) sum = fmaf(values[i], factors[i], sum);
  }
  *out = p.accumulate ? *out + sum : sum;
}

// ---------------------------------------------------------------------------------------------------- launches

// What a block takes of an expert's rows.
enum class TileSize : uint8_t { k8, k16, k32, k64, k128 };

TileSize ChooseTileSize(const ExecContext& ctx, int64_t num_pairs, int64_t num_experts) {
  // Experts have more than their share as often as less; one alone has all.
  const int64_t active = std::min(num_pairs, num_experts);
  const int64_t rows = active == 1 ? num_pairs : 2 * num_pairs / active;
  if (rows <= 8) return TileSize::k8;
  if (rows <= 16) return TileSize::k16;
  if (rows <= 32 || ctx.batch_invariant) return TileSize::k32;
  return rows <= 128 ? TileSize::k64 : TileSize::k128;
}

struct Grid {
  int64_t num_pairs, num_experts;
  TileSize size;

  dim3 For(int columns, int tile_rows) const {
    return {static_cast<unsigned>(columns), static_cast<unsigned>(MaxTiles(num_pairs, num_experts, tile_rows)), 1};
  }
};

template <typename Words, int kTiles, bool kGateUp, typename Parameters>
void LaunchSkinny(const ExecContext& ctx, const Grid& grid, const Parameters& p) {
  constexpr int kRows = kTiles * kRowsPerTile;
  const size_t shared_bytes = sizeof(float) * kSkinnyWarps * kRows * kOutputStride;
  if constexpr (kGateUp) {
    MOED_LAUNCH_DEPENDENT((GateUpSkinnyKernel<Words, kTiles>), grid.For(CeilDiv(p.gate.n, kPanelOutputs), kRows),
                          kSkinnyWarps * 32, shared_bytes, ctx.stream, p);
  } else {
    MOED_LAUNCH_DEPENDENT((DownSkinnyKernel<Words, kTiles>), grid.For(CeilDiv(p.down.n, kPanelOutputs), kRows),
                          kSkinnyWarps * 32, shared_bytes, ctx.stream, p);
  }
}

template <typename Words, int kRowWarps, bool kGateUp, typename Parameters>
void LaunchTile(const ExecContext& ctx, const Grid& grid, const Parameters& p) {
  using Product = TileProduct<Words, kRowWarps>;
  if constexpr (kGateUp) {
    MOED_LAUNCH((GateUpTileKernel<Words, kRowWarps>),
                grid.For(CeilDiv(p.gate.n, kTilePanels / 2 * kPanelOutputs), Product::kRows), Product::kThreads,
                Product::SharedBytes(), ctx.stream, p);
  } else {
    MOED_LAUNCH((DownTileKernel<Words, kRowWarps>),
                grid.For(CeilDiv(p.down.n, kTilePanels * kPanelOutputs), Product::kRows), Product::kThreads,
                Product::SharedBytes(), ctx.stream, p);
  }
}

const PanelLayout& LayoutOf(const GateUpParameters& p) { return p.gate.layout; }
const PanelLayout& LayoutOf(const DownParameters& p) { return p.down.layout; }

template <typename Words, int kTokens, bool kGateUp, typename Parameters>
void LaunchWgmma(const ExecContext& ctx, const Grid& grid, const Parameters& p) {
  using Product = WgmmaProduct<Words, kTokens>;
  const auto row_tiles = static_cast<int>(MaxTiles(grid.num_pairs, grid.num_experts, kTokens));
  if constexpr (kGateUp) {
    const auto blocks = static_cast<unsigned>(row_tiles * CeilDiv(p.gate.n, Product::kOutputs / 2));
    MOED_LAUNCH((GateUpWgmmaKernel<Words, kTokens>), blocks, Product::kThreads, Product::SharedBytes(), ctx.stream, p,
                row_tiles);
  } else {
    const auto blocks = static_cast<unsigned>(row_tiles * CeilDiv(p.down.n, Product::kOutputs));
    MOED_LAUNCH((DownWgmmaKernel<Words, kTokens>), blocks, Product::kThreads, Product::SharedBytes(), ctx.stream, p,
                row_tiles);
  }
}

// The product with gate and up, or with down.
template <bool kGateUp, typename Parameters>
void LaunchProduct(const ExecContext& ctx, const Grid& grid, WeightFormat format, const Parameters& p) {
  const PanelLayout& layout = LayoutOf(p);
  WithWords(format, [&](auto words) {
    using Words = decltype(words);
    if (grid.size == TileSize::k8) return LaunchSkinny<Words, 1, kGateUp>(ctx, grid, p);
    if (grid.size == TileSize::k16) return LaunchSkinny<Words, 2, kGateUp>(ctx, grid, p);
    if constexpr (!std::is_same_v<Words, F32Words>) {
      if (MayUseWgmma(ctx) && WgmmaProduct<Words, 64>::Takes(layout)) {
        if (grid.size == TileSize::k64) return LaunchWgmma<Words, 64, kGateUp>(ctx, grid, p);
        if (grid.size == TileSize::k128) return LaunchWgmma<Words, 128, kGateUp>(ctx, grid, p);
      }
      if (grid.size == TileSize::k64) return LaunchTile<Words, 2, kGateUp>(ctx, grid, p);
      if (grid.size == TileSize::k128) return LaunchTile<Words, 4, kGateUp>(ctx, grid, p);
    }
    LaunchSkinny<Words, 4, kGateUp>(ctx, grid, p);
  });
}

ExpertWeights WeightsOf(const PackedWeight* weights, int num_experts, const TensorView& bias) {
  return {.data = static_cast<const char*>(weights[0].data),
          .distance = WeightDistance(weights, num_experts),
          .layout = PanelLayout(weights[0].format, weights[0].k),
          .n = static_cast<int>(weights[0].n),
          .k = static_cast<int>(weights[0].k),
          .bias = bias.As<float>()};
}

// hidden, as rows that are multiplied with down.
OperandRows GateUp(const ExecContext& ctx, const MoeFfnArgs& args, const Routing& routing, const Grid& grid) {
  const WeightFormat down_format = args.down[0].format;
  const int64_t num_pairs = grid.num_pairs, intermediate = args.gate[0].n;
  GateUpParameters p = {};
  p.routing = routing;
  p.gate = WeightsOf(args.gate, args.num_experts, args.gate_bias);
  p.up = WeightsOf(args.up, args.num_experts, args.up_bias);
  p.activation = args.activation;
  p.swiglu_alpha = args.swiglu_alpha;
  p.swiglu_limit = args.swiglu_limit;
  const bool rounds = grid.size == TileSize::k8 && CanRoundWhileReading(args.x, args.gate[0].format);
  p.x = rounds ? FloatRows(args.x) : PrepareRows(ctx, args.x, args.gate[0].format);
  // bf16 rows are written as down wants them, where they need no padding. All else is prepared once rows are complete.
  const int64_t row_bytes = PreparedRowBytes(down_format, intermediate);
  p.hidden_is_bf16 = down_format == WeightFormat::BF16() && row_bytes == intermediate * 2;
  const TensorView hidden =
      ctx.workspace->Tensor({num_pairs, intermediate}, p.hidden_is_bf16 ? DType::kBF16 : DType::kF32);
  p.hidden = hidden.data;
  p.hidden_stride = intermediate;
  if (rounds) {
    LaunchSkinny<RoundingBf16Words, 1, true>(ctx, grid, p);
  } else {
    LaunchProduct<true>(ctx, grid, args.gate[0].format, p);
  }
  if (p.hidden_is_bf16) return {.data = hidden.As<char>(), .row_bytes = row_bytes};
  return PrepareRows(ctx, hidden, down_format);
}

}  // namespace

namespace cuda {

void MoeFfn(const ExecContext& ctx, const MoeFfnArgs& args) {
  const int64_t num_tokens = args.x.dim(0), num_pairs = num_tokens * args.top_k;
  if (num_tokens == 0) return;
  const Workspace::Scope scope(ctx.workspace);
  const Grid grid = {num_pairs, args.num_experts, ChooseTileSize(ctx, num_pairs, args.num_experts)};
  DownParameters p = {};
  p.routing = {args.sorted_pairs.As<int>(), args.expert_offsets.As<int>(), args.num_experts, args.top_k};
  p.hidden = GateUp(ctx, args, p.routing, grid);
  p.down = WeightsOf(args.down, args.num_experts, args.down_bias);
  p.weights = args.weights.As<float>();
  p.is_single = args.top_k == 1;
  p.accumulate = args.accumulate;
  p.out = args.out.As<float>();
  p.out_stride = args.out.stride(0);
  if (!p.is_single) p.results = ctx.workspace->Tensor({num_pairs, args.down[0].n}).As<float>();
  LaunchProduct<false>(ctx, grid, args.down[0].format, p);
  if (p.is_single) return;
  const dim3 pieces(static_cast<unsigned>(num_tokens), static_cast<unsigned>(CeilDiv(p.down.n, kCombineThreads)));
  MOED_LAUNCH_DEPENDENT(CombineKernel, pieces, kCombineThreads, 0, ctx.stream, p);
}

}  // namespace cuda
}  // namespace moed::kernels
