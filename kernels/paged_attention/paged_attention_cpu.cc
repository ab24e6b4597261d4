#include "kernels/paged_attention/paged_attention.h"
#include "kernels/paged_attention/paged_attention_integers.h"
#include "kernels/paged_attention/paged_attention_plan.h"
#include "kernels/paged_attention/paged_attention_tile.h"

namespace moed::kernels::MOED_ISA {
namespace {

using Piece = PagedAttentionPlan::Piece;

MOED_ALWAYS_INLINE int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }
MOED_ALWAYS_INLINE int64_t Max(int64_t a, int64_t b) { return a > b ? a : b; }

struct Sizes {
  int64_t group;  // query heads of one KV head
  int64_t k_head_dim, v_head_dim;
  int64_t padded_dim;  // v_head_dim up to whole vectors, or whole chunks where products are of integers

  int64_t QueryFloats(int64_t rows) const {
    return kMultipliesIntegers ? IntegerQueries::Floats(rows, k_head_dim) : rows * k_head_dim;
  }
};

// What has been summed up for each row of a block: the largest score, the sum of the weights and of weighted values.
struct RowStates {
  float* max;  // [rows]
  float* sum;  // [rows]
  float* acc;  // [rows, padded_dim], each row in the order of PlaceOfFour() where products are of integers

  MOED_ALWAYS_INLINE void Clear(int64_t rows, int64_t padded_dim) const {
    for (int64_t r = 0; r < rows; ++r) {
      max[r] = kMinusInfinity;
      sum[r] = 0.0f;
    }
    __builtin_memset(acc, 0, static_cast<size_t>(rows * padded_dim) * sizeof(float));
  }
};

// Memory for states of `rows` rows, starting at `memory`.
MOED_ALWAYS_INLINE RowStates CarveStates(float* memory, int64_t rows, int64_t padded_dim) {
  return {memory + rows * padded_dim, memory + rows * (padded_dim + 1), memory};
}

// One worker's own memory.
struct Scratch {
  float* q;       // [kMaxBlockRows, k_head_dim], or IntegerQueries of each head
  float* keys;    // [k_head_dim, kTilePositions]
  float* values;  // [kTilePositions, padded_dim]
  float* scores;  // [kTileRows, kTilePositions]
  RowStates total, split;

  static int64_t Floats(const Sizes& sizes, int64_t rows) {
    const int64_t floats = sizes.QueryFloats(rows) +
                           (sizes.k_head_dim + sizes.padded_dim + kTileRows) * kTilePositions +
                           2 * rows * (sizes.padded_dim + 2);
    return (floats + 31) / 16 * 16;
  }

  Scratch(float* memory, const Sizes& sizes, int64_t rows) {
    keys = memory;
    values = keys + sizes.k_head_dim * kTilePositions;
    scores = values + sizes.padded_dim * kTilePositions;
    total = CarveStates(scores + kTileRows * kTilePositions, rows, sizes.padded_dim);
    split = CarveStates(total.acc + rows * (sizes.padded_dim + 2), rows, sizes.padded_dim);
    q = split.acc + rows * (sizes.padded_dim + 2);
  }
};

float* AllocateFloats(Workspace* workspace, int64_t count) {
  return static_cast<float*>(workspace->Allocate(static_cast<size_t>(count) * sizeof(float)));
}

// Writes the result of a row, and may leave something else in `acc`.
void FinishHead(const PagedAttentionArgs& args, const Sizes& sizes, int64_t token, int64_t head, float max, float sum,
                float* acc) {
  const float* sink = args.sinks.empty() ? nullptr : args.sinks.As<float>() + head;
  float* const out = args.out.As<float>() + token * args.out.stride(0) + head * sizes.v_head_dim;
  if (!kMultipliesIntegers) return FinishRow(max, sum, sink, acc, sizes.v_head_dim, out);
  FinishRow(max, sum, sink, acc, sizes.padded_dim, acc);
  for (int64_t d = 0; d < sizes.v_head_dim; d += 4) std::memcpy(out + d, acc + PlaceOfFour(d), 4 * sizeof(float));
}

// A block of query rows on its way over the positions of its sequence, for some neighbouring KV heads.
template <typename T>
class BlockPass {
 public:
  BlockPass(const PagedAttentionArgs& args, const Sizes& sizes, const Piece& piece, const Scratch& scratch)
      : args_(args), sizes_(sizes), piece_(piece), scratch_(scratch) {
    LoadQueries();
  }

  // Rows of one head.
  int64_t rows() const { return piece_.num_tokens * sizes_.group; }
  int num_heads() const { return piece_.end_head - piece_.first_head; }

  // Attends to the positions of one split; states_of(head) start from nothing.
  template <typename StatesOf>
  void AttendSplit(int split, const StatesOf& states_of) {
    for (int head = 0; head < num_heads(); ++head) states_of(head).Clear(rows(), sizes_.padded_dim);
    const int64_t begin = Max(static_cast<int64_t>(split) * kSplitPositions, piece_.first_visible);
    const int64_t end = Min(static_cast<int64_t>(split + 1) * kSplitPositions, end_position());
    for (int64_t tile = begin / kTilePositions * kTilePositions; tile < end; tile += kTilePositions) {
      for (int head = 0; head < num_heads(); ++head) {
        LoadTile(tile, head);
        AttendTile(tile, head, states_of(head));
      }
    }
  }

  void Finish(int head, const RowStates& states) const {
    for (int64_t r = 0; r < rows(); ++r) {
      FinishHead(args_, sizes_, piece_.first_token + r / sizes_.group,
                 (piece_.first_head + head) * sizes_.group + r % sizes_.group, states.max[r], states.sum[r],
                 states.acc + r * sizes_.padded_dim);
    }
  }

 private:
  // The positions that the block sees end here.
  int64_t end_position() const { return ContextOf(piece_.num_tokens - 1); }

  // Token t of the block sees positions [FirstOf(t), ContextOf(t)).
  int64_t ContextOf(int64_t t) const { return piece_.first_context + t; }
  int64_t FirstOf(int64_t t) const { return args_.window == 0 ? 0 : Max(0, ContextOf(t) - args_.window); }

  float* Queries(int head) const { return scratch_.q + head * sizes_.QueryFloats(rows()); }
  IntegerQueries IntegersOf(int head) const { return {Queries(head), rows(), sizes_.k_head_dim}; }

  // Row r is query head r % group (of this KV head) of token r / group, times the scale.
  void LoadQueries() {
    for (int head = 0; head < num_heads(); ++head) {
      float* const q = Queries(head);
      for (int64_t r = 0; r < rows(); ++r) {
        const float* row = args_.q.As<float>() + (piece_.first_token + r / sizes_.group) * args_.q.stride(0) +
                           ((piece_.first_head + head) * sizes_.group + r % sizes_.group) * args_.q.stride(1);
        if constexpr (kMultipliesIntegers) {
          IntegersOf(head).Set(r, row, args_.scale);
        } else {
          for (int64_t d = 0; d < sizes_.k_head_dim; ++d) q[r * sizes_.k_head_dim + d] = row[d] * args_.scale;
        }
      }
    }
  }

  // Where the keys and values of one tile of one head lie.
  struct TileRows {
    int64_t tile = -1;
    int head = -1;
    CacheRows<T> keys;        // in one layout
    CacheWords<T> key_words;  // or in the other
    CacheRows<T> values;
    ValueGroups value_groups;  // where products are of integers
  };

  // The part of the tile that some row of the block sees.
  TileRange VisibleRange(int64_t tile) const {
    return {static_cast<int>(Max(piece_.first_visible - tile, 0)),
            static_cast<int>(Min(end_position() - tile, kTilePositions))};
  }

  void FindRows(int64_t tile, int head, TileRows* rows) const {
    const int32_t* block_ids = args_.block_ids.As<int32_t>() + args_.block_starts.As<int32_t>()[piece_.sequence];
    // Divisions of 64 bits would show.
    const int block_size = static_cast<int>(args_.k_pages.dim(2));
    const TileRange range = VisibleRange(tile);
    const int first = static_cast<int>(tile) + range.begin;
    int block = first / block_size, offset = first % block_size;
    for (int i = range.begin; i < range.end; ++block, offset = 0) {
      const int64_t first_row = (block_ids[block] * args_.k_pages.dim(1) + piece_.first_head + head) * block_size;
      const int end = i + block_size - offset < range.end ? i + block_size - offset : range.end;
      if (in_words()) {
        // A block holds whole groups of positions.
        for (int g = i / kLanes; g * kLanes < end; ++g) {
          rows->key_words.Set(g, args_.k_pages, args_.k_scales, first_row, offset + g * kLanes - i);
        }
      } else {
        rows->keys.Set(i, end, args_.k_pages, args_.k_scales, first_row + offset);
      }
      if constexpr (!kMultipliesIntegers) {
        rows->values.Set(i, end, args_.v_pages, args_.v_scales, first_row + offset);
      } else {
        constexpr int kGroup = ValueGroups::kPositions;
        for (int g = i / kGroup; g * kGroup < end; ++g) {
          rows->value_groups.Set(g, args_.v_pages, args_.v_scales, first_row + offset + g * kGroup - i);
        }
      }
      i = end;
    }
    FillUnseen(range, rows);
    rows->tile = tile;
    rows->head = head;
  }

  // Keys that nobody may see take part, in vectors with others, as copies of one that is seen, or as they lie beside
  // others in words; their scores are thrown away. So do values, in integers, with weights of zero.
  void FillUnseen(TileRange range, TileRows* rows) const {
    const auto fill = [](int begin, int end, int from, auto* to) {
      for (int i = begin; i < end; ++i) to->Copy(from, i);
    };
    if (in_words()) {
      const int begin = range.begin / kLanes, end = (range.end + kLanes - 1) / kLanes;
      fill(0, begin, begin, &rows->key_words);
      fill(end, CacheWords<T>::kGroups, begin, &rows->key_words);
    } else {
      fill(0, range.begin, range.begin, &rows->keys);
      fill(range.end, kTilePositions, range.begin, &rows->keys);
    }
    if constexpr (kMultipliesIntegers) {
      constexpr int kGroup = ValueGroups::kPositions;
      const int begin = range.begin / kGroup, end = (range.end + kGroup - 1) / kGroup;
      fill(0, begin, begin, &rows->value_groups);
      fill(end, ValueGroups::kGroups, begin, &rows->value_groups);
    }
  }

  bool in_words() const { return kMultipliesIntegers || args_.key_layout == KeyLayout::kWords; }

  // Brings in the keys and values of one tile and head. Those of the next are asked for on the way, here and in
  // AttendTile().
  void LoadTile(int64_t tile, int head) {
    turn_ = 1 - turn_;
    TileRows& rows = tile_rows_[turn_];
    if (rows.tile != tile || rows.head != head) FindRows(tile, head, &rows);
    PrefetchAfter(tile, head, &tile_rows_[1 - turn_]);
    if constexpr (!kMultipliesIntegers) PackTile(VisibleRange(tile), rows);
  }

  void PackTile(TileRange range, const TileRows& rows) {
    if (!in_words()) {
      PackKeys(rows.keys, range, sizes_.k_head_dim, scratch_.keys);
    } else if (!UsesCachedKeys()) {
      PackWords(rows.key_words, range, sizes_.k_head_dim, next_words_, scratch_.keys);
    }
    if (!UsesCachedValues()) {
      PackValues(rows.values, range, sizes_.v_head_dim, sizes_.padded_dim, &next_values_, scratch_.values);
    }
  }

  // Finds the rows that come after that tile and head, if any do.
  void PrefetchAfter(int64_t tile, int head, TileRows* next) {
    next_keys_ = {};
    next_words_ = nullptr;
    next_values_ = {};
    const bool is_last_head = head + 1 == num_heads();
    const int64_t next_tile = is_last_head ? tile + kTilePositions : tile;
    if (next_tile >= Min(static_cast<int64_t>(piece_.end_split) * kSplitPositions, end_position())) return;
    FindRows(next_tile, is_last_head ? 0 : head + 1, next);
    const TileRange range = VisibleRange(next_tile);
    if (in_words()) {
      next_words_ = &next->key_words;
    } else {
      next_keys_ = RowPrefetch<T>(next->keys.rows, range, sizes_.k_head_dim);
    }
    // Parts of the keys, or asked for with the keys.
    if (args_.v_pages.data == args_.k_pages.data || kMultipliesIntegers) return;
    next_values_ = RowPrefetch<T>(next->values.rows, range, sizes_.v_head_dim);
  }

  // Keys and values of few rows are not worth packing.
  static constexpr int64_t kFewRows = 3 * kTileRows;
  bool UsesCachedKeys() const { return in_words() && rows() <= kFewRows; }
  bool UsesCachedValues() const { return rows() <= kFewRows && sizes_.v_head_dim == sizes_.padded_dim; }

  // The part of the tile that token t sees.
  TileRange RangeOf(int64_t tile, int64_t t) const {
    return {static_cast<int>(Max(FirstOf(t) - tile, 0)), static_cast<int>(Min(ContextOf(t) - tile, kTilePositions))};
  }

  void AttendTile(int64_t tile, int head, const RowStates& states) {
    head_ = head;
    // Tokens before the tile see nothing of it, nor do tokens whose window begins behind it.
    const int64_t first_token = Max(0, tile + 1 - piece_.first_context);
    const int64_t end_token = args_.window == 0
                                  ? piece_.num_tokens
                                  : Min(piece_.num_tokens, tile + kTilePositions + args_.window - piece_.first_context);
    const int64_t end_row = end_token * sizes_.group;
    int64_t r = first_token * sizes_.group;
    for (; r + kTileRows <= end_row; r += kTileRows) AttendRows<kTileRows>(tile, r, states);
    AttendLastRows<kTileRows - 1>(tile, r, end_row - r, states);
  }

  template <int R>
  MOED_ALWAYS_INLINE void AttendLastRows(int64_t tile, int64_t row, int64_t num_rows, const RowStates& states) {
    if (num_rows == R) return AttendRows<R>(tile, row, states);
    if constexpr (R > 1) AttendLastRows<R - 1>(tile, row, num_rows, states);
  }

  // The parts of the tile that R rows see. They only move forward from row to row.
  template <int R>
  MOED_ALWAYS_INLINE void FindRanges(int64_t tile, int64_t row, TileRange (&ranges)[R]) const {
    int t = static_cast<int>(row) / static_cast<int>(sizes_.group);
    int64_t end_of_token = (t + 1) * sizes_.group;
    for (int r = 0; r < R; ++r) {
      if (row + r == end_of_token) {
        ++t;
        end_of_token += sizes_.group;
      }
      ranges[r] = RangeOf(tile, t);
    }
  }

  template <int R>
  void AttendRows(int64_t tile, int64_t row, const RowStates& states) {
    if constexpr (kMultipliesIntegers) {
      AttendRowsInIntegers<R>(tile, row, states);
    } else {
      AttendRowsInFloats<R>(tile, row, states);
    }
  }

  template <int R>
  void AttendRowsInFloats(int64_t tile, int64_t row, const RowStates& states) {
    TileRange ranges[R];
    FindRanges<R>(tile, row, ranges);
    const TileRange first = ranges[0], last = ranges[R - 1];
    const CacheWords<T>& words = tile_rows_[turn_].key_words;
    const auto score = [&](const auto& keys) {
      Scores<R>(Queries(head_) + row * sizes_.k_head_dim, keys, sizes_.k_head_dim, {first.begin, last.end},
                scratch_.scores);
    };
    if (UsesCachedKeys()) {
      score(CachedKeys<T>{words, next_words_});
      next_words_ = nullptr;  // asked for
    } else {
      score(PackedKeys<T>{scratch_.keys, next_keys_, in_words() ? &words : nullptr});
      next_keys_ = {};  // asked for
    }
    float* acc = states.acc + row * sizes_.padded_dim;
    SoftmaxStep<R>(scratch_.scores, ranges, sizes_.padded_dim, states.max + row, states.sum + row, acc);
    // What a row does not see must not be touched, not even with weight 0: 0 times a NaN is a NaN. So the rows go
    // together where all see, and one by one before and after that.
    TileRange common = {last.begin, first.end};
    if (common.begin >= common.end) common = {kTilePositions, kTilePositions};
    const auto add = [&](const auto& values) {
      if (first.begin < common.begin) AddEdges<R>(ranges, {0, common.begin}, values, acc);
      AddValues<R>(scratch_.scores, values, common, sizes_.padded_dim, acc);
      if (common.end < last.end) AddEdges<R>(ranges, {common.end, kTilePositions}, values, acc);
    };
    if (UsesCachedValues()) {
      add(CachedValues<T>{tile_rows_[turn_].values, &next_values_});
    } else {
      add(PackedValues{scratch_.values, sizes_.padded_dim});
    }
  }

  template <int R>
  void AttendRowsInIntegers(int64_t tile, int64_t row, const RowStates& states) {
    TileRange ranges[R];
    FindRanges<R>(tile, row, ranges);
    const TileRange seen = {ranges[0].begin, ranges[R - 1].end};
    const TileRows& rows = tile_rows_[turn_];
    IntegerScores<R>(IntegersOf(head_), row, rows.key_words, next_words_, seen, scratch_.scores);
    float* const acc = states.acc + row * sizes_.padded_dim;
    SoftmaxStep<R>(scratch_.scores, ranges, sizes_.padded_dim, states.max + row, states.sum + row, acc);
    const IntegerWeights<R> weights(scratch_.scores, ranges, rows.value_groups);
    const ValueGroups* const next_values = next_words_ != nullptr ? &tile_rows_[1 - turn_].value_groups : nullptr;
    AddIntegerValues<R>(weights, rows.value_groups, next_values, seen, sizes_.v_head_dim, sizes_.padded_dim, acc);
    next_words_ = nullptr;  // asked for
  }

  // Adds the values that each of R rows sees of `part`.
  template <int R, typename Values>
  void AddEdges(const TileRange* ranges, TileRange part, const Values& values, float* acc) {
    for (int r = 0; r < R; ++r) {
      const TileRange range = ranges[r];
      const TileRange own = {static_cast<int>(Max(range.begin, part.begin)),
                             static_cast<int>(Min(range.end, part.end))};
      AddValues<1>(scratch_.scores + r * kTilePositions, values, own, sizes_.padded_dim, acc + r * sizes_.padded_dim);
    }
  }

  const PagedAttentionArgs& args_;
  const Sizes& sizes_;
  const Piece& piece_;
  const Scratch& scratch_;
  int head_ = 0;           // the current one
  TileRows tile_rows_[2];  // those of the current tile and head and of the next, in turn
  int turn_ = 0;           // which are the current ones
  RowPrefetch<T> next_keys_, next_values_;
  const CacheWords<T>* next_words_ = nullptr;
};

// Partial results of all splits, one row a (KV head, split, row) as Piece::first_partial tells.
RowStates PartialStates(const RowStates& all, const Piece& piece, int64_t kv_head, int64_t split, const Sizes& sizes) {
  const int64_t rows = piece.num_tokens * sizes.group;
  const int64_t first =
      piece.first_partial + (kv_head * piece.partial_splits + split - piece.partial_first_split) * rows;
  return {all.max + first, all.sum + first, all.acc + first * sizes.padded_dim};
}

void MergeRows(const RowStates& part, int64_t rows, int64_t padded_dim, const RowStates& total) {
  for (int64_t r = 0; r < rows; ++r) {
    MergeRow(part.max[r], part.sum[r], part.acc + r * padded_dim, padded_dim, &total.max[r], &total.sum[r],
             total.acc + r * padded_dim);
  }
}

// The part of `states` that head `head` has, of those that a piece of `rows` rows takes.
RowStates OfHead(const RowStates& states, int head, int64_t rows, int64_t padded_dim) {
  return {states.max + head * rows, states.sum + head * rows, states.acc + head * rows * padded_dim};
}

template <typename T>
void RunPiece(const PagedAttentionArgs& args, const Sizes& sizes, const Piece& piece, const RowStates& partials,
              const Scratch& scratch) {
  BlockPass<T> pass(args, sizes, piece, scratch);
  if (piece.first_partial >= 0) {
    for (int split = piece.first_split; split < piece.end_split; ++split) {
      pass.AttendSplit(split,
                       [&](int head) { return PartialStates(partials, piece, piece.first_head + head, split, sizes); });
    }
    return;
  }
  // The first split's result is the total so far; the same as adding it to nothing.
  const auto total = [&](int head) { return OfHead(scratch.total, head, pass.rows(), sizes.padded_dim); };
  const auto part = [&](int head) { return OfHead(scratch.split, head, pass.rows(), sizes.padded_dim); };
  pass.AttendSplit(piece.first_split, total);
  for (int split = piece.first_split + 1; split < piece.end_split; ++split) {
    pass.AttendSplit(split, part);
    for (int head = 0; head < pass.num_heads(); ++head) {
      MergeRows(part(head), pass.rows(), sizes.padded_dim, total(head));
    }
  }
  for (int head = 0; head < pass.num_heads(); ++head) pass.Finish(head, total(head));
}

// Adds up a KV head's partial results, in the order of the splits, on those of the first.
void Reduce(const PagedAttentionArgs& args, const Sizes& sizes, const PagedAttentionPlan::Reduction& reduction,
            int64_t kv_head, const RowStates& partials) {
  const int64_t rows = reduction.num_tokens * sizes.group;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t total = reduction.first_partial + kv_head * reduction.num_splits * rows + row;
    float* acc = partials.acc + total * sizes.padded_dim;
    for (int64_t split = 1; split < reduction.num_splits; ++split) {
      const int64_t part = total + split * rows;
      MergeRow(partials.max[part], partials.sum[part], partials.acc + part * sizes.padded_dim, sizes.padded_dim,
               &partials.max[total], &partials.sum[total], acc);
    }
    FinishHead(args, sizes, reduction.first_token + row / sizes.group, kv_head * sizes.group + row % sizes.group,
               partials.max[total], partials.sum[total], acc);
  }
}

template <typename T>
void Attend(const ExecContext& ctx, const PagedAttentionArgs& args) {
  const Workspace::Scope scope(ctx.workspace);
  const int num_threads = ctx.threads->num_threads();
  const int64_t num_kv_heads = args.k_pages.dim(1);
  Sizes sizes;
  sizes.group = args.q.dim(1) / num_kv_heads;
  sizes.k_head_dim = args.k_pages.dim(3);
  sizes.v_head_dim = args.v_pages.dim(3);
  const int64_t padding = kMultipliesIntegers ? kValueChunk : kLanes;
  sizes.padded_dim = (sizes.v_head_dim + padding - 1) / padding * padding;

  const PagedAttentionPlan plan = PlanPagedAttention(args, num_threads, ctx.workspace);
  const int64_t max_rows = sizes.group > kMaxBlockRows ? sizes.group : kMaxBlockRows;
  const int64_t scratch_floats = Scratch::Floats(sizes, max_rows);
  float* scratch_memory = AllocateFloats(ctx.workspace, num_threads * scratch_floats);
  const RowStates partials = CarveStates(AllocateFloats(ctx.workspace, plan.num_partial_rows * (sizes.padded_dim + 2)),
                                         plan.num_partial_rows, sizes.padded_dim);

  ctx.threads->ParallelFor(plan.num_pieces, 1, [&](int64_t begin, int64_t end, int worker) {
    const Scratch scratch(scratch_memory + worker * scratch_floats, sizes, max_rows);
    for (int64_t i = begin; i < end; ++i) RunPiece<T>(args, sizes, plan.pieces[i], partials, scratch);
  });
  ctx.threads->ParallelFor(plan.num_reductions * num_kv_heads, 1, [&](int64_t begin, int64_t end, int /*worker*/) {
    for (int64_t i = begin; i < end; ++i) {
      Reduce(args, sizes, plan.reductions[i / num_kv_heads], i % num_kv_heads, partials);
    }
  });
}

}  // namespace

void PagedAttention(const ExecContext& ctx, const PagedAttentionArgs& args) {
#if defined(MOED_BYTE_DOTS)
  Attend<int8_t>(ctx, args);
#else
  switch (args.k_pages.dtype) {
    case DType::kBF16:
      return Attend<BFloat16>(ctx, args);
    case DType::kF16:
      return Attend<Half>(ctx, args);
    case DType::kI8:
      return Attend<int8_t>(ctx, args);
    default:
      return Attend<float>(ctx, args);
  }
#endif
}

}  // namespace moed::kernels::MOED_ISA
