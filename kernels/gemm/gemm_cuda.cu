// Few rows are multiplied at the speed at which the weights come from memory, many rows on the tensor cores: by
// warpgroups where the device has them and there is enough to do for all of it, else by warps. Weights of floats have
// the first body only, with ordinary multiply-adds, and another one for fewer rows. Where results must not depend on
// how many rows there are (ExecContext::batch_invariant), all take the first body.
#include "kernels/gemm/float_product_cuda.h"
#include "kernels/gemm/gemm.h"
#include "kernels/gemm/skinny_product_cuda.h"
#include "kernels/gemm/tile_product_cuda.h"
#include "kernels/gemm/wgmma_product_cuda.h"

namespace moed::kernels {
namespace {

// Of the body for few rows: warps of a block, each of which takes its part of k.
constexpr int kSkinnyWarps = 8;
// From more rows on, the tiles of the tensor cores are filled well enough.
constexpr int64_t kMaxSkinnyRows = 32;
constexpr int kRowWarps = 4;
// A product by warpgroups has as many blocks at least; fewer, as large as they are, leave too much of a device idle.
constexpr int64_t kMinWgmmaBlocks = 64;
// Of a panel, that a thread asks for before the rows are there: 64 KB a block.
constexpr int kPrefetchedLines = 2;

struct GemmParameters {
  OperandRows x;
  const char* weights;      // of head 0
  int64_t weight_distance;  // bytes from one head's to the next
  PanelLayout layout;
  int m, n, k;
  const float* bias;  // or null
  bool accumulate;
  float* out;
  int64_t out_stride, out_head_stride;
  bool aligned;     // quads of outputs may be stored at once
  bool x_in_fours;  // and of inputs, of floats, read
};

__device__ __forceinline__ void StoreOne(const GemmParameters& p, float* out, int output, float value) {
  if (p.bias != nullptr) value += p.bias[output];
  out[output] = p.accumulate ? out[output] + value : value;
}

// Grid: panels, tiles of rows, heads.
template <typename Words, int kTiles>
__global__ void __launch_bounds__(kSkinnyWarps * 32, kSkinnyBlocks<Words, kTiles>) SkinnyKernel(GemmParameters p) {
  constexpr int kRows = kTiles * kRowsPerTile;
  MOED_DYNAMIC_SHARED(float, partials);
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / 32;
  const int head = static_cast<int>(blockIdx.z);
  const int first_row = static_cast<int>(blockIdx.y) * kRows;
  const int first_output = static_cast<int>(blockIdx.x) * kPanelOutputs;
  const char* panel = p.weights + head * p.weight_distance + blockIdx.x * p.layout.panel_bytes;
  for (int i = 0; i < kPrefetchedLines; ++i) {  // while the rows are still being made
    const int64_t offset = int64_t{i * kSkinnyWarps * 32 + thread} * kLineBytes;
    if (offset < p.layout.panel_bytes) ptx::PrefetchL2(panel + offset);
  }
  ptx::AwaitEarlierGrids();
  const auto row_of = [&](int i) { return first_row + i < p.m ? first_row + i : -1; };
  SkinnyPart<Words, kTiles>(p.x.Head(head), row_of, panel, p.layout, p.k, warp, kSkinnyWarps,
                            partials + warp * kRows * kOutputStride);
  __syncthreads();
  const int output = first_output + thread % kPanelOutputs;
  if (output >= p.n) return;
  for (int i = thread / kPanelOutputs; i < kRows && first_row + i < p.m; i += kSkinnyWarps) {
    float* out = p.out + (first_row + i) * p.out_stride + head * p.out_head_stride;
    StoreOne(p, out, output, SumOfParts<kTiles>(partials, kSkinnyWarps, i, thread % kPanelOutputs));
  }
}

// Weights of floats. Grid: pieces of 8 outputs, tiles of rows, heads.
template <int kRows>
__global__ void __launch_bounds__(FloatProduct<kRows>::kWarps * 32) FloatKernel(GemmParameters p) {
  using Product = FloatProduct<kRows>;
  MOED_SHARED(typename Product::Partials, partials, [1]);
  const int head = static_cast<int>(blockIdx.z);
  const int first_row = static_cast<int>(blockIdx.y) * kRows;
  const int first_output = static_cast<int>(blockIdx.x) * Product::kOutputs;
  const OperandRows x = p.x.Head(head);
  const typename Product::Rows rows = {.data = reinterpret_cast<const float*>(x.data + first_row * x.row_bytes),
                                       .stride = x.row_bytes / static_cast<int64_t>(sizeof(float)),
                                       .count = p.m - first_row,
                                       .in_fours = p.x_in_fours};
  const char* panel = p.weights + head * p.weight_distance + first_output / kPanelOutputs * p.layout.panel_bytes;
  const float* weights = reinterpret_cast<const float*>(panel) + first_output % kPanelOutputs;
  for (int i = static_cast<int>(threadIdx.x); i < p.k; i += Product::kWarps * 32) {  // while rows are still being made
    ptx::PrefetchL2(weights + static_cast<int64_t>(i) * kPanelOutputs);
  }
  ptx::AwaitEarlierGrids();
  Product::Run(rows, weights, p.k, partials[0], [&](int row, int output, float value) {
    if (first_row + row >= p.m || first_output + output >= p.n) return;
    float* out = p.out + (first_row + row) * p.out_stride + head * p.out_head_stride;
    StoreOne(p, out, first_output + output, value);
  });
}

// Stores the results of the outputs [output, output + 8) of a row.
__device__ __forceinline__ void StoreEight(const GemmParameters& p, float* out, int output, const float (&values)[8]) {
  if (!p.aligned || output + 8 > p.n || p.bias != nullptr || p.accumulate) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (output + i < p.n) StoreOne(p, out, output + i, values[i]);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; i += 4) {
    *reinterpret_cast<float4*>(out + output + i) = make_float4(values[i], values[i + 1], values[i + 2], values[i + 3]);
  }
}

// Grid: tiles of rows, tiles of outputs, heads.
template <typename Words>
__global__ void __launch_bounds__(TileProduct<Words, kRowWarps>::kThreads) TileKernel(GemmParameters p) {
  using Product = TileProduct<Words, kRowWarps>;
  MOED_DYNAMIC_SHARED(char, shared);
  const int head = static_cast<int>(blockIdx.z);
  const int first_row = static_cast<int>(blockIdx.x) * Product::kRows;
  const int first_panel = static_cast<int>(blockIdx.y) * kTilePanels;
  const char* weight = p.weights + head * p.weight_distance;
  const auto row_of = [&](int i) { return first_row + i < p.m ? first_row + i : -1; };
  const auto panel_of = [&](int i) -> const char* {
    return (first_panel + i) * kPanelOutputs < p.n ? weight + (first_panel + i) * p.layout.panel_bytes : nullptr;
  };
  TileSums sums;
  Product::Run(p.x.Head(head), row_of, panel_of, p.layout, shared, &sums);
  Product::ForEachEight(sums, [&](int row, int slot, int output, const float(&left)[8], const float(&right)[8]) {
    if (first_row + row >= p.m) return;
    float* out = p.out + (first_row + row) * p.out_stride + head * p.out_head_stride;
    const int first = (first_panel + slot) * kPanelOutputs + output;
    StoreEight(p, out, first, left);
    StoreEight(p, out, first + kPanelOutputs, right);
  });
}

// Stores the results of `output` and the next, as far as there are such.
__device__ __forceinline__ void StoreTwo(const GemmParameters& p, float* out, int output, const float (&values)[2]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (output + i < p.n) StoreOne(p, out, output + i, values[i]);
  }
}

// Grid: tiles (BlockTile), heads.
template <typename Words, int kTokens>
__global__ void __launch_bounds__(WgmmaProduct<Words, kTokens>::kThreads, 1) WgmmaKernel(GemmParameters p) {
  if constexpr (!ptx::kHasWgmma) {
    ptx::Trap();
  } else {
    using Product = WgmmaProduct<Words, kTokens>;
    MOED_DYNAMIC_SHARED(char, shared);
    const int columns = CeilDiv(p.n, Product::kOutputs), row_tiles = CeilDiv(p.m, kTokens);
    const int head = static_cast<int>(blockIdx.y);
    const BlockTile tile = TileOf(static_cast<int>(blockIdx.x), row_tiles, columns);
    const int first_panel = tile.column * 2 * Product::kPairs;
    const char* panel = p.weights + head * p.weight_distance + first_panel * p.layout.panel_bytes;
    const PanelPairs panels = AdjacentPanels(panel, p.layout, CeilDiv(p.n, kPanelOutputs) - first_panel);
    const auto row_of = [&](int i) {
      const int row = tile.row_tile * kTokens + i;
      return row < p.m ? row : -1;
    };
    typename Product::Sums sums;
    Product::Run(p.x.Head(head), row_of, panels, p.layout, shared, &sums);
    // Once more: kept over the product they would take registers that it needs.
    const BlockTile done = TileOf(ptx::Recompute(static_cast<int>(blockIdx.x)), row_tiles, columns);
    const int first_row = done.row_tile * kTokens;
    const int output = done.column * Product::kOutputs + Product::Pair() * 2 * kPanelOutputs + Product::Output();
    float* out = p.out + first_row * p.out_stride + ptx::Recompute(static_cast<int>(blockIdx.y)) * p.out_head_stride;
    const auto store = [&](const auto& store_two) {
      Product::ForEachRow(sums, [&](int row, const float(&first)[2], const float(&second)[2]) {
        if (first_row + row >= p.m) return;
        store_two(out + row * p.out_stride, output, first);
        store_two(out + row * p.out_stride, output + kPanelOutputs, second);
      });
    };
    // By itself: few instructions, so many times over.
    if (p.aligned && p.bias == nullptr && !p.accumulate && output + kPanelOutputs + 2 <= p.n) {
      store([](float* to, int at, const float(&two)[2]) { StorePair(to + at, two[0], two[1]); });
    } else {
      store([&](float* to, int at, const float(&two)[2]) { StoreTwo(p, to, at, two); });
    }
  }
}

template <typename Words, int kTiles>
void LaunchSkinny(const ExecContext& ctx, const GemmParameters& p, int heads) {
  constexpr int kRows = kTiles * kRowsPerTile;
  const dim3 grid(static_cast<unsigned>(CeilDiv(p.n, kPanelOutputs)), static_cast<unsigned>(CeilDiv(p.m, kRows)),
                  static_cast<unsigned>(heads));
  const size_t shared_bytes = sizeof(float) * kSkinnyWarps * kRows * kOutputStride;
  MOED_LAUNCH_DEPENDENT((SkinnyKernel<Words, kTiles>), grid, kSkinnyWarps * 32, shared_bytes, ctx.stream, p);
}

// The tile of rows does not change a row's result.
template <typename Words>
void LaunchFewRows(const ExecContext& ctx, const GemmParameters& p, int heads) {
  if (p.m <= kRowsPerTile) return LaunchSkinny<Words, 1>(ctx, p, heads);
  if (p.m <= 2 * kRowsPerTile) return LaunchSkinny<Words, 2>(ctx, p, heads);
  LaunchSkinny<Words, 4>(ctx, p, heads);
}

template <typename Words>
void LaunchTile(const ExecContext& ctx, const GemmParameters& p, int heads) {
  using Product = TileProduct<Words, kRowWarps>;
  const dim3 grid(static_cast<unsigned>(CeilDiv(p.m, Product::kRows)),
                  static_cast<unsigned>(CeilDiv(p.n, kTilePanels * kPanelOutputs)), static_cast<unsigned>(heads));
  MOED_LAUNCH(TileKernel<Words>, grid, Product::kThreads, Product::SharedBytes(), ctx.stream, p);
}

template <int kRows>
void LaunchFloat(const ExecContext& ctx, const GemmParameters& p, int heads) {
  using Product = FloatProduct<kRows>;
  const dim3 grid(static_cast<unsigned>(CeilDiv(p.n, Product::kOutputs)), static_cast<unsigned>(CeilDiv(p.m, kRows)),
                  static_cast<unsigned>(heads));
  MOED_LAUNCH_DEPENDENT(FloatKernel<kRows>, grid, Product::kWarps * 32, 0, ctx.stream, p);
}

void RunFloat(const ExecContext& ctx, GemmParameters p, int heads) {
  if (ctx.batch_invariant) return LaunchFewRows<F32Words>(ctx, p, heads);
  p.x_in_fours = InFours(p.x.data, p.x.row_bytes / 4, p.x.head_bytes / 4);
  if (p.m == 1) return LaunchFloat<1>(ctx, p, heads);
  if (p.m <= kMaxSkinnyRows) return LaunchFloat<8>(ctx, p, heads);
  LaunchSkinny<F32Words, 4>(ctx, p, heads);
}

template <typename Words, int kTokens>
void LaunchWgmma(const ExecContext& ctx, const GemmParameters& p, int heads) {
  using Product = WgmmaProduct<Words, kTokens>;
  const dim3 grid(static_cast<unsigned>(CeilDiv(p.m, kTokens) * CeilDiv(p.n, Product::kOutputs)),
                  static_cast<unsigned>(heads));
  MOED_LAUNCH((WgmmaKernel<Words, kTokens>), grid, Product::kThreads, Product::SharedBytes(), ctx.stream, p);
}

// Whether blocks of `tokens` rows and as many outputs as those of WgmmaProduct are enough.
bool FillsDevice(const ExecContext& ctx, const GemmParameters& p, int heads, int tokens) {
  const int64_t blocks = int64_t{CeilDiv(p.m, tokens)} * CeilDiv(p.n, WgmmaProduct<Bf16Words, 64>::kOutputs) * heads;
  return blocks >= kMinWgmmaBlocks || (ctx.wgmma.has_value() && p.m >= tokens);
}

// For more than kMaxSkinnyRows rows.
template <typename Words>
void LaunchManyRows(const ExecContext& ctx, const GemmParameters& p, int heads) {
  if (MayUseWgmma(ctx) && WgmmaProduct<Words, 64>::Takes(p.layout)) {
    if (FillsDevice(ctx, p, heads, 128)) return LaunchWgmma<Words, 128>(ctx, p, heads);
    if (FillsDevice(ctx, p, heads, 64) || ctx.wgmma.has_value()) return LaunchWgmma<Words, 64>(ctx, p, heads);
  }
  LaunchTile<Words>(ctx, p, heads);
}

// out of `heads` heads of x and weights.
void Run(const ExecContext& ctx, GemmParameters p, const TensorView& x, WeightFormat format, int heads) {
  if (p.m <= kRowsPerTile && CanRoundWhileReading(x, format)) {
    p.x = FloatRows(x);
    return LaunchSkinny<RoundingBf16Words, 1>(ctx, p, heads);
  }
  p.x = PrepareRows(ctx, x, format);
  WithWords(format, [&](auto words) {
    using Words = decltype(words);
    if constexpr (std::is_same_v<Words, F32Words>) {
      RunFloat(ctx, p, heads);
    } else {
      if (p.m > kMaxSkinnyRows && !ctx.batch_invariant) return LaunchManyRows<Words>(ctx, p, heads);
      LaunchFewRows<Words>(ctx, p, heads);
    }
  });
}

GemmParameters ParametersOf(const PackedWeight& weight, const TensorView& out) {
  GemmParameters p = {};
  p.layout = PanelLayout(weight.format, weight.k);
  p.weights = static_cast<const char*>(weight.data);
  p.m = static_cast<int>(out.dim(0));
  p.n = static_cast<int>(weight.n);
  p.k = static_cast<int>(weight.k);
  p.out = out.As<float>();
  p.out_stride = out.stride(0);
  p.out_head_stride = out.rank == 3 ? out.stride(1) : 0;
  p.aligned = reinterpret_cast<uintptr_t>(p.out) % 16 == 0 && p.out_stride % 4 == 0 && p.out_head_stride % 4 == 0;
  return p;
}

}  // namespace

namespace cuda {

void Gemm(const ExecContext& ctx, const GemmArgs& args) {
  if (args.x.dim(0) == 0 || args.weight.n == 0) return;
  const Workspace::Scope scope(ctx.workspace);
  GemmParameters p = ParametersOf(args.weight, args.out);
  p.bias = args.bias.As<float>();
  p.accumulate = args.accumulate;
  Run(ctx, p, args.x, args.weight.format, 1);
}

void BatchedGemm(const ExecContext& ctx, const BatchedGemmArgs& args) {
  const int64_t heads = args.x.dim(1);
  if (args.x.dim(0) == 0 || heads == 0 || args.weights[0].n == 0) return;
  const Workspace::Scope scope(ctx.workspace);
  GemmParameters p = ParametersOf(args.weights[0], args.out);
  p.weight_distance = WeightDistance(args.weights, heads);
  Run(ctx, p, args.x, args.weights[0].format, static_cast<int>(heads));
}

}  // namespace cuda
}  // namespace moed::kernels
