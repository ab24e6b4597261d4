// Two loops over weights, each cut into items for the threads:
//   hidden = act(x * gate) * (x * up)    items (expert, some panels)
//   out = sum of weight * hidden * down  items (some panels of the output) through all experts, so that an item has all
//                                        of a token's choices and adds them in the order of the experts
// Both read each weight of a chosen expert once, whatever the number of its tokens.
#include "kernels/gemm/micro_kernel.h"
#include "kernels/gemm/row_tiles.h"
#include "kernels/gemm/work_split.h"
#include "kernels/moe_ffn/moe_ffn.h"

namespace moed::kernels::MOED_ISA {
namespace {

// Some of an expert's pairs: sorted_pairs[first .. first + rows).
struct Tile {
  const char* x;  // packed for gate and up, or the token's own row where a tile of one row is that
  // What comes out of the activation: packed for down where that takes floats, else rows, packed when they are whole.
  float* hidden;        // [intermediate][rows], or [rows][intermediate]
  const char* down_in;  // packed for down
  int64_t first;
  int rows;
};

// An expert that has tokens, and its tiles: [tile_begin, tile_end).
struct ActiveExpert {
  int64_t expert;
  int64_t rows;
  int64_t tile_begin, tile_end;
};

struct Plan {
  TileFormat x_format, hidden_format;
  char* converted_x;    // [num_tokens] tiles of one row, where x_format converts rows: each token's once
  char* packed_x;       // tile t's at t.first times the bytes of a row
  char* packed_hidden;  // likewise; null where `hidden` is packed as it is written
  char* hidden_scratch;

  // Row `token` of x as a tile of one row, which needs no packing, or nothing more than ConvertX did.
  MOED_ALWAYS_INLINE const char* RowTile(const MoeFfnArgs& args, int64_t token) const {
    if (x_format.converts_rows()) return converted_x + token * x_format.row_bytes();
    return reinterpret_cast<const char*>(args.x.As<float>() + token * args.x.stride(0));
  }
  MOED_ALWAYS_INLINE bool NeedsJoining(int rows) const {
    return rows > 1 || (x_format.takes_rows() && !x_format.converts_rows());
  }
  ActiveExpert* experts;
  int64_t num_experts;
  Tile* tiles;
  int64_t num_tiles;
  int64_t max_tiles;  // of one expert
};

template <typename T>
T* Allocate(const ExecContext& ctx, int64_t count) {
  return static_cast<T*>(ctx.workspace->Allocate(static_cast<size_t>(count) * sizeof(T)));
}

// Memory for one packed row of each pair.
char* AllocateTiles(const ExecContext& ctx, const TileFormat& format, int64_t num_pairs) {
  return Allocate<char>(ctx, num_pairs * format.row_bytes());
}

Plan MakePlan(const ExecContext& ctx, const MoeFfnArgs& args) {
  const int64_t intermediate = args.gate[0].n, num_pairs = args.sorted_pairs.dim(0);
  const int32_t* const offsets = args.expert_offsets.As<int32_t>();
  const int32_t* const pairs = args.sorted_pairs.As<int32_t>();
  Plan plan = {.x_format = TileFormat(args.gate[0]),
               .hidden_format = TileFormat(args.down[0]),
               .converted_x = nullptr,
               .packed_x = nullptr,
               .packed_hidden = nullptr,
               .hidden_scratch = nullptr,
               .experts = Allocate<ActiveExpert>(ctx, args.num_experts),
               .num_experts = 0,
               .tiles = Allocate<Tile>(ctx, num_pairs),
               .num_tiles = 0,
               .max_tiles = 1};
  if (plan.x_format.converts_rows()) plan.converted_x = AllocateTiles(ctx, plan.x_format, args.x.dim(0));
  plan.packed_x = AllocateTiles(ctx, plan.x_format, num_pairs);
  if (plan.hidden_format.takes_rows()) plan.packed_hidden = AllocateTiles(ctx, plan.hidden_format, num_pairs);
  if (plan.hidden_format.converts_rows()) plan.hidden_scratch = AllocateTiles(ctx, plan.hidden_format, num_pairs);
  float* const hidden_values = Allocate<float>(ctx, num_pairs * intermediate);
  const int x_rows = plan.x_format.max_rows(), hidden_rows = plan.hidden_format.max_rows();
  for (int64_t expert = 0; expert < args.num_experts; ++expert) {
    const int64_t begin = offsets[expert], rows = offsets[expert + 1] - begin;
    if (rows == 0) continue;
    const int64_t count = NumTiles(rows, x_rows < hidden_rows ? x_rows : hidden_rows);
    plan.experts[plan.num_experts++] = {expert, rows, plan.num_tiles, plan.num_tiles + count};
    if (count > plan.max_tiles) plan.max_tiles = count;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t first = begin + TileBegin(rows, count, i);
      const int tile_rows = static_cast<int>(begin + TileBegin(rows, count, i + 1) - first);
      Tile& tile = plan.tiles[plan.num_tiles++];
      tile.x = plan.NeedsJoining(tile_rows) ? plan.packed_x + first * plan.x_format.row_bytes()
                                            : plan.RowTile(args, pairs[first] / args.top_k);
      tile.hidden = hidden_values + first * intermediate;
      tile.down_in = plan.packed_hidden == nullptr ? reinterpret_cast<const char*>(tile.hidden)
                                                   : plan.packed_hidden + first * plan.hidden_format.row_bytes();
      tile.first = first;
      tile.rows = tile_rows;
    }
  }
  return plan;
}

// Makes integers or bf16 of the tokens' rows, where gate and up take these.
void ConvertX(const ExecContext& ctx, const MoeFfnArgs& args, const Plan& plan) {
  if (!plan.x_format.converts_rows()) return;
  ctx.threads->ParallelFor(args.x.dim(0), 4, [&](int64_t begin, int64_t end, int /*worker*/) {
    for (int64_t token = begin; token < end; ++token) {
      plan.x_format.Convert(args.x.As<float>() + token * args.x.stride(0),
                            plan.converted_x + token * plan.x_format.row_bytes());
    }
  });
}

// Gathers the tokens' rows of each tile.
void PackTiles(const ExecContext& ctx, const MoeFfnArgs& args, const Plan& plan) {
  if (plan.num_tiles == args.sorted_pairs.dim(0) && !plan.NeedsJoining(1)) return;
  const int32_t* const pairs = args.sorted_pairs.As<int32_t>();
  ctx.threads->ParallelFor(plan.num_tiles, 1, [&](int64_t begin, int64_t end, int /*worker*/) {
    for (int64_t i = begin; i < end; ++i) {
      const Tile& tile = plan.tiles[i];
      if (!plan.NeedsJoining(tile.rows)) continue;
      const char* rows[kMaxTileRows];
      for (int row = 0; row < tile.rows; ++row) {
        rows[row] = plan.RowTile(args, pairs[tile.first + row] / args.top_k);
      }
      char* const packed = plan.packed_x + tile.first * plan.x_format.row_bytes();
      if (plan.x_format.converts_rows()) {
        plan.x_format.Join(rows, tile.rows, packed);
      } else {
        plan.x_format.Pack(reinterpret_cast<const float* const*>(rows), tile.rows, nullptr, packed);
      }
    }
  });
}

// Integers and rounded rows are scaled by the largest of many values, so they wait until the rows are complete.
void PackHidden(const ExecContext& ctx, const MoeFfnArgs& args, const Plan& plan) {
  if (plan.packed_hidden == nullptr) return;
  const int64_t intermediate = args.gate[0].n;
  ctx.threads->ParallelFor(plan.num_tiles, 1, [&](int64_t begin, int64_t end, int /*worker*/) {
    for (int64_t i = begin; i < end; ++i) {
      const Tile& tile = plan.tiles[i];
      const float* rows[kMaxTileRows];
      for (int row = 0; row < tile.rows; ++row) rows[row] = tile.hidden + row * intermediate;
      const int64_t place = tile.first * plan.hidden_format.row_bytes();
      char* const scratch = plan.hidden_scratch == nullptr ? nullptr : plan.hidden_scratch + place;
      plan.hidden_format.Pack(rows, tile.rows, scratch, plan.packed_hidden + place);
    }
  });
}

// results[rows][kPanel] += bias[outputs], of one panel.
MOED_ALWAYS_INLINE void AddBias(const float* bias, int64_t outputs, int rows, float* results) {
  for (int64_t i = 0; i < outputs; i += kLanes) {
    const VecF32 b = LoadFirst(bias + i, outputs - i < kLanes ? outputs - i : kLanes);
    for (int row = 0; row < rows; ++row) Store(results + row * kPanel + i, Load(results + row * kPanel + i) + b);
  }
}

// The second operand is taken where one is NaN, so that a NaN is not lost.
MOED_ALWAYS_INLINE VecF32 ClampedSwiglu(VecF32 gate, VecF32 up, float alpha, float limit) {
  const VecF32 g = Min(Set(limit), gate);
  const VecF32 u = Max(Set(-limit), Min(Set(limit), up));
  return g / (1.0f + Exp(-alpha * g)) * (u + 1.0f);
}

// The part of tile.hidden for the `outputs` outputs from `column` on: act(gate, up), of one panel's products
// [rows][kPanel]; `gate` is overwritten.
MOED_ALWAYS_INLINE void ActivateTile(const MoeFfnArgs& args, float* gate, const float* up, const Tile& tile,
                                     int64_t column, int64_t outputs, const TileFormat& hidden_format) {
  const int rows = tile.rows;
  const int size = rows * static_cast<int>(kPanel);
  if (args.activation == Activation::kSilu) {
    for (int i = 0; i < size; i += kLanes) Store(gate + i, Silu(Load(gate + i)) * Load(up + i));
  } else if (args.activation == Activation::kGeluTanh) {
    for (int i = 0; i < size; i += kLanes) Store(gate + i, GeluTanh(Load(gate + i)) * Load(up + i));
  } else {
    const float alpha = args.swiglu_alpha, limit = args.swiglu_limit;
    for (int i = 0; i < size; i += kLanes) {
      Store(gate + i, ClampedSwiglu(Load(gate + i), Load(up + i), alpha, limit));
    }
  }
  if (hidden_format.takes_rows()) {
    for (int row = 0; row < rows; ++row) {
      std::memcpy(tile.hidden + row * hidden_format.k + column, gate + row * kPanel,
                  static_cast<size_t>(outputs) * sizeof(float));
    }
    return;
  }
  const float* tile_rows[kMaxTileRows];
  for (int row = 0; row < rows; ++row) tile_rows[row] = gate + row * kPanel;
  PackTile(tile_rows, rows, outputs, tile.hidden + column * rows);
}

// The hidden values of some tiles of an expert for some panels of gate and up.
void GateUpItem(const MoeFfnArgs& args, const Plan& plan, const ActiveExpert& expert, const WorkSplit::Item& item) {
  const Panels gate(args.gate[expert.expert]), up(args.up[expert.expert]);
  const int64_t intermediate = args.gate[expert.expert].n, item_tiles = item.tile_end - item.tile_begin;
  alignas(64) float gate_products[kMaxTileOutputs], up_products[kMaxTileOutputs];
  int count;
  for (int64_t panel = item.panel_begin; panel < item.panel_end; panel += count) {
    count = PanelStep(expert.rows, expert.tile_end - expert.tile_begin);
    if (panel + count > item.panel_end) count = static_cast<int>(item.panel_end - panel);
    const bool has_next = panel + count < item.panel_end;
    for (int64_t t = 0; t < item_tiles; ++t) {
      const Tile& tile = plan.tiles[expert.tile_begin + item.tile_begin + t];
      TileProduct(tile.x, tile.rows, gate, panel, count,
                  PartToPrefetch(has_next ? gate.Panel(panel + count) : nullptr, gate, t, item_tiles), gate_products);
      TileProduct(tile.x, tile.rows, up, panel, count,
                  PartToPrefetch(has_next ? up.Panel(panel + count) : nullptr, up, t, item_tiles), up_products);
      for (int i = 0; i < count; ++i) {
        const int64_t column = (panel + i) * kPanel, left = intermediate - column;
        const int64_t outputs = left < kPanel ? left : kPanel;
        float* const gate_panel = gate_products + i * tile.rows * kPanel;
        float* const up_panel = up_products + i * tile.rows * kPanel;
        if (!args.gate_bias.empty()) {
          const int64_t offset = expert.expert * intermediate + column;
          AddBias(args.gate_bias.As<float>() + offset, outputs, tile.rows, gate_panel);
          AddBias(args.up_bias.As<float>() + offset, outputs, tile.rows, up_panel);
        }
        ActivateTile(args, gate_panel, up_panel, tile, column, outputs, plan.hidden_format);
      }
    }
  }
}

void GateUp(const ExecContext& ctx, const MoeFfnArgs& args, const Plan& plan) {
  const WorkSplit split(Panels::Count(args.gate[0]), plan.max_tiles,
                        plan.x_format.max_rows() * plan.x_format.row_bytes(), ctx.threads->num_threads(),
                        plan.num_experts);
  const int64_t items = split.num_items();
  ctx.threads->ParallelFor(plan.num_experts * items, 1, [&](int64_t begin, int64_t end, int /*worker*/) {
    for (int64_t i = begin; i < end; ++i) {
      const ActiveExpert& expert = plan.experts[i / items];
      GateUpItem(args, plan, expert, split.item(i % items, expert.tile_end - expert.tile_begin));
    }
  });
}

// sums[token][width] += weight * products, for the panel whose columns start at `column`: products [rows][kPanel].
MOED_ALWAYS_INLINE void AddProducts(const MoeFfnArgs& args, const Tile& tile, const float* products, int64_t column,
                                    int64_t width, float* sums) {
  const int32_t* const pairs = args.sorted_pairs.As<int32_t>();
  const float* const weights = args.weights.As<float>();
  for (int row = 0; row < tile.rows; ++row) {
    const int32_t pair = pairs[tile.first + row];
    const VecF32 weight = Set(weights[pair]);
    float* const sum = sums + pair / args.top_k * width + column;
    for (int i = 0; i < kPanel; i += kLanes) {
      Store(sum + i, MulAdd(Load(products + row * kPanel + i), weight, Load(sum + i)));
    }
  }
}

// The weighted sums of all experts' results, expert after expert, for panels [panel_begin, panel_end) of the output:
// sums[num_tokens][width], width = (panel_end - panel_begin) * kPanel.
void DownPanels(const MoeFfnArgs& args, const Plan& plan, int64_t panel_begin, int64_t panel_end, float* sums) {
  const int64_t width = (panel_end - panel_begin) * kPanel, down_outputs = args.down[0].n;
  __builtin_memset(sums, 0, static_cast<size_t>(args.x.dim(0) * width) * sizeof(float));
  alignas(64) float products[kMaxTileOutputs];
  for (int64_t e = 0; e < plan.num_experts; ++e) {
    const ActiveExpert& expert = plan.experts[e];
    const Panels down(args.down[expert.expert]);
    const int64_t num_tiles = expert.tile_end - expert.tile_begin;
    int count;
    for (int64_t panel = panel_begin; panel < panel_end; panel += count) {
      count = PanelStep(expert.rows, num_tiles);
      if (panel + count > panel_end) count = static_cast<int>(panel_end - panel);
      // After the last panel of this expert comes the first of the next.
      const char* next = panel + count < panel_end ? down.Panel(panel + count) : nullptr;
      if (next == nullptr && e + 1 < plan.num_experts) {
        next = Panels(args.down[plan.experts[e + 1].expert]).Panel(panel_begin);
      }
      for (int64_t t = 0; t < num_tiles; ++t) {
        const Tile& tile = plan.tiles[expert.tile_begin + t];
        TileProduct(tile.down_in, tile.rows, down, panel, count, PartToPrefetch(next, down, t, num_tiles), products);
        for (int i = 0; i < count; ++i) {
          float* const of_panel = products + i * tile.rows * kPanel;
          const int64_t column = (panel + i) * kPanel, left = down_outputs - column;
          if (!args.down_bias.empty()) {
            AddBias(args.down_bias.As<float>() + expert.expert * down_outputs + column, left < kPanel ? left : kPanel,
                    tile.rows, of_panel);
          }
          AddProducts(args, tile, of_panel, (panel - panel_begin + i) * kPanel, width, sums);
        }
      }
    }
  }
}

// out[..][column ..] (+)= sums [num_tokens][width]
void WriteSums(const MoeFfnArgs& args, const float* sums, int64_t column, int64_t width) {
  const int64_t num_tokens = args.x.dim(0), hidden = args.x.dim(1);
  const int64_t columns = hidden - column < width ? hidden - column : width;
  for (int64_t token = 0; token < num_tokens; ++token) {
    float* const out = args.out.As<float>() + token * args.out.stride(0) + column;
    for (int64_t i = 0; i < columns; i += kLanes) {
      const int64_t n = columns - i < kLanes ? columns - i : kLanes;
      VecF32 sum = Load(sums + token * width + i);
      if (args.accumulate) sum += LoadFirst(out + i, n);
      StoreFirst(out + i, sum, n);
    }
  }
}

// The sums lie apart from `out`, whose rows are so far apart that their parts would share few places of the caches.
void Down(const ExecContext& ctx, const MoeFfnArgs& args, const Plan& plan) {
  const WorkSplit split(Panels::Count(args.down[0]), plan.max_tiles,
                        plan.hidden_format.max_rows() * plan.hidden_format.row_bytes(), ctx.threads->num_threads());
  const int64_t sums_size = args.x.dim(0) * split.group_size() * kPanel;
  float* const all_sums = Allocate<float>(ctx, sums_size * ctx.threads->num_threads());
  ctx.threads->ParallelFor(split.num_groups(), 1, [&](int64_t begin, int64_t end, int worker) {
    for (int64_t i = begin; i < end; ++i) {
      const WorkSplit::Item item = split.group(i, plan.num_tiles);
      float* const sums = all_sums + worker * sums_size;
      DownPanels(args, plan, item.panel_begin, item.panel_end, sums);
      WriteSums(args, sums, item.panel_begin * kPanel, (item.panel_end - item.panel_begin) * kPanel);
    }
  });
}

}  // namespace

void MoeFfn(const ExecContext& ctx, const MoeFfnArgs& args) {
  if (args.x.dim(0) == 0) return;
  const Workspace::Scope scope(ctx.workspace);
  const Plan plan = MakePlan(ctx, args);
  ConvertX(ctx, args, plan);
  PackTiles(ctx, args, plan);
  GateUp(ctx, args, plan);
  PackHidden(ctx, args, plan);
  Down(ctx, args, plan);
}

}  // namespace moed::kernels::MOED_ISA
