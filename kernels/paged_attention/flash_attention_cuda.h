// Attention on the tensor cores (mma.sync), for pages of bf16 and f16 and heads of common sizes: FlashAttention-2 (Dao
// 2023, arXiv:2307.08691) over pages, with all query heads of a KV head in one tile of rows, so that keys and values
// come from memory once for all of them.
//
// A row is a token's query head: row r of a sequence's rows for a KV head is token r / group, head r % group of the
// group. A block takes a tile of a sequence's rows and goes through the positions in tiles that begin at multiples of
// kTile; keys and values of kStages tiles are under way by cp.async. Queries and weights are rounded to the pages'
// type, products are summed in float.
//
//   many rows   (prefill) each warp has rows of its own and all positions
//   few rows    (decode) all warps have the same 16 rows, and each its part of every tile of positions; the grid's last
//               dimension cuts the positions into parts, which FlashCombineKernel adds
#ifndef KERNELS_PAGED_ATTENTION_FLASH_ATTENTION_CUDA_H_
#define KERNELS_PAGED_ATTENTION_FLASH_ATTENTION_CUDA_H_

#include <algorithm>
#include <type_traits>

#include "kernels/common/ptx.h"
#include "kernels/paged_attention/attention_state_cuda.h"

namespace moed::kernels::flash {

constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;

// Which sequences a launch is for: those with one token in this step, or those with more.
enum class Phase : uint8_t { kDecode, kPrefill };

// A tile of a sequence's rows.
struct RowTile {
  int sequence;
  int first_row, num_rows;  // no rows: there is no such tile
  int first_token;          // of the sequence, in the batch
  int first_end;            // positions that the sequence's first token sees end here
};

// Tile `index` of all sequences' tiles of at most `tile_rows` rows, in order of the sequences. A warp's work; every
// lane gets the answer.
template <Phase kPhase, typename T>
__device__ __forceinline__ RowTile FindRowTile(const AttentionParameters<T>& p, int tile_rows, int index) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int group = p.num_heads / p.num_kv_heads;
  int before = 0;  // tiles of earlier sequences
  for (int base = 0; base < p.num_sequences; base += 32) {
    const int sequence = base + lane;
    const int begin = sequence < p.num_sequences ? p.query_starts[sequence] : 0;
    const int tokens = sequence < p.num_sequences ? p.query_starts[sequence + 1] - begin : 0;
    const int rows = (tokens == 1) == (kPhase == Phase::kDecode) ? tokens * group : 0;
    const int own = CeilDiv(rows, tile_rows);
    int sum = own;  // with the lanes before
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const int other = __shfl_up_sync(kAllLanes, sum, distance);
      if (lane >= distance) sum += other;
    }
    const unsigned reached = __ballot_sync(kAllLanes, before + sum > index);
    if (reached != 0) {
      const int owner = __ffs(static_cast<int>(reached)) - 1;
      RowTile tile;
      tile.sequence = base + owner;
      tile.first_row = __shfl_sync(kAllLanes, (index - (before + sum - own)) * tile_rows, owner);
      tile.num_rows = min(tile_rows, __shfl_sync(kAllLanes, rows, owner) - tile.first_row);
      tile.first_token = __shfl_sync(kAllLanes, begin, owner);
      tile.first_end = p.context_lens[tile.sequence] - __shfl_sync(kAllLanes, tokens, owner) + 1;
      return tile;
    }
    before += __shfl_sync(kAllLanes, sum, 31);
  }
  return {};
}

__device__ __forceinline__ unsigned Pack(float lower, float upper, BFloat16) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(lower, upper);
  return *reinterpret_cast<const unsigned*>(&pair);
}
__device__ __forceinline__ unsigned Pack(float lower, float upper, Half) {
  const __half2 pair = __floats2half2_rn(lower, upper);
  return *reinterpret_cast<const unsigned*>(&pair);
}

__device__ __forceinline__ void Multiply(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], BFloat16) {
  ptx::MmaBf16(d, a, b);
}
__device__ __forceinline__ void Multiply(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], Half) {
  ptx::MmaF16(d, a, b);
}

// How a block is made: kRowWarps warps by rows, kPositionWarps by positions; a warp has kRowTiles tiles of 16 rows.
template <typename ElementType, int kHeadDimension, int kRowTilesOfWarp, int kRowWarpCount, int kPositionWarpCount,
          int kTilePositions, int kStageCount, int kMinBlockCount>
struct Shape {
  using T = ElementType;
  static constexpr int kHeadDim = kHeadDimension;
  static constexpr int kRowTiles = kRowTilesOfWarp;
  static constexpr int kRowWarps = kRowWarpCount;
  static constexpr int kPositionWarps = kPositionWarpCount;
  static constexpr int kStages = kStageCount;
  static constexpr int kMinBlocks = kMinBlockCount;
  static constexpr int kThreads = 32 * kRowWarps * kPositionWarps;
  static constexpr int kRows = 16 * kRowTiles * kRowWarps;
  static constexpr int kTile = kTilePositions;
  static constexpr int kWarpPositions = kTile / kPositionWarps;
  static constexpr Phase kPhase = kPositionWarps > 1 ? Phase::kDecode : Phase::kPrefill;
  static_assert(kHeadDim % 16 == 0 && kWarpPositions % 16 == 0 && (kPositionWarps == 1 || kRowWarps * kRowTiles == 1));

  // Rows in shared memory, padded by 16 bytes so that the rows of a matrix lie in different banks.
  static constexpr int kStride = kHeadDim + 8;  // elements
  static constexpr int kQueryElements = kRows * kStride;
  static constexpr int kTileElements = kTile * kStride;
  static constexpr int kTables = kStages + 1;
  // Once all positions are done the stages' memory holds the position warps' partial results.
  static constexpr int kPartialFloats = kPositionWarps > 1 ? kPositionWarps* kRows*(kHeadDim + 2) : 0;
  static_assert(kPartialFloats * sizeof(float) <= size_t{kStages} * 2 * kTileElements * sizeof(T));

  static constexpr size_t SharedBytes() {
    return (size_t{kQueryElements} + size_t{kStages} * 2 * kTileElements) * sizeof(T) +
           size_t{kTables} * kTile * sizeof(int32_t);
  }
};

template <typename Shape>
class Attention {
 public:
  using T = typename Shape::T;

  __device__ __forceinline__ Attention(const AttentionParameters<T>& p, const RowTile& tile, int kv_head, char* shared)
      : p_(p), tile_(tile), kv_head_(kv_head), group_(p.num_heads / p.num_kv_heads) {
    tables_ = reinterpret_cast<int32_t*>(shared);
    query_ = reinterpret_cast<T*>(tables_ + Shape::kTables * Shape::kTile);
    stages_ = query_ + Shape::kQueryElements;
    // What rows of the tile see: the first row sees least, the last most.
    first_end_ = EndOf(0);
    last_end_ = EndOf(tile.num_rows - 1);
    first_begin_ = BeginOf(first_end_);
    last_begin_ = BeginOf(last_end_);
  }

  // Goes through the positions [begin, end) that some row sees.
  __device__ __forceinline__ void Run(int begin, int end);

  // Puts the rows' results, or their parts of the split, into place.
  __device__ __forceinline__ void Store(int split);

  __device__ __forceinline__ int first_begin() const { return first_begin_; }
  __device__ __forceinline__ int last_end() const { return last_end_; }

 private:
  static constexpr int kScoreTiles = Shape::kWarpPositions / 8;
  static constexpr int kValueTiles = Shape::kHeadDim / 8;

  __device__ __forceinline__ static int Thread() { return static_cast<int>(threadIdx.x); }
  __device__ __forceinline__ static int Lane() { return Thread() % 32; }
  // The warp's first row in the tile, and its first position in a tile of positions.
  __device__ __forceinline__ static int FirstRow() { return Thread() / 32 % Shape::kRowWarps * 16 * Shape::kRowTiles; }
  __device__ __forceinline__ static int PositionWarp() { return Thread() / 32 / Shape::kRowWarps; }

  __device__ __forceinline__ int TokenOf(int row) const { return (tile_.first_row + row) / group_; }
  __device__ __forceinline__ int HeadOf(int row) const { return kv_head_ * group_ + (tile_.first_row + row) % group_; }
  __device__ __forceinline__ int EndOf(int row) const { return tile_.first_end + TokenOf(row); }
  __device__ __forceinline__ int BeginOf(int end) const { return p_.window == 0 ? 0 : max(0, end - p_.window); }

  __device__ __forceinline__ void LoadQueries();
  // Where the row of a tile's position lies that the calling thread looks up; -1 for one that nobody sees.
  __device__ __forceinline__ int32_t LookUp(int tile) const;
  __device__ __forceinline__ void SetTable(int tile, int32_t row) {
    if (Thread() < Shape::kTile) tables_[tile % Shape::kTables * Shape::kTile + Thread()] = row;
  }
  __device__ __forceinline__ void CopyTile(int tile);
  __device__ __forceinline__ T* StageOf(int tile) { return stages_ + tile % Shape::kStages * 2 * Shape::kTileElements; }

  using Scores = float[Shape::kRowTiles][kScoreTiles][4];
  __device__ __forceinline__ void ComputeScores(const T* keys, Scores& scores) const;
  __device__ __forceinline__ void Mask(int first_position, Scores& scores) const;
  __device__ __forceinline__ void ToWeights(Scores& scores);
  __device__ __forceinline__ void AddValues(const T* values, const Scores& weights);

  __device__ __forceinline__ void SumOverLanes();
  __device__ __forceinline__ void StoreRow(int row, int split, const RowState& state, int d, float left, float right);

  const AttentionParameters<T>& p_;
  RowTile tile_;
  int kv_head_, group_;
  int first_end_, last_end_, first_begin_, last_begin_;
  int begin_ = 0, end_ = 0;  // of Run
  int32_t* tables_;          // [kTables, kTile]: rows of the pages
  T* query_;                 // [kRows, kStride]
  T* stages_;                // [kStages, (keys, values), kTile, kStride]
  // Of rows FirstRow() + 16 i + Lane() / 4 and 8 more: the largest score, times log2(e), and the sum over this lane's
  // positions.
  float max_[Shape::kRowTiles][2], sum_[Shape::kRowTiles][2];
  float values_[Shape::kRowTiles][kValueTiles][4];
};

template <typename Shape>
__device__ __forceinline__ void Attention<Shape>::LoadQueries() {
  constexpr int kPairs = Shape::kHeadDim / 4;
  for (int i = Thread(); i < Shape::kRows * kPairs; i += Shape::kThreads) {
    const int row = i / kPairs;
    const int d = i % kPairs * 4;
    float4 q = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (row < tile_.num_rows) {
      const float* head =
          p_.q + (tile_.first_token + TokenOf(row)) * p_.q_token_stride + HeadOf(row) * p_.q_head_stride;
      q = make_float4(head[d], head[d + 1], head[d + 2], head[d + 3]);
    }
    *reinterpret_cast<uint2*>(query_ + row * Shape::kStride + d) = make_uint2(Pack(q.x, q.y, T()), Pack(q.z, q.w, T()));
  }
}

template <typename Shape>
__device__ __forceinline__ int32_t Attention<Shape>::LookUp(int tile) const {
  const int position = tile * Shape::kTile + Thread();
  if (Thread() >= Shape::kTile || position < begin_ || position >= end_) return -1;
  return static_cast<int32_t>(p_.RowOf(p_.block_ids + p_.block_starts[tile_.sequence], kv_head_, position));
}

template <typename Shape>
__device__ __forceinline__ void Attention<Shape>::CopyTile(int tile) {
  constexpr int kChunks = Shape::kHeadDim / 8;  // of 16 bytes
  constexpr int kRowsAtOnce = Shape::kThreads / kChunks;
  static_assert(Shape::kThreads % kChunks == 0 && Shape::kTile % kRowsAtOnce == 0);
  const int chunk = Thread() % kChunks;
  const int32_t* table = tables_ + tile % Shape::kTables * Shape::kTile;
  T* const keys = StageOf(tile);
#pragma unroll 2
  for (int i = 0; i < Shape::kTile / kRowsAtOnce; ++i) {
    const int position = Thread() / kChunks + i * kRowsAtOnce;
    const int64_t row = table[position];
    T* const to = keys + position * Shape::kStride + chunk * 8;
    // Beyond what anybody sees: zeros, since a weight of zero does not hide a NaN.
    ptx::CpAsync16(to, row < 0 ? nullptr : p_.k_pages + row * Shape::kHeadDim + chunk * 8, row >= 0);
    ptx::CpAsync16(to + Shape::kTileElements, row < 0 ? nullptr : p_.v_pages + row * p_.v_row_stride + chunk * 8,
                   row >= 0);
  }
}

template <typename Shape>
__device__ __forceinline__ void Attention<Shape>::ComputeScores(const T* keys, Scores& scores) const {
#pragma unroll
  for (int i = 0; i < Shape::kRowTiles; ++i) {
#pragma unroll
    for (int n = 0; n < kScoreTiles; ++n) {
#pragma unroll
      for (int j = 0; j < 4; ++j) scores[i][n][j] = 0.0f;
    }
  }
  const T* const query = query_ + (FirstRow() + Lane() % 16) * Shape::kStride + Lane() / 16 * 8;
  const T* const key = keys + (Lane() % 8 + Lane() / 16 * 8) * Shape::kStride + Lane() / 8 % 2 * 8;
#pragma unroll
  for (int d = 0; d < Shape::kHeadDim; d += 16) {
    unsigned q[Shape::kRowTiles][4];
#pragma unroll
    for (int i = 0; i < Shape::kRowTiles; ++i) ptx::LdMatrix<4, false>(q[i], query + i * 16 * Shape::kStride + d);
#pragma unroll
    for (int n = 0; n < kScoreTiles; n += 2) {
      unsigned k[4];
      ptx::LdMatrix<4, false>(k, key + n * 8 * Shape::kStride + d);
      const unsigned lower[2] = {k[0], k[1]}, upper[2] = {k[2], k[3]};
#pragma unroll
      for (int i = 0; i < Shape::kRowTiles; ++i) {
        Multiply(scores[i][n], q[i], lower, T());
        Multiply(scores[i][n + 1], q[i], upper, T());
      }
    }
  }
}

// -inf for what a row does not see.
template <typename Shape>
__device__ __forceinline__ void Attention<Shape>::Mask(int first_position, Scores& scores) const {
#pragma unroll
  for (int i = 0; i < Shape::kRowTiles; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int end = EndOf(FirstRow() + i * 16 + half * 8 + Lane() / 4);
      const int begin = BeginOf(end);
#pragma unroll
      for (int n = 0; n < kScoreTiles; ++n) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const int position = first_position + n * 8 + Lane() % 4 * 2 + j;
          if (position < begin || position >= end) scores[i][n][half * 2 + j] = -INFINITY;
        }
      }
    }
  }
}

// Scores to weights relative to the largest score so far; sums and values so far follow.
template <typename Shape>
__device__ __forceinline__ void Attention<Shape>::ToWeights(Scores& scores) {
  const float scale = p_.scale * kLog2E;
#pragma unroll
  for (int i = 0; i < Shape::kRowTiles; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float largest = -INFINITY;
#pragma unroll
      for (int n = 0; n < kScoreTiles; ++n) {
        largest = fmaxf(largest, fmaxf(scores[i][n][half * 2], scores[i][n][half * 2 + 1]));
      }
      largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 2));
      const float new_max = fmaxf(max_[i][half], largest * scale);
      // A row that has seen nothing yet: all of its weights are zero.
      const float subtract = new_max == -INFINITY ? 0.0f : new_max;
      const float factor = ptx::Exp2(max_[i][half] - subtract);
      max_[i][half] = new_max;
      float sum = 0.0f;
#pragma unroll
      for (int n = 0; n < kScoreTiles; ++n) {
#pragma unroll
        for (int j = half * 2; j < half * 2 + 2; ++j) {
          scores[i][n][j] = ptx::Exp2(fmaf(scores[i][n][j], scale, -subtract));
          sum += scores[i][n][j];
        }
      }
      sum_[i][half] = fmaf(sum_[i][half], factor, sum);
      // Later tiles seldom have a larger score.
      if (__all_sync(kAllLanes, factor == 1.0f) != 0) continue;
#pragma unroll
      for (int n = 0; n < kValueTiles; ++n) {
        values_[i][n][half * 2] *= factor;
        values_[i][n][half * 2 + 1] *= factor;
      }
    }
  }
}

template <typename Shape>
__device__ __forceinline__ void Attention<Shape>::AddValues(const T* values, const Scores& weights) {
  const T* const value = values + Lane() % 16 * Shape::kStride + Lane() / 16 * 8;
#pragma unroll
  for (int n = 0; n < kScoreTiles; n += 2) {
    unsigned a[Shape::kRowTiles][4];
#pragma unroll
    for (int i = 0; i < Shape::kRowTiles; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        a[i][j] = Pack(weights[i][n + j / 2][j % 2 * 2], weights[i][n + j / 2][j % 2 * 2 + 1], T());
      }
    }
#pragma unroll
    for (int d = 0; d < kValueTiles; d += 2) {
      unsigned v[4];
      ptx::LdMatrix<4, true>(v, value + n * 8 * Shape::kStride + d * 8);
      const unsigned lower[2] = {v[0], v[1]}, upper[2] = {v[2], v[3]};
#pragma unroll
      for (int i = 0; i < Shape::kRowTiles; ++i) {
        Multiply(values_[i][d], a[i], lower, T());
        Multiply(values_[i][d + 1], a[i], upper, T());
      }
    }
  }
}

template <typename Shape>
__device__ __forceinline__ void Attention<Shape>::Run(int begin, int end) {
  begin_ = begin;
  end_ = end;
#pragma unroll
  for (int i = 0; i < Shape::kRowTiles; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      max_[i][half] = -INFINITY;
      sum_[i][half] = 0.0f;
    }
#pragma unroll
    for (int n = 0; n < kValueTiles; ++n) {
#pragma unroll
      for (int j = 0; j < 4; ++j) values_[i][n][j] = 0.0f;
    }
  }
  const int first_tile = begin / Shape::kTile;
  const int end_tile = CeilDiv(end, Shape::kTile);
  for (int i = 0; i < Shape::kStages; ++i) SetTable(first_tile + i, LookUp(first_tile + i));
  LoadQueries();
  __syncthreads();
  for (int i = 0; i < Shape::kStages - 1; ++i) {
    if (first_tile + i < end_tile) CopyTile(first_tile + i);
    ptx::CpAsyncCommit();
  }
  for (int tile = first_tile; tile < end_tile; ++tile) {
    // Asked for early: the block's number is a long way off.
    const int32_t next_row = LookUp(tile + Shape::kStages);
    ptx::CpAsyncWait<Shape::kStages - 2>();
    __syncthreads();  // the tile is here for all, and nobody reads the one before any more
    if (tile + Shape::kStages - 1 < end_tile) CopyTile(tile + Shape::kStages - 1);
    ptx::CpAsyncCommit();
    const int first_position = tile * Shape::kTile + PositionWarp() * Shape::kWarpPositions;
    const T* const keys = StageOf(tile) + PositionWarp() * Shape::kWarpPositions * Shape::kStride;
    Scores scores;
    ComputeScores(keys, scores);
    const bool is_seen_by_all = tile * Shape::kTile >= last_begin_ && (tile + 1) * Shape::kTile <= first_end_;
    if (!is_seen_by_all) Mask(first_position, scores);
    ToWeights(scores);
    AddValues(keys + Shape::kTileElements, scores);
    SetTable(tile + Shape::kStages, next_row);
  }
  ptx::CpAsyncWait<0>();
  SumOverLanes();
}

template <typename Shape>
__device__ __forceinline__ void Attention<Shape>::SumOverLanes() {
#pragma unroll
  for (int i = 0; i < Shape::kRowTiles; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      sum_[i][half] += __shfl_xor_sync(kAllLanes, sum_[i][half], 1);
      sum_[i][half] += __shfl_xor_sync(kAllLanes, sum_[i][half], 2);
    }
  }
}

// Two neighbouring dimensions of a row. `state` has its largest score times log2(e).
template <typename Shape>
__device__ __forceinline__ void Attention<Shape>::StoreRow(int row, int split, const RowState& state, int d, float left,
                                                           float right) {
  const int head = HeadOf(row);
  const RowState natural = {state.max * kLn2, state.sum};
  if (p_.partials == nullptr) {
    const float factor = FinalFactor(natural, p_.sinks, head);
    float* out = p_.out + (tile_.first_token + TokenOf(row)) * p_.out_stride + head * Shape::kHeadDim + d;
    out[0] = left * factor;
    out[1] = right * factor;
    return;
  }
  float* partial = p_.Partial(tile_.sequence, head, split);
  if (d == 0) {
    partial[0] = natural.max;
    partial[1] = natural.sum;
  }
  partial[2 + d] = left;
  partial[2 + d + 1] = right;
}

template <typename Shape>
__device__ __forceinline__ void Attention<Shape>::Store(int split) {
  if constexpr (Shape::kPositionWarps == 1) {
#pragma unroll
    for (int i = 0; i < Shape::kRowTiles; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = FirstRow() + i * 16 + half * 8 + Lane() / 4;
        if (row >= tile_.num_rows) continue;
        const RowState state = {max_[i][half], sum_[i][half]};
#pragma unroll
        for (int n = 0; n < kValueTiles; ++n) {
          StoreRow(row, split, state, n * 8 + Lane() % 4 * 2, values_[i][n][half * 2], values_[i][n][half * 2 + 1]);
        }
      }
    }
    return;
  }
  // The warps' parts go to shared memory, [warp][row][max, sum, values].
  constexpr int kPartFloats = Shape::kHeadDim + 2;
  float* const parts = reinterpret_cast<float*>(stages_);
  __syncthreads();  // nobody reads the stages any more
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float* part = parts + (PositionWarp() * Shape::kRows + half * 8 + Lane() / 4) * kPartFloats;
    if (Lane() % 4 == 0) {
      part[0] = max_[0][half];
      part[1] = sum_[0][half];
    }
#pragma unroll
    for (int n = 0; n < kValueTiles; ++n) {
      part[2 + n * 8 + Lane() % 4 * 2] = values_[0][n][half * 2];
      part[2 + n * 8 + Lane() % 4 * 2 + 1] = values_[0][n][half * 2 + 1];
    }
  }
  __syncthreads();
  constexpr int kPairs = Shape::kHeadDim / 2;
  for (int i = Thread(); i < tile_.num_rows * kPairs; i += Shape::kThreads) {
    const int row = i / kPairs;
    const int d = i % kPairs * 2;
    RowState state = {-INFINITY, 0.0f};
#pragma unroll
    for (int warp = 0; warp < Shape::kPositionWarps; ++warp) {
      state.max = fmaxf(state.max, parts[(warp * Shape::kRows + row) * kPartFloats]);
    }
    float left = 0.0f;
    float right = 0.0f;
#pragma unroll
    for (int warp = 0; warp < Shape::kPositionWarps; ++warp) {
      const float* part = parts + (warp * Shape::kRows + row) * kPartFloats;
      const float factor = ptx::Exp2(part[0] - state.max);
      state.sum = fmaf(part[1], factor, state.sum);
      left = fmaf(part[2 + d], factor, left);
      right = fmaf(part[2 + d + 1], factor, right);
    }
    StoreRow(row, split, state, d, left, right);
  }
}

// Grid: tiles of rows, the longest contexts of a sequence first; KV heads; parts of the positions.
template <typename Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kMinBlocks)
    FlashKernel(AttentionParameters<typename Shape::T> p) {
  MOED_DYNAMIC_SHARED(char, shared);
  const RowTile tile =
      FindRowTile<Shape::kPhase>(p, Shape::kRows, static_cast<int>(gridDim.x) - 1 - static_cast<int>(blockIdx.x));
  if (tile.num_rows == 0) return;
  Attention<Shape> attention(p, tile, static_cast<int>(blockIdx.y), shared);
  const int split = static_cast<int>(blockIdx.z);
  const int begin = max(attention.first_begin(), split * p.split_positions);
  const int end = min(attention.last_end(), (split + 1) * p.split_positions);
  if (begin >= end) return;
  attention.Run(begin, end);
  attention.Store(split);
}

// Grid: sequences, heads. Of sequences with one token: adds the parts of their positions.
template <typename T>
__global__ void __launch_bounds__(128) FlashCombineKernel(AttentionParameters<T> p) {
  const int sequence = static_cast<int>(blockIdx.x);
  const int head = static_cast<int>(blockIdx.y);
  const int token = p.query_starts[sequence];
  if (p.query_starts[sequence + 1] != token + 1) return;
  const int end = p.context_lens[sequence];
  const int begin = p.window == 0 ? 0 : max(0, end - p.window);
  CombineParts(p.Partial(sequence, head, 0), begin / p.split_positions, CeilDiv(end, p.split_positions), p.v_head_dim,
               p.sinks, head, p.out + token * p.out_stride + head * p.v_head_dim);
}

// ---------------------------------------------------------------------------------------------------- launches

template <typename T, int kHeadDim>
using PrefillShape = Shape<T, kHeadDim, /*kRowTilesOfWarp=*/2, /*kRowWarpCount=*/4, /*kPositionWarpCount=*/1,
                           /*kTilePositions=*/32, /*kStageCount=*/3, /*kMinBlockCount=*/2>;
template <typename T, int kHeadDim>
using DecodeShape = Shape<T, kHeadDim, /*kRowTilesOfWarp=*/1, /*kRowWarpCount=*/1, /*kPositionWarpCount=*/4,
                          /*kTilePositions=*/64, /*kStageCount=*/2, /*kMinBlockCount=*/3>;

template <typename Shape>
void Launch(const ExecContext& ctx, const AttentionParameters<typename Shape::T>& p, int64_t tiles) {
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(p.num_kv_heads),
                  static_cast<unsigned>(p.num_splits));
  MOED_LAUNCH(FlashKernel<Shape>, grid, Shape::kThreads, Shape::SharedBytes(), ctx.stream, p);
}

// Sequences with more than one token. How many tiles of rows they have is known on the device only.
template <typename Shape>
void Prefill(const ExecContext& ctx, AttentionParameters<typename Shape::T> p, int64_t num_tokens,
             int64_t max_context) {
  const int64_t group = p.num_heads / p.num_kv_heads;
  p.num_splits = 1;
  p.split_positions = static_cast<int>(max_context);
  const int64_t sequences = std::min<int64_t>(p.num_sequences, num_tokens / 2);
  Launch<Shape>(ctx, p, num_tokens * group / Shape::kRows + sequences);
}

// Sequences with one token.
template <typename Shape>
void Decode(const ExecContext& ctx, AttentionParameters<typename Shape::T> p, int64_t num_tokens, int64_t max_context) {
  // Parts of the positions, so that there are blocks enough for the whole device, but no more: each costs a little.
  constexpr int64_t kMinPart = 4 * Shape::kTile, kManyBlocks = 2048;
  const int64_t group = p.num_heads / p.num_kv_heads;
  const int64_t tiles = std::min<int64_t>(p.num_sequences, num_tokens) * CeilDiv(group, int64_t{Shape::kRows});
  int64_t part = kMinPart;
  while (part < max_context && tiles * p.num_kv_heads * CeilDiv(max_context, part) > kManyBlocks) part *= 2;
  p.split_positions = static_cast<int>(part);
  p.num_splits = static_cast<int>(CeilDiv(max_context, part));
  if (p.num_splits > 1) p.partials = AllocatePartials(ctx, p, p.num_sequences);
  Launch<Shape>(ctx, p, tiles);
  if (p.num_splits == 1) return;
  const dim3 grid(static_cast<unsigned>(p.num_sequences), static_cast<unsigned>(p.num_heads));
  MOED_LAUNCH(FlashCombineKernel<typename Shape::T>, grid, 128, 0, ctx.stream, p);
}

template <typename T, int kHeadDim>
void AttendHeadsOf(const ExecContext& ctx, const AttentionParameters<T>& p, int64_t num_tokens, int64_t max_context) {
  if (num_tokens > p.num_sequences) Prefill<PrefillShape<T, kHeadDim>>(ctx, p, num_tokens, max_context);
  const bool is_one_prompt = p.num_sequences == 1 && num_tokens > 1;
  if (!is_one_prompt) Decode<DecodeShape<T, kHeadDim>>(ctx, p, num_tokens, max_context);
}

// False, and nothing done, where heads have another size or pages lie otherwise than these bodies need.
template <typename T>
bool Attend(const ExecContext& ctx, const AttentionParameters<T>& p, int64_t num_tokens, int64_t max_context) {
  const auto is_aligned = [](const void* address) { return reinterpret_cast<uintptr_t>(address) % 16 == 0; };
  const bool fits_table = p.num_page_rows <= INT32_MAX;
  if (!fits_table || p.k_head_dim != p.v_head_dim || !is_aligned(p.k_pages) || !is_aligned(p.v_pages) ||
      p.v_row_stride % 8 != 0) {
    return false;
  }
  switch (p.k_head_dim) {
    case 64:
      AttendHeadsOf<T, 64>(ctx, p, num_tokens, max_context);
      return true;
    case 128:
      AttendHeadsOf<T, 128>(ctx, p, num_tokens, max_context);
      return true;
    default:
      return false;
  }
}

}  // namespace moed::kernels::flash

#endif  // KERNELS_PAGED_ATTENTION_FLASH_ATTENTION_CUDA_H_
