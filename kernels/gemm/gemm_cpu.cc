#include "kernels/gemm/gemm.h"
#include "kernels/gemm/micro_kernel.h"
#include "kernels/gemm/row_tiles.h"
#include "kernels/gemm/work_split.h"

namespace moed::kernels::MOED_ISA {
namespace {

// The rows of x as tiles, one after the other.
const float* PackRows(const ExecContext& ctx, const TensorView& x, int64_t num_tiles) {
  const int64_t m = x.dim(0), k = x.dim(1);
  if (m == 1) return x.As<float>();
  float* const packed = static_cast<float*>(ctx.workspace->Allocate(static_cast<size_t>(m * k) * sizeof(float)));
  ctx.threads->ParallelFor(num_tiles, 1, [&](int64_t begin, int64_t end, int /*worker*/) {
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t first = TileBegin(m, num_tiles, tile);
      const int count = static_cast<int>(TileBegin(m, num_tiles, tile + 1) - first);
      const float* rows[kMaxTileRows];
      for (int i = 0; i < count; ++i) rows[i] = x.As<float>() + (first + i) * x.stride(0);
      PackTile(rows, count, k, packed + first * k);
    }
  });
  return packed;
}

// Adds bias and old output where asked, and writes one panel's results [rows][kPanel] to rows first_row… of out.
MOED_ALWAYS_INLINE void WriteTile(const GemmArgs& args, const float* products, int64_t first_row, int rows,
                                  int64_t panel) {
  const int64_t column = panel * kPanel;
  for (int row = 0; row < rows; ++row) {
    float* const out = args.out.As<float>() + (first_row + row) * args.out.stride(0) + column;
    for (int64_t i = 0; i < kPanel && column + i < args.weight.n; i += kLanes) {
      const int64_t left = args.weight.n - column - i, n = left < kLanes ? left : kLanes;
      VecF32 value = Load(products + row * kPanel + i);
      if (!args.bias.empty()) value += LoadFirst(args.bias.As<float>() + column + i, n);
      if (args.accumulate) value += LoadFirst(out + i, n);
      StoreFirst(out + i, value, n);
    }
  }
}

// The products of some row tiles with some panels, written to out.
void RunItem(const GemmArgs& args, const float* packed, int64_t num_tiles, const WorkSplit::Item& item) {
  const int64_t m = args.x.dim(0), item_tiles = item.tile_end - item.tile_begin;
  const Panels panels(args.weight);
  alignas(64) float products[kMaxTileOutputs];
  int count;
  for (int64_t panel = item.panel_begin; panel < item.panel_end; panel += count) {
    count = PanelStep(m, num_tiles);
    if (panel + count > item.panel_end) count = static_cast<int>(item.panel_end - panel);
    const char* const next = panel + count < item.panel_end ? panels.Panel(panel + count) : nullptr;
    for (int64_t tile = 0; tile < item_tiles; ++tile) {
      const int64_t first_row = TileBegin(m, num_tiles, item.tile_begin + tile);
      const int rows = static_cast<int>(TileBegin(m, num_tiles, item.tile_begin + tile + 1) - first_row);
      TileProduct(packed + first_row * args.weight.k, rows, panels, panel, count,
                  PartToPrefetch(next, panels, tile, item_tiles), products);
      for (int i = 0; i < count; ++i) WriteTile(args, products + i * rows * kPanel, first_row, rows, panel + i);
    }
  }
}

}  // namespace

void Gemm(const ExecContext& ctx, const GemmArgs& args) {
  const int64_t m = args.x.dim(0);
  if (m == 0 || args.weight.n == 0) return;
  const Workspace::Scope scope(ctx.workspace);
  const int64_t num_tiles = NumTiles(m);
  const float* const packed = PackRows(ctx, args.x, num_tiles);
  const WorkSplit split(Panels::Count(args.weight), num_tiles, ctx.threads->num_threads());
  ctx.threads->ParallelFor(split.num_items(), 1, [&](int64_t begin, int64_t end, int /*worker*/) {
    for (int64_t i = begin; i < end; ++i) RunItem(args, packed, num_tiles, split.item(i, num_tiles));
  });
}

}  // namespace moed::kernels::MOED_ISA
