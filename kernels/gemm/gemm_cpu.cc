#include "kernels/gemm/gemm.h"
#include "kernels/gemm/micro_kernel.h"
#include "kernels/gemm/row_tiles.h"
#include "kernels/gemm/work_split.h"

namespace moed::kernels::MOED_ISA {
namespace {

// One product of m rows with one weight; strides in elements.
struct Product {
  const float* x;
  int64_t x_stride;
  const PackedWeight* weight;
  const float* bias;  // or null
  bool accumulate;
  float* out;
  int64_t out_stride;
};

// The rows of each product's x as tiles, one after the other; product i's start at i * m rows.
template <typename ProductAt>
const char* PackRows(const ExecContext& ctx, int64_t num_products, const ProductAt& product_at, int64_t m,
                     const TileFormat& format, int64_t num_tiles) {
  const int64_t row_bytes = format.row_bytes();
  const auto bytes = static_cast<size_t>(num_products * m * row_bytes);
  char* const packed = static_cast<char*>(ctx.workspace->Allocate(bytes));
  char* const scratch = format.converts_rows() ? static_cast<char*>(ctx.workspace->Allocate(bytes)) : nullptr;
  ctx.threads->ParallelFor(num_products * num_tiles, 1, [&](int64_t begin, int64_t end, int /*worker*/) {
    for (int64_t i = begin; i < end; ++i) {
      const Product product = product_at(i / num_tiles);
      const int64_t tile = i % num_tiles, first = TileBegin(m, num_tiles, tile);
      const int count = static_cast<int>(TileBegin(m, num_tiles, tile + 1) - first);
      const float* rows[kMaxTileRows];
      for (int row = 0; row < count; ++row) rows[row] = product.x + (first + row) * product.x_stride;
      const int64_t place = (i / num_tiles * m + first) * row_bytes;
      format.Pack(rows, count, scratch == nullptr ? nullptr : scratch + place, packed + place);
    }
  });
  return packed;
}

// Adds bias and old output where asked, and writes one panel's results [rows][kPanel] to rows first_row… of out.
MOED_ALWAYS_INLINE void WriteTile(const Product& product, const float* results, int64_t first_row, int rows,
                                  int64_t panel) {
  const int64_t column = panel * kPanel;
  for (int row = 0; row < rows; ++row) {
    float* const out = product.out + (first_row + row) * product.out_stride + column;
    for (int64_t i = 0; i < kPanel && column + i < product.weight->n; i += kLanes) {
      const int64_t left = product.weight->n - column - i, n = left < kLanes ? left : kLanes;
      VecF32 value = Load(results + row * kPanel + i);
      if (product.bias != nullptr) value += LoadFirst(product.bias + column + i, n);
      if (product.accumulate) value += LoadFirst(out + i, n);
      StoreFirst(out + i, value, n);
    }
  }
}

// The product of some row tiles (of m rows packed as num_tiles tiles) with some panels.
void RunItem(const Product& product, const char* packed, int64_t row_bytes, int64_t m, int64_t num_tiles,
             const WorkSplit::Item& item) {
  const int64_t item_tiles = item.tile_end - item.tile_begin;
  const Panels panels(*product.weight);
  alignas(64) float results[kMaxTileOutputs];
  int count;
  for (int64_t panel = item.panel_begin; panel < item.panel_end; panel += count) {
    count = PanelStep(m, num_tiles);
    if (panel + count > item.panel_end) count = static_cast<int>(item.panel_end - panel);
    const char* const next = panel + count < item.panel_end ? panels.Panel(panel + count) : nullptr;
    for (int64_t tile = 0; tile < item_tiles; ++tile) {
      const int64_t first_row = TileBegin(m, num_tiles, item.tile_begin + tile);
      const int rows = static_cast<int>(TileBegin(m, num_tiles, item.tile_begin + tile + 1) - first_row);
      TileProduct(packed + first_row * row_bytes, rows, panels, panel, count,
                  PartToPrefetch(next, panels, tile, item_tiles), results);
      for (int i = 0; i < count; ++i) WriteTile(product, results + i * rows * kPanel, first_row, rows, panel + i);
    }
  }
}

// Products of m rows each with weights of one shape and format; product_at(i) describes the i-th.
template <typename ProductAt>
void RunProducts(const ExecContext& ctx, int64_t num_products, int64_t m, const ProductAt& product_at) {
  if (m == 0 || num_products == 0) return;
  const PackedWeight& weight = *product_at(0).weight;
  if (weight.n == 0) return;
  const Workspace::Scope scope(ctx.workspace);
  const TileFormat format(weight);
  const int64_t num_tiles = NumTiles(m, format.max_rows()), product_bytes = m * format.row_bytes();
  const char* packed = nullptr;  // a single row may be its own tile
  if (m > 1 || format.NeedsPacking(1)) packed = PackRows(ctx, num_products, product_at, m, format, num_tiles);
  const WorkSplit split(Panels::Count(weight), num_tiles, format.max_rows() * format.row_bytes(),
                        ctx.threads->num_threads(), num_products);
  const int64_t items = split.num_items();
  ctx.threads->ParallelFor(num_products * items, 1, [&](int64_t begin, int64_t end, int /*worker*/) {
    for (int64_t i = begin; i < end; ++i) {
      const Product product = product_at(i / items);
      const char* const rows =
          packed != nullptr ? packed + i / items * product_bytes : reinterpret_cast<const char*>(product.x);
      RunItem(product, rows, format.row_bytes(), m, num_tiles, split.item(i % items, num_tiles));
    }
  });
}

}  // namespace

void Gemm(const ExecContext& ctx, const GemmArgs& args) {
  RunProducts(ctx, 1, args.x.dim(0), [&](int64_t /*i*/) {
    return Product{.x = args.x.As<float>(),
                   .x_stride = args.x.stride(0),
                   .weight = &args.weight,
                   .bias = args.bias.As<float>(),
                   .accumulate = args.accumulate,
                   .out = args.out.As<float>(),
                   .out_stride = args.out.stride(0)};
  });
}

void BatchedGemm(const ExecContext& ctx, const BatchedGemmArgs& args) {
  RunProducts(ctx, args.x.dim(1), args.x.dim(0), [&](int64_t head) {
    return Product{.x = args.x.As<float>() + head * args.x.stride(1),
                   .x_stride = args.x.stride(0),
                   .weight = args.weights + head,
                   .bias = nullptr,
                   .accumulate = false,
                   .out = args.out.As<float>() + head * args.out.stride(1),
                   .out_stride = args.out.stride(0)};
  });
}

}  // namespace moed::kernels::MOED_ISA
