// Attention over the latents of MLA on the tensor cores (mma.sync): one KV head, whose values are the first kValueDim
// columns of its keys (DeepSeek-V2, arXiv:2405.04434, in the absorbed form), so that a tile of keys in shared memory
// serves both products.
//
// A block takes a tile of rows; its warps share out the scores of a tile of positions, 16 rows by 8 positions each,
// give them to each other through shared memory, and have then all rows' weights and each its own columns of the
// values.
#ifndef KERNELS_PAGED_ATTENTION_FLASH_LATENT_CUDA_H_
#define KERNELS_PAGED_ATTENTION_FLASH_LATENT_CUDA_H_

#include "kernels/paged_attention/flash_tile_cuda.h"

namespace moed::kernels::flash {

template <typename ElementType, Phase kPhaseOfRows, int kRowTileCount>
struct LatentShape {
  using T = ElementType;
  static constexpr Phase kPhase = kPhaseOfRows;
  static constexpr int kKeyDim = 576, kValueDim = 512;
  static constexpr int kRowTiles = kRowTileCount;
  static constexpr int kRows = 16 * kRowTiles;
  static constexpr int kTile = 32;  // positions
  static constexpr int kPositionGroups = kTile / 8;
  static constexpr int kWarps = kRowTiles * kPositionGroups;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kColumns = kValueDim / kWarps;  // of a warp
  static constexpr int kStages = 2;
  static constexpr int kMinBlocks = kRowTiles == 1 ? 2 : 1;

  // Rows in shared memory, padded by 16 bytes so that the rows of a matrix lie in different banks; rows of scores so
  // that pairs of eight rows do.
  static constexpr int kStride = kKeyDim + 8;     // elements
  static constexpr int kScoreStride = kTile + 8;  // floats
  static constexpr int kTables = kStages + 1;

  static constexpr size_t SharedBytes() {
    return (size_t{kRows} + size_t{kStages} * kTile) * kStride * sizeof(T) +
           size_t{kRows} * kScoreStride * sizeof(float) + size_t{kTables} * kTile * sizeof(int32_t);
  }
};

template <typename Shape>
class LatentAttention {
 public:
  using T = typename Shape::T;

  __device__ __forceinline__ LatentAttention(const AttentionParameters<T>& p, const RowView& rows, char* shared)
      : p_(p), rows_(rows) {
    scores_ = reinterpret_cast<float*>(shared);
    tables_ = reinterpret_cast<int32_t*>(scores_ + Shape::kRows * Shape::kScoreStride);
    query_ = reinterpret_cast<T*>(tables_ + Shape::kTables * Shape::kTile);
    stages_ = query_ + Shape::kRows * Shape::kStride;
  }

  // Goes through the positions [begin, end), which some row sees.
  __device__ __forceinline__ void Run(int begin, int end);
  __device__ __forceinline__ void Store(int split) { StoreRows(p_, rows_, 0, Warp() * Shape::kColumns, split, sums_); }

 private:
  static constexpr int kScoreTiles = Shape::kTile / 8;

  __device__ __forceinline__ static int Thread() { return static_cast<int>(threadIdx.x); }
  __device__ __forceinline__ static int Lane() { return Thread() % 32; }
  __device__ __forceinline__ static int Warp() { return Thread() / 32; }

  // Where the row of a tile's position lies that the calling thread looks up; -1 for one that nobody sees.
  __device__ __forceinline__ int32_t LookUp(int tile) const;
  __device__ __forceinline__ void SetTable(int tile, int32_t row) {
    if (Thread() < Shape::kTile) tables_[tile % Shape::kTables * Shape::kTile + Thread()] = row;
  }
  __device__ __forceinline__ T* StageOf(int tile) {
    return stages_ + tile % Shape::kStages * Shape::kTile * Shape::kStride;
  }
  __device__ __forceinline__ void CopyTile(int tile);
  // The warp's part of the scores of the tile to shared memory, and all of them from there.
  __device__ __forceinline__ void ShareScores(const T* keys, int first_position) const;
  __device__ __forceinline__ void LoadScores(Scores<Shape::kRowTiles, kScoreTiles>& scores) const;

  const AttentionParameters<T>& p_;
  RowView rows_;
  int begin_ = 0, end_ = 0;  // of Run
  float* scores_;            // [kRows, kScoreStride]
  int32_t* tables_;          // [kTables, kTile]: rows of the pages
  T* query_;                 // [kRows, kStride]
  T* stages_;                // [kStages, kTile, kStride]
  RowSums<Shape::kRowTiles, Shape::kColumns / 8> sums_;
};

template <typename Shape>
__device__ __forceinline__ int32_t LatentAttention<Shape>::LookUp(int tile) const {
  const int position = tile * Shape::kTile + Thread();
  if (Thread() >= Shape::kTile || position < begin_ || position >= end_) return -1;
  const int32_t* blocks = p_.block_ids + p_.block_starts[rows_.tile.sequence];
  return static_cast<int32_t>(p_.RowOf(blocks, rows_.kv_head, position));
}

template <typename Shape>
__device__ __forceinline__ void LatentAttention<Shape>::CopyTile(int tile) {
  constexpr int kChunks = Shape::kKeyDim / 8;  // of 16 bytes
  static_assert(Shape::kTile * kChunks % Shape::kThreads == 0);
  const int32_t* table = tables_ + tile % Shape::kTables * Shape::kTile;
  T* const keys = StageOf(tile);
#pragma unroll 3
  for (int i = Thread(); i < Shape::kTile * kChunks; i += Shape::kThreads) {
    const int position = i / kChunks;
    const int chunk = i % kChunks;
    const int64_t row = table[position];
    // Beyond what anybody sees: zeros, since a weight of zero does not hide a NaN.
    ptx::CpAsync16(keys + position * Shape::kStride + chunk * 8,
                   row < 0 ? nullptr : p_.k_pages + row * Shape::kKeyDim + chunk * 8, row >= 0);
  }
}

template <typename Shape>
__device__ __forceinline__ void LatentAttention<Shape>::ShareScores(const T* keys, int first_position) const {
  const int first_row = Warp() / Shape::kPositionGroups * 16;
  const int position = Warp() % Shape::kPositionGroups * 8;
  // Two sums, so that one product does not wait for the other.
  float sums[2][4] = {};
  const T* const query = query_ + (first_row + Lane() % 16) * Shape::kStride + Lane() / 16 * 8;
  const T* const key = keys + (position + Lane() % 8) * Shape::kStride + Lane() / 8 * 8;
#pragma unroll 6
  for (int d = 0; d < Shape::kKeyDim; d += 32) {
    unsigned k[4];
    ptx::LdMatrix<4, false>(k, key + d);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      unsigned q[4];
      ptx::LdMatrix<4, false>(q, query + d + half * 16);
      const unsigned b[2] = {k[half * 2], k[half * 2 + 1]};
      Multiply(sums[half], q, b, T());
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = first_row + half * 8 + Lane() / 4;
    const int end = rows_.EndOf(row);
    const int begin = rows_.BeginOf(end);
    float score[2];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int place = first_position + position + Lane() % 4 * 2 + j;
      score[j] = place < begin || place >= end ? -INFINITY : sums[0][half * 2 + j] + sums[1][half * 2 + j];
    }
    float* to = scores_ + row * Shape::kScoreStride + position + Lane() % 4 * 2;
    *reinterpret_cast<float2*>(to) = make_float2(score[0], score[1]);
  }
}

template <typename Shape>
__device__ __forceinline__ void LatentAttention<Shape>::LoadScores(
    Scores<Shape::kRowTiles, kScoreTiles>& scores) const {
#pragma unroll
  for (int i = 0; i < Shape::kRowTiles; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float* row = scores_ + (i * 16 + half * 8 + Lane() / 4) * Shape::kScoreStride + Lane() % 4 * 2;
#pragma unroll
      for (int n = 0; n < kScoreTiles; ++n) {
        const float2 pair = *reinterpret_cast<const float2*>(row + n * 8);
        scores[i][n][half * 2] = pair.x;
        scores[i][n][half * 2 + 1] = pair.y;
      }
    }
  }
}

template <typename Shape>
__device__ __forceinline__ void LatentAttention<Shape>::Run(int begin, int end) {
  begin_ = begin;
  end_ = end;
  sums_.Clear();
  const int first_tile = begin / Shape::kTile;
  const int end_tile = CeilDiv(end, Shape::kTile);
  for (int i = 0; i < Shape::kStages; ++i) SetTable(first_tile + i, LookUp(first_tile + i));
  __syncthreads();
  for (int i = 0; i < Shape::kStages - 1; ++i) {
    if (first_tile + i < end_tile) CopyTile(first_tile + i);
    ptx::CpAsyncCommit();
  }
  LoadQueries<T, Shape::kRows, Shape::kKeyDim, Shape::kStride, Shape::kThreads>(p_, rows_, query_);
  for (int tile = first_tile; tile < end_tile; ++tile) {
    // Asked for early: the block's number is a long way off.
    const int32_t next_row = LookUp(tile + Shape::kStages);
    ptx::CpAsyncWait<Shape::kStages - 2>();
    __syncthreads();  // the tile is here for all, and nobody reads the one before any more, nor its scores
    if (tile + Shape::kStages - 1 < end_tile) CopyTile(tile + Shape::kStages - 1);
    ptx::CpAsyncCommit();
    ShareScores(StageOf(tile), tile * Shape::kTile);
    SetTable(tile + Shape::kStages, next_row);
    __syncthreads();
    Scores<Shape::kRowTiles, kScoreTiles> scores;
    LoadScores(scores);
    sums_.ToWeights(p_.scale * kLog2E, scores);
    sums_.template AddValues<T, Shape::kStride>(StageOf(tile) + Warp() * Shape::kColumns, scores);
  }
  ptx::CpAsyncWait<0>();
  sums_.SumOverLanes();
}

// Grid: tiles of rows, those of a sequence's longest contexts first; KV heads; parts of the positions.
template <typename Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kMinBlocks)
    FlashLatentKernel(AttentionParameters<typename Shape::T> p) {
  ptx::AwaitEarlierGrids();
  MOED_DYNAMIC_SHARED(char, shared);
  const RowTile tile =
      FindRowTile<Shape::kPhase>(p, Shape::kRows, static_cast<int>(gridDim.x) - 1 - static_cast<int>(blockIdx.x));
  if (tile.num_rows == 0) return;
  const RowView rows(p, tile, static_cast<int>(blockIdx.y));
  const int split = static_cast<int>(blockIdx.z);
  const int begin = max(rows.BeginOf(rows.FirstEnd()), split * p.split_positions);
  const int end = min(rows.LastEnd(), (split + 1) * p.split_positions);
  if (begin >= end) return;
  LatentAttention<Shape> attention(p, rows, shared);
  attention.Run(begin, end);
  attention.Store(split);
}

}  // namespace moed::kernels::flash

#endif  // KERNELS_PAGED_ATTENTION_FLASH_LATENT_CUDA_H_
