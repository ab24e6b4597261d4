// Attention on the tensor cores (mma.sync), for pages of bf16, f16 and integers and heads of common sizes:
// FlashAttention-2 (Dao 2023, arXiv:2307.08691) over pages, with all query heads of a KV head in one tile of rows, so
// that keys and values come from memory once for all of them.
//
// A block takes a tile of a sequence's rows and goes through the positions in tiles that begin at multiples of kTile;
// keys and values of kStages tiles are under way by cp.async. Queries and weights are rounded to the pages' type, or to
// bf16 where pages hold integers (flash_integers_cuda.h); products are summed in float.
//
//   many rows   (prefill) each warp has rows of its own and all positions
//   few rows    (decode) all warps have the same 16 rows, and each its part of every tile of positions; the grid's last
//               dimension cuts the positions into parts, which FlashCombineKernel adds
#ifndef KERNELS_PAGED_ATTENTION_FLASH_ATTENTION_CUDA_H_
#define KERNELS_PAGED_ATTENTION_FLASH_ATTENTION_CUDA_H_

#include "kernels/paged_attention/flash_integers_cuda.h"
#include "kernels/paged_attention/flash_tile_cuda.h"

namespace moed::kernels::flash {

// How a block is made: kRowWarps warps by rows, kPositionWarps by positions; a warp has kRowTiles tiles of 16 rows.
template <typename ElementType, int kHeadDimension, int kRowTilesOfWarp, int kRowWarpCount, int kPositionWarpCount,
          int kTilePositions, int kStageCount, int kMinBlockCount>
struct Shape {
  using T = ElementType;  // of pages
  static constexpr bool kIsInteger = std::is_same_v<T, int8_t>;
  using Element = std::conditional_t<kIsInteger, BFloat16, T>;  // of queries and weights
  static constexpr int kHeadDim = kHeadDimension;
  static constexpr int kRowTiles = kRowTilesOfWarp;
  static constexpr int kRowWarps = kRowWarpCount;
  static constexpr int kPositionWarps = kPositionWarpCount;
  static constexpr int kTile = kTilePositions;
  static constexpr int kStages = kStageCount;
  static constexpr int kMinBlocks = kMinBlockCount;
  static constexpr int kThreads = 32 * kRowWarps * kPositionWarps;
  static constexpr int kRows = 16 * kRowTiles * kRowWarps;
  static constexpr int kWarpPositions = kTile / kPositionWarps;
  static constexpr Phase kPhase = kPositionWarps > 1 ? Phase::kDecode : Phase::kPrefill;
  static_assert(kHeadDim % 16 == 0 && kWarpPositions % 16 == 0 && (kPositionWarps == 1 || kRowWarps * kRowTiles == 1));

  // Rows in shared memory, padded by 16 bytes so that the rows of a matrix lie in different banks.
  static constexpr int kPadding = 16 / static_cast<int>(sizeof(T));
  static constexpr int kStride = kHeadDim + kPadding;  // elements of pages
  static constexpr int kQueryStride = kHeadDim + 8;
  static constexpr int kQueryElements = kRows * kQueryStride;
  static constexpr int kTileElements = kTile * kStride;
  static constexpr int kTables = kStages + 1;
  // Once all positions are done the stages' memory holds the position warps' partial results.
  static constexpr int kPartialFloats = kPositionWarps > 1 ? kPositionWarps* kRows*(kHeadDim + 2) : 0;
  static_assert(kPartialFloats * sizeof(float) <= size_t{kStages} * 2 * kTileElements * sizeof(T));

  // Of a stage, keys' and values'.
  static constexpr int kScales = kIsInteger ? 2 * kTile : 0;

  static constexpr size_t SharedBytes() {
    return size_t{kQueryElements} * sizeof(Element) + size_t{kStages} * 2 * kTileElements * sizeof(T) +
           size_t{kTables} * kTile * sizeof(int32_t) + size_t{kStages} * kScales * sizeof(float);
  }
};

template <typename Shape>
class Attention {
 public:
  using T = typename Shape::T;
  using Element = typename Shape::Element;

  __device__ __forceinline__ Attention(const AttentionParameters<T>& p, const RowView& rows, char* shared)
      : p_(p), rows_(rows) {
    tables_ = reinterpret_cast<int32_t*>(shared);
    scales_ = reinterpret_cast<float*>(tables_ + Shape::kTables * Shape::kTile);
    query_ = reinterpret_cast<Element*>(scales_ + Shape::kStages * Shape::kScales);
    stages_ = reinterpret_cast<T*>(query_ + Shape::kQueryElements);
  }

  // Goes through the positions [begin, end), which some row sees.
  __device__ __forceinline__ void Run(int begin, int end);

  // Puts the rows' results, or their parts of the split, into place.
  __device__ __forceinline__ void Store(int split);

 private:
  static constexpr int kScoreTiles = Shape::kWarpPositions / 8;
  static constexpr int kValueTiles = Shape::kHeadDim / 8;
  using WarpScores = Scores<Shape::kRowTiles, kScoreTiles>;

  __device__ __forceinline__ static int Thread() { return static_cast<int>(threadIdx.x); }
  __device__ __forceinline__ static int Lane() { return Thread() % 32; }
  // The warp's first row in the tile, and its part of a tile of positions.
  __device__ __forceinline__ static int FirstRow() { return Thread() / 32 % Shape::kRowWarps * 16 * Shape::kRowTiles; }
  __device__ __forceinline__ static int PositionWarp() { return Thread() / 32 / Shape::kRowWarps; }

  __device__ __forceinline__ int32_t LookUp(int tile) const {
    return LookUpRow<Shape::kTile>(p_, rows_, tile, begin_, end_);
  }
  __device__ __forceinline__ void SetTable(int tile, int32_t row) {
    if (Thread() < Shape::kTile) tables_[tile % Shape::kTables * Shape::kTile + Thread()] = row;
  }
  __device__ __forceinline__ void CopyTile(int tile);
  __device__ __forceinline__ void CopyScales(int tile);
  __device__ __forceinline__ T* StageOf(int tile) { return stages_ + tile % Shape::kStages * 2 * Shape::kTileElements; }
  // [keys' or values', kTile]
  __device__ __forceinline__ float* ScalesOf(int tile) { return scales_ + tile % Shape::kStages * Shape::kScales; }
  __device__ __forceinline__ void ComputeScores(const T* keys, const float* scales, WarpScores& scores) const;
  __device__ __forceinline__ void ScoresOfFloats(const T* keys, WarpScores& scores) const;
  __device__ __forceinline__ void AddValues(const T* values, const float* scales, WarpScores& weights);
  __device__ __forceinline__ void ShareParts(float* parts) const;

  const AttentionParameters<T>& p_;
  RowView rows_;
  int begin_ = 0, end_ = 0;  // of Run
  int32_t* tables_;          // [kTables, kTile]: rows of the pages
  float* scales_;            // [kStages, (keys', values'), kTile]
  Element* query_;           // [kRows, kQueryStride]
  T* stages_;                // [kStages, (keys, values), kTile, kStride]
  RowSums<Shape::kRowTiles, kValueTiles> sums_;
};

template <typename Shape>
__device__ __forceinline__ void Attention<Shape>::CopyTile(int tile) {
  constexpr int kElements = 16 / static_cast<int>(sizeof(T));  // of a chunk
  constexpr int kChunks = Shape::kHeadDim / kElements;
  constexpr int kRowsAtOnce = Shape::kThreads / kChunks;
  static_assert(Shape::kThreads % kChunks == 0 && Shape::kTile % kRowsAtOnce == 0);
  const int chunk = Thread() % kChunks;
  const int32_t* table = tables_ + tile % Shape::kTables * Shape::kTile;
  T* const keys = StageOf(tile);
#pragma unroll 2
  for (int i = 0; i < Shape::kTile / kRowsAtOnce; ++i) {
    const int position = Thread() / kChunks + i * kRowsAtOnce;
    const int64_t row = table[position];
    T* const to = keys + position * Shape::kStride + chunk * kElements;
    // Beyond what anybody sees: zeros, since a weight of zero does not hide a NaN.
    ptx::CpAsync16(to, row < 0 ? nullptr : p_.k_pages + row * Shape::kHeadDim + chunk * kElements, row >= 0);
    ptx::CpAsync16(to + Shape::kTileElements,
                   row < 0 ? nullptr : p_.v_pages + row * p_.v_row_stride + chunk * kElements, row >= 0);
  }
  if constexpr (Shape::kIsInteger) CopyScales(tile);
}

template <typename Shape>
__device__ __forceinline__ void Attention<Shape>::CopyScales(int tile) {
  if (Thread() >= Shape::kTile) return;
  const int64_t row = tables_[tile % Shape::kTables * Shape::kTile + Thread()];
  float* const to = ScalesOf(tile) + Thread();
  ptx::CpAsync4(to, row < 0 ? nullptr : p_.k_scales + row, row >= 0);
  ptx::CpAsync4(to + Shape::kTile, row < 0 ? nullptr : p_.v_scales + row, row >= 0);
}

template <typename Shape>
__device__ __forceinline__ void Attention<Shape>::ComputeScores(const T* keys, const float* scales,
                                                                WarpScores& scores) const {
#pragma unroll
  for (int i = 0; i < Shape::kRowTiles; ++i) {
#pragma unroll
    for (int n = 0; n < kScoreTiles; ++n) {
#pragma unroll
      for (int j = 0; j < 4; ++j) scores[i][n][j] = 0.0f;
    }
  }
  if constexpr (Shape::kIsInteger) {
    ScoresOfIntegers<Shape::kHeadDim, Shape::kQueryStride, Shape::kStride>(query_ + FirstRow() * Shape::kQueryStride,
                                                                           keys, scores);
    return ScaleByPosition(scales, scores);
  } else {
    ScoresOfFloats(keys, scores);
  }
}

template <typename Shape>
__device__ __forceinline__ void Attention<Shape>::ScoresOfFloats(const T* keys, WarpScores& scores) const {
  const T* const query = query_ + (FirstRow() + Lane() % 16) * Shape::kQueryStride + Lane() / 16 * 8;
  const T* const key = keys + (Lane() % 8 + Lane() / 16 * 8) * Shape::kStride + Lane() / 8 % 2 * 8;
#pragma unroll
  for (int d = 0; d < Shape::kHeadDim; d += 16) {
    unsigned q[Shape::kRowTiles][4];
#pragma unroll
    for (int i = 0; i < Shape::kRowTiles; ++i) ptx::LdMatrix<4, false>(q[i], query + i * 16 * Shape::kQueryStride + d);
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

template <typename Shape>
__device__ __forceinline__ void Attention<Shape>::AddValues(const T* values, const float* scales, WarpScores& weights) {
  if constexpr (Shape::kIsInteger) {
    ScaleByPosition(scales, weights);
    AddIntegerValues<Shape::kStride>(values, weights, sums_);
  } else {
    sums_.template AddValues<T, Shape::kStride>(values, weights);
  }
}

template <typename Shape>
__device__ __forceinline__ void Attention<Shape>::Run(int begin, int end) {
  begin_ = begin;
  end_ = end;
  sums_.Clear();
  const int first_tile = begin / Shape::kTile;
  const int end_tile = CeilDiv(end, Shape::kTile);
  // Tiles of positions that all rows see: those within [seen_begin, seen_end).
  const int seen_begin = rows_.BeginOf(rows_.LastEnd());
  const int seen_end = rows_.FirstEnd();
  for (int i = 0; i < Shape::kStages; ++i) SetTable(first_tile + i, LookUp(first_tile + i));
  __syncthreads();
  for (int i = 0; i < Shape::kStages - 1; ++i) {
    if (first_tile + i < end_tile) CopyTile(first_tile + i);
    ptx::CpAsyncCommit();
  }
  LoadQueries<Shape::kRows, Shape::kHeadDim, Shape::kQueryStride, Shape::kThreads>(p_, rows_, query_);
  for (int tile = first_tile; tile < end_tile; ++tile) {
    // Asked for early: the block's number is a long way off.
    const int32_t next_row = LookUp(tile + Shape::kStages);
    ptx::CpAsyncWait<Shape::kStages - 2>();
    __syncthreads();  // the tile is here for all, and nobody reads the one before any more
    if (tile + Shape::kStages - 1 < end_tile) CopyTile(tile + Shape::kStages - 1);
    ptx::CpAsyncCommit();
    const T* const keys = StageOf(tile) + PositionWarp() * Shape::kWarpPositions * Shape::kStride;
    const float* const scales = ScalesOf(tile) + PositionWarp() * Shape::kWarpPositions;
    WarpScores scores;
    ComputeScores(keys, scales, scores);
    if (tile * Shape::kTile < seen_begin || (tile + 1) * Shape::kTile > seen_end) {
      MaskScores(rows_, FirstRow(), tile * Shape::kTile + PositionWarp() * Shape::kWarpPositions, scores);
    }
    sums_.ToWeights(p_.scale * kLog2E, scores);
    AddValues(keys + Shape::kTileElements, scales + Shape::kTile, scores);
    SetTable(tile + Shape::kStages, next_row);
  }
  ptx::CpAsyncWait<0>();
  sums_.SumOverLanes();
  if constexpr (Shape::kIsInteger) SortIntegerValues(sums_);
}

// A position warp's part of the rows to parts[warp][row][max, sum, values].
template <typename Shape>
__device__ __forceinline__ void Attention<Shape>::ShareParts(float* parts) const {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float* part = parts + (PositionWarp() * Shape::kRows + half * 8 + Lane() / 4) * (Shape::kHeadDim + 2);
    if (Lane() % 4 == 0) {
      part[0] = sums_.max[0][half];
      part[1] = sums_.sum[0][half];
    }
#pragma unroll
    for (int n = 0; n < kValueTiles; ++n) {
      part[2 + DimensionOf<T>(n)] = sums_.values[0][n][half * 2];
      part[2 + DimensionOf<T>(n) + 1] = sums_.values[0][n][half * 2 + 1];
    }
  }
}

template <typename Shape>
__device__ __forceinline__ void Attention<Shape>::Store(int split) {
  if constexpr (Shape::kPositionWarps == 1) {
    StoreRows(p_, rows_, FirstRow(), 0, split, sums_);
    return;
  }
  constexpr int kPartFloats = Shape::kHeadDim + 2;
  float* const parts = reinterpret_cast<float*>(stages_);
  __syncthreads();  // nobody reads the stages any more
  ShareParts(parts);
  __syncthreads();
  constexpr int kPairs = Shape::kHeadDim / 2;
  for (int i = Thread(); i < rows_.tile.num_rows * kPairs; i += Shape::kThreads) {
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
    StorePair(p_, rows_, row, split, state, d, left, right);
  }
}

// Grid: as RunBlock has it.
template <typename Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kMinBlocks)
    FlashKernel(AttentionParameters<typename Shape::T> p) {
  ptx::AwaitEarlierGrids();
  MOED_DYNAMIC_SHARED(char, shared);
  RunBlock<Shape, Attention<Shape>>(p, shared);
}

}  // namespace moed::kernels::flash

#endif  // KERNELS_PAGED_ATTENTION_FLASH_ATTENTION_CUDA_H_
