// Attention of prompts by warpgroups (wgmma, sm_90a), for pages of bf16: FlashAttention-3 (Shah et al. 2024,
// arXiv:2407.08608) without its producer warps. A block has 128 rows, 64 of each warpgroup, and goes through the
// positions in tiles of 128; a warpgroup starts the scores of a tile and the values of the one before together, and
// turns scores to weights while the values are added. The two take turns (the paper's ping-pong): each meets the other
// at the barrier of a tile once a tile, the first before its products, the second after them, so that the tensor cores
// have the products of one while the other computes weights.
//
// Keys and values lie in shared memory in blocks of 64 dimensions, a row of 128 bytes for each position, swizzled: by
// columns for the scores, by rows for the values (ptx.h). Queries and weights are in registers.
#ifndef KERNELS_PAGED_ATTENTION_FLASH_WARPGROUP_CUDA_H_
#define KERNELS_PAGED_ATTENTION_FLASH_WARPGROUP_CUDA_H_

#include "kernels/paged_attention/flash_tile_cuda.h"

namespace moed::kernels::flash {

template <int kHeadDimension>
struct WarpgroupShape {
  using T = BFloat16;
  static constexpr Phase kPhase = Phase::kPrefill;
  static constexpr int kHeadDim = kHeadDimension;
  static constexpr int kWarpgroups = 2;
  static constexpr int kThreads = 128 * kWarpgroups;
  static constexpr int kRows = 64 * kWarpgroups;
  static constexpr int kTile = 128;  // positions
  static constexpr int kBlockBytes = kTile * 128;
  static constexpr int kTileBytes = kHeadDim / 64 * kBlockBytes;
  // Tiles of keys, and as many of values: one under way, one for each warpgroup's products.
  static constexpr int kSlots = 3;
  static constexpr int kTables = 4;
  static constexpr int kAlignment = 1024;
  static_assert(kHeadDim % 64 == 0);

  // What a thread copies of a tile: a chunk of 16 bytes of every kRowsAtOnce-th row. Those rows lie together in a
  // table.
  static constexpr int kChunks = kHeadDim / 8;
  static constexpr int kRowsAtOnce = kThreads / kChunks;
  static constexpr int kCopies = kTile / kRowsAtOnce;
  // They have the same number modulo 8, and so the same swizzle.
  static_assert(kRowsAtOnce % 8 == 0 && kCopies % 4 == 0 && kCopies * kRowsAtOnce == kTile);

  static constexpr size_t SharedBytes() {
    return size_t{kAlignment} + size_t{2 * kSlots} * kTileBytes + size_t{kTables} * kTile * sizeof(int32_t);
  }
};

template <typename Shape>
class WarpgroupAttention {
 public:
  using T = typename Shape::T;

  __device__ __forceinline__ WarpgroupAttention(const AttentionParameters<T>& p, const RowView& rows, char* shared)
      : p_(p), rows_(rows) {
    const auto misaligned = reinterpret_cast<uintptr_t>(shared) % Shape::kAlignment;
    tiles_ = shared + (misaligned == 0 ? 0 : Shape::kAlignment - misaligned);
    tables_ = reinterpret_cast<int32_t*>(tiles_ + 2 * Shape::kSlots * Shape::kTileBytes);
  }

  // Goes through the positions [begin, end), which some row sees.
  __device__ __forceinline__ void Run(int begin, int end);
  __device__ __forceinline__ void Store(int split) { StoreRows(p_, rows_, FirstRow(), 0, split, sums_); }

 private:
  static constexpr int kSteps = Shape::kHeadDim / 16;
  static constexpr int kScoreTiles = Shape::kTile / 8;
  static constexpr int kValueTiles = Shape::kHeadDim / 8;
  using TileScores = Scores<1, kScoreTiles>;
  using TileWeights = unsigned[Shape::kTile / 16][4];

  __device__ __forceinline__ static int Thread() { return static_cast<int>(threadIdx.x); }
  __device__ __forceinline__ static int Lane() { return Thread() % 32; }
  // The warp's first row in the tile.
  __device__ __forceinline__ static int FirstRow() { return Thread() / 32 * 16; }

  __device__ __forceinline__ int32_t LookUp(int tile) const {
    return LookUpRow<Shape::kTile>(p_, rows_, tile, begin_, end_);
  }
  __device__ __forceinline__ void SetTable(int tile, int32_t row) {
    const int place = Thread() % Shape::kRowsAtOnce * Shape::kCopies + Thread() / Shape::kRowsAtOnce;
    if (Thread() < Shape::kTile) tables_[tile % Shape::kTables * Shape::kTile + place] = row;
  }
  __device__ __forceinline__ char* KeysOf(int tile) { return tiles_ + tile % Shape::kSlots * Shape::kTileBytes; }
  __device__ __forceinline__ char* ValuesOf(int tile) {
    return tiles_ + (Shape::kSlots + tile % Shape::kSlots) * Shape::kTileBytes;
  }
  // Starts to copy a tile from rows that are `row_bytes` apart.
  __device__ __forceinline__ void CopyTile(int tile, const T* pages, int row_bytes, char* to);
  __device__ __forceinline__ void StartScores(int tile, TileScores& scores);
  __device__ __forceinline__ void StartValues(int tile, const TileWeights& weights);
  __device__ __forceinline__ static void PackWeights(const TileScores& scores, TileWeights& weights);
  __device__ __forceinline__ void Weigh(int tile, TileScores& scores, float (&factors)[1][2]);
  __device__ __forceinline__ void MeetAt(int tile);
  __device__ __forceinline__ void AwaitValues();

  const AttentionParameters<T>& p_;
  RowView rows_;
  int begin_ = 0, end_ = 0;  // of Run
  char* tiles_;              // [keys, values][kSlots][kTileBytes]
  int32_t* tables_;          // [kTables, kTile]: rows of the pages
  unsigned query_[kSteps][4];
  RowSums<1, kValueTiles> sums_;
};

template <typename Shape>
__device__ __forceinline__ void WarpgroupAttention<Shape>::CopyTile(int tile, const T* pages, int row_bytes, char* to) {
  const int chunk = Thread() % Shape::kChunks;
  const int first = Thread() / Shape::kChunks;
  const int32_t* table = tables_ + tile % Shape::kTables * Shape::kTile + first * Shape::kCopies;
  const char* from = reinterpret_cast<const char*>(pages + chunk * 8);
  char* const place = to + chunk / 8 * Shape::kBlockBytes + first * 128 + ((chunk % 8) ^ (first % 8)) * 16;
#pragma unroll
  for (int i = 0; i < Shape::kCopies; i += 4) {
    const int4 four = *reinterpret_cast<const int4*>(table + i);
    const int rows[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      // Beyond what anybody sees: zeros, since a weight of zero does not hide a NaN.
      ptx::CpAsync16(place + (i + j) * Shape::kRowsAtOnce * 128,
                     from + static_cast<int64_t>(max(rows[j], 0)) * row_bytes, rows[j] >= 0);
    }
  }
}

template <typename Shape>
__device__ __forceinline__ void WarpgroupAttention<Shape>::StartScores(int tile, TileScores& scores) {
  const char* keys = KeysOf(tile);
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
    ptx::WgmmaBf16<Shape::kTile>(reinterpret_cast<float(&)[Shape::kTile / 2]>(scores), query_[i],
                                 keys + i / 4 * Shape::kBlockBytes + i % 4 * 32, i > 0);
  }
  ptx::WgmmaCommit();
}

template <typename Shape>
__device__ __forceinline__ void WarpgroupAttention<Shape>::StartValues(int tile, const TileWeights& weights) {
  const char* values = ValuesOf(tile);
#pragma unroll
  for (int i = 0; i < Shape::kTile / 16; ++i) {
    ptx::WgmmaBf16ByRows<Shape::kHeadDim>(reinterpret_cast<float(&)[Shape::kHeadDim / 2]>(sums_.values), weights[i],
                                          values + i * 16 * 128, Shape::kBlockBytes, true);
  }
  ptx::WgmmaCommit();
}

template <typename Shape>
__device__ __forceinline__ void WarpgroupAttention<Shape>::PackWeights(const TileScores& scores, TileWeights& weights) {
#pragma unroll
  for (int i = 0; i < Shape::kTile / 16; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float(&tile)[4] = scores[0][i * 2 + j / 2];
      weights[i][j] = Pack(tile[j % 2 * 2], tile[j % 2 * 2 + 1], T());
    }
  }
}

// Scores that are there to weights and the factors of the values before.
template <typename Shape>
__device__ __forceinline__ void WarpgroupAttention<Shape>::Weigh(int tile, TileScores& scores, float (&factors)[1][2]) {
  ptx::WgmmaResults(reinterpret_cast<float(&)[Shape::kTile / 2]>(scores));
  // Positions that all rows see.
  const int seen_begin = rows_.BeginOf(rows_.LastEnd());
  const int seen_end = rows_.FirstEnd();
  if (tile * Shape::kTile < seen_begin || (tile + 1) * Shape::kTile > seen_end)
    MaskScores(rows_, FirstRow(), tile * Shape::kTile, scores);
  sums_.Weigh(p_.scale * kLog2E, scores, factors);
}

// The tile's keys and the values of the one before are here for all; the next tile's keys and this one's values get
// under way, in place of what both warpgroups have multiplied.
template <typename Shape>
__device__ __forceinline__ void WarpgroupAttention<Shape>::MeetAt(int tile) {
  ptx::CpAsyncWait<0>();
  ptx::FenceProxyAsync();
  __syncthreads();
  if ((tile + 1) * Shape::kTile < end_) CopyTile(tile + 1, p_.k_pages, Shape::kHeadDim * 2, KeysOf(tile + 1));
  if (tile * Shape::kTile < end_) {
    CopyTile(tile, p_.v_pages, static_cast<int>(p_.v_row_stride) * 2, ValuesOf(tile));
  }
  ptx::CpAsyncCommit();
}

template <typename Shape>
__device__ __forceinline__ void WarpgroupAttention<Shape>::AwaitValues() {
  ptx::WgmmaWait<0>();
  ptx::WgmmaResults(reinterpret_cast<float(&)[Shape::kHeadDim / 2]>(sums_.values));
}

// Block numbers, which are a long way off, are asked for two tiles ahead. The first tile stands by itself, so that the
// compiler sees in the loop which products are under way.
template <typename Shape>
__device__ __forceinline__ void WarpgroupAttention<Shape>::Run(int begin, int end) {
  begin_ = begin;
  end_ = end;
  sums_.Clear();
  const int first_tile = begin / Shape::kTile;
  const int end_tile = CeilDiv(end, Shape::kTile);
  const bool is_second = Thread() >= 128;
  for (int i = 0; i < 3; ++i) SetTable(first_tile + i, LookUp(first_tile + i));
  __syncthreads();
  CopyTile(first_tile, p_.k_pages, Shape::kHeadDim * 2, KeysOf(first_tile));
  ptx::CpAsyncCommit();
  LoadQueryFragments<kSteps>(p_, rows_, FirstRow(), 0, query_);
  TileScores scores;
  TileWeights weights;
  float factors[1][2];
  MeetAt(first_tile);
  ptx::WgmmaFence();
  StartScores(first_tile, scores);
  if (is_second) MeetAt(first_tile + 1);
  ptx::WgmmaWait<0>();
  Weigh(first_tile, scores, factors);
  PackWeights(scores, weights);
  for (int tile = first_tile + 1; tile < end_tile; ++tile) {
    const int32_t next_row = LookUp(tile + 2);
    if (!is_second) MeetAt(tile);
    ptx::WgmmaFence();
    StartScores(tile, scores);
    ptx::WgmmaFence();
    StartValues(tile - 1, weights);
    if (is_second) MeetAt(tile + 1);
    ptx::WgmmaWait<1>();
    Weigh(tile, scores, factors);
    AwaitValues();
    sums_.Rescale(factors);
    PackWeights(scores, weights);
    SetTable(tile + 2, next_row);
  }
  if (!is_second) MeetAt(end_tile);
  ptx::WgmmaFence();
  StartValues(end_tile - 1, weights);
  AwaitValues();
  ptx::CpAsyncWait<0>();
  sums_.SumOverLanes();
}

// Grid: as RunBlock has it.
template <typename Shape>
__global__ void __launch_bounds__(Shape::kThreads, 1) FlashWarpgroupKernel(AttentionParameters<typename Shape::T> p) {
  if constexpr (!ptx::kHasWgmma) {
    ptx::Trap();
  } else {
    ptx::AwaitEarlierGrids();
    MOED_DYNAMIC_SHARED(char, shared);
    RunBlock<Shape, WarpgroupAttention<Shape>>(p, shared);
  }
}

}  // namespace moed::kernels::flash

#endif  // KERNELS_PAGED_ATTENTION_FLASH_WARPGROUP_CUDA_H_
