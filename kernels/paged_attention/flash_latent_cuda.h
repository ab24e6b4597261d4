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
  static constexpr int kParts = 4;  // of the dimensions of a score
  static constexpr int kPartDim = kKeyDim / kParts;
  static constexpr int kWarps = kRowTiles * kParts;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kColumns = kValueDim / kWarps;  // of a warp
  static constexpr int kStages = 2;
  static constexpr int kMinBlocks = kRowTiles == 1 ? 2 : 1;
  static_assert(kPartDim % 16 == 0 && kColumns % 16 == 0 && kTile % kWarps == 0);

  // Rows in shared memory, padded by 16 bytes so that the rows of a matrix lie in different banks; rows of scores so
  // that pairs of eight rows do.
  static constexpr int kStride = kKeyDim + 8;     // elements
  static constexpr int kScoreStride = kTile + 8;  // floats
  static constexpr int kTables = kStages + 1;

  static constexpr size_t SharedBytes() {
    return size_t{kStages} * kTile * kStride * sizeof(T) + size_t{kParts} * kRows * kScoreStride * sizeof(float) +
           size_t{kTables} * kTile * sizeof(int32_t);
  }
};

template <typename Shape>
class LatentAttention {
 public:
  using T = typename Shape::T;

  __device__ __forceinline__ LatentAttention(const AttentionParameters<T>& p, const RowView& rows, char* shared)
      : p_(p), rows_(rows) {
    scores_ = reinterpret_cast<float*>(shared);
    tables_ = reinterpret_cast<int32_t*>(scores_ + Shape::kParts * Shape::kRows * Shape::kScoreStride);
    stages_ = reinterpret_cast<T*>(tables_ + Shape::kTables * Shape::kTile);
  }

  // Goes through the positions [begin, end), which some row sees.
  __device__ __forceinline__ void Run(int begin, int end);
  __device__ __forceinline__ void Store(int split) { StoreRows(p_, rows_, 0, Warp() * Shape::kColumns, split, sums_); }

 private:
  static constexpr int kScoreTiles = Shape::kTile / 8;
  static constexpr int kSteps = Shape::kPartDim / 16;

  __device__ __forceinline__ static int Thread() { return static_cast<int>(threadIdx.x); }
  __device__ __forceinline__ static int Lane() { return Thread() % 32; }
  __device__ __forceinline__ static int Warp() { return Thread() / 32; }
  // Of the scores: the warp's rows, and its part of the dimensions.
  __device__ __forceinline__ static int FirstRow() { return Warp() / Shape::kParts * 16; }
  __device__ __forceinline__ static int Part() { return Warp() % Shape::kParts; }

  __device__ __forceinline__ int32_t LookUp(int tile) const {
    return LookUpRow<Shape::kTile>(p_, rows_, tile, begin_, end_);
  }
  __device__ __forceinline__ void SetTable(int tile, int32_t row) {
    if (Thread() < Shape::kTile) tables_[tile % Shape::kTables * Shape::kTile + Thread()] = row;
  }
  __device__ __forceinline__ T* StageOf(int tile) {
    return stages_ + tile % Shape::kStages * Shape::kTile * Shape::kStride;
  }
  __device__ __forceinline__ void CopyTile(int tile);
  // The warp's sums to shared memory, and the scores from there.
  __device__ __forceinline__ void ShareSums(const T* keys) const;
  __device__ __forceinline__ void LoadScores(Scores<Shape::kRowTiles, kScoreTiles>& scores) const;

  const AttentionParameters<T>& p_;
  RowView rows_;
  int begin_ = 0, end_ = 0;  // of Run
  float* scores_;            // [kParts, kRows, kScoreStride]: sums over a part of the dimensions
  int32_t* tables_;          // [kTables, kTile]: rows of the pages
  T* stages_;                // [kStages, kTile, kStride]
  unsigned query_[kSteps][4];
  RowSums<Shape::kRowTiles, Shape::kColumns / 8> sums_;
};

// A warp copies a row after the other.
template <typename Shape>
__device__ __forceinline__ void LatentAttention<Shape>::CopyTile(int tile) {
  constexpr int kChunks = Shape::kKeyDim / 8;  // of 16 bytes
  const int32_t* table = tables_ + tile % Shape::kTables * Shape::kTile;
  T* const keys = StageOf(tile) + Lane() * 8;
  const char* const pages = reinterpret_cast<const char*>(p_.k_pages) + Lane() * 16;
#pragma unroll 4
  for (int position = Warp(); position < Shape::kTile; position += Shape::kWarps) {
    const int32_t row = table[position];
    const char* from = pages + static_cast<int64_t>(max(row, 0)) * (Shape::kKeyDim * 2);
    T* const to = keys + position * Shape::kStride;
#pragma unroll
    for (int chunk = 0; chunk < kChunks; chunk += 32) {
      // Beyond what anybody sees: zeros, since a weight of zero does not hide a NaN.
      if (chunk + Lane() < kChunks) ptx::CpAsync16(to + chunk * 8, from + chunk * 16, row >= 0);
    }
  }
}

template <typename Shape>
__device__ __forceinline__ void LatentAttention<Shape>::ShareSums(const T* keys) const {
  float sums[kScoreTiles][4] = {};
  const T* const key =
      keys + (Lane() % 8 + Lane() / 16 * 8) * Shape::kStride + Part() * Shape::kPartDim + Lane() / 8 % 2 * 8;
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
#pragma unroll
    for (int n = 0; n < kScoreTiles; n += 2) {
      unsigned k[4];
      ptx::LdMatrix<4, false>(k, key + n * 8 * Shape::kStride + i * 16);
      const unsigned lower[2] = {k[0], k[1]}, upper[2] = {k[2], k[3]};
      Multiply(sums[n], query_[i], lower, T());
      Multiply(sums[n + 1], query_[i], upper, T());
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float* row =
        scores_ + (Part() * Shape::kRows + FirstRow() + half * 8 + Lane() / 4) * Shape::kScoreStride + Lane() % 4 * 2;
#pragma unroll
    for (int n = 0; n < kScoreTiles; ++n) {
      *reinterpret_cast<float2*>(row + n * 8) = make_float2(sums[n][half * 2], sums[n][half * 2 + 1]);
    }
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
        float2 sum = *reinterpret_cast<const float2*>(row + n * 8);
#pragma unroll
        for (int part = 1; part < Shape::kParts; ++part) {
          const float2 more = *reinterpret_cast<const float2*>(row + part * Shape::kRows * Shape::kScoreStride + n * 8);
          sum.x += more.x;
          sum.y += more.y;
        }
        scores[i][n][half * 2] = sum.x;
        scores[i][n][half * 2 + 1] = sum.y;
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
  // Positions that all rows see: those within [seen_begin, seen_end).
  const int seen_begin = rows_.BeginOf(rows_.LastEnd());
  const int seen_end = rows_.FirstEnd();
  for (int i = 0; i < Shape::kStages; ++i) SetTable(first_tile + i, LookUp(first_tile + i));
  __syncthreads();
  for (int i = 0; i < Shape::kStages - 1; ++i) {
    if (first_tile + i < end_tile) CopyTile(first_tile + i);
    ptx::CpAsyncCommit();
  }
  LoadQueryFragments<kSteps>(p_, rows_, FirstRow(), Part() * Shape::kPartDim, query_);
  for (int tile = first_tile; tile < end_tile; ++tile) {
    // Asked for early: the block's number is a long way off.
    const int32_t next_row = LookUp(tile + Shape::kStages);
    ptx::CpAsyncWait<Shape::kStages - 2>();
    __syncthreads();  // the tile is here for all, and nobody reads the one before any more, nor its scores
    if (tile + Shape::kStages - 1 < end_tile) CopyTile(tile + Shape::kStages - 1);
    ptx::CpAsyncCommit();
    ShareSums(StageOf(tile));
    SetTable(tile + Shape::kStages, next_row);
    __syncthreads();
    Scores<Shape::kRowTiles, kScoreTiles> scores;
    LoadScores(scores);
    if (tile * Shape::kTile < seen_begin || (tile + 1) * Shape::kTile > seen_end) {
      MaskScores(rows_, 0, tile * Shape::kTile, scores);
    }
    sums_.ToWeights(p_.scale * kLog2E, scores);
    sums_.template AddValues<T, Shape::kStride>(StageOf(tile) + Warp() * Shape::kColumns, scores);
  }
  ptx::CpAsyncWait<0>();
  sums_.SumOverLanes();
}

// Grid: as RunBlock has it.
template <typename Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kMinBlocks)
    FlashLatentKernel(AttentionParameters<typename Shape::T> p) {
  ptx::AwaitEarlierGrids();
  MOED_DYNAMIC_SHARED(char, shared);
  RunBlock<Shape, LatentAttention<Shape>>(p, shared);
}

}  // namespace moed::kernels::flash

#endif  // KERNELS_PAGED_ATTENTION_FLASH_LATENT_CUDA_H_
