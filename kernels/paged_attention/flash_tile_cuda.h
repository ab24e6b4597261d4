// What the tensor-core bodies of attention share: tiles of rows, and the online softmax of a warp's rows in the
// registers of mma.sync (fragment layouts of the PTX ISA).
//
// A row is a token's query head: row r of a sequence's rows for a KV head is token r / group, head r % group of the
// group.
#ifndef KERNELS_PAGED_ATTENTION_FLASH_TILE_CUDA_H_
#define KERNELS_PAGED_ATTENTION_FLASH_TILE_CUDA_H_

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
    const bool is_ours = p.takes_all || (tokens == 1) == (kPhase == Phase::kDecode);
    const int rows = is_ours ? tokens * group : 0;
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

// What a row tile's rows see, and whose they are.
struct RowView {
  template <typename T>
  __device__ __forceinline__ RowView(const AttentionParameters<T>& p, const RowTile& tile, int kv_head)
      : tile(tile), kv_head(kv_head), group(p.num_heads / p.num_kv_heads), window(p.window) {}

  __device__ __forceinline__ int TokenOf(int row) const { return (tile.first_row + row) / group; }
  __device__ __forceinline__ int HeadOf(int row) const { return kv_head * group + (tile.first_row + row) % group; }
  // The positions [BeginOf(EndOf(row)), EndOf(row)).
  __device__ __forceinline__ int EndOf(int row) const { return tile.first_end + TokenOf(row); }
  __device__ __forceinline__ int BeginOf(int end) const { return window == 0 ? 0 : max(0, end - window); }
  // The first row sees least, the last most.
  __device__ __forceinline__ int FirstEnd() const { return EndOf(0); }
  __device__ __forceinline__ int LastEnd() const { return EndOf(tile.num_rows - 1); }

  RowTile tile;
  int kv_head, group, window;
};

// Where dimension `d` of a query lies for pages of integers (flash_integers_cuda.h): of each 16 the first and the last
// two of every four, so that a lane's pairs of the product are neighbours in a key.
__device__ __forceinline__ constexpr int PlaceOfQuery(int d) {
  return d / 16 * 16 + d % 4 / 2 * 8 + d % 16 / 4 * 2 + d % 2;
}

// Four neighbouring queries, from an address that is a multiple of 16 where `aligned`.
__device__ __forceinline__ float4 LoadFourQueries(const float* q, bool aligned) {
  return aligned ? *reinterpret_cast<const float4*>(q) : make_float4(q[0], q[1], q[2], q[3]);
}

// Queries of a tile's rows to shared memory, rounded, rows `stride` elements apart; zeros beyond the last row. Where
// pages hold integers, in the order of PlaceOfQuery.
template <int kRows, int kDim, int kStride, int kThreads, typename T, typename Element>
__device__ __forceinline__ void LoadQueries(const AttentionParameters<T>& p, const RowView& rows, Element* query) {
  constexpr int kQuads = kDim / 4;
  constexpr int kAtOnce = 6;  // loads under way
  const int end = rows.tile.num_rows * kQuads;
  for (int first = static_cast<int>(threadIdx.x); first < kRows * kQuads; first += kAtOnce * kThreads) {
    float4 q[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int i = first + j * kThreads;
      const int row = i / kQuads;
      const float* head = p.q + (rows.tile.first_token + rows.TokenOf(row)) * p.q_token_stride +
                          rows.HeadOf(row) * p.q_head_stride + i % kQuads * 4;
      q[j] = i < end ? LoadFourQueries(head, p.q_in_fours) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int i = first + j * kThreads;
      if (i >= kRows * kQuads) break;
      Element* const row = query + i / kQuads * kStride;
      const unsigned low = Pack(q[j].x, q[j].y, Element()), high = Pack(q[j].z, q[j].w, Element());
      if constexpr (std::is_same_v<T, int8_t>) {
        const int place = PlaceOfQuery(i % kQuads * 4);
        *reinterpret_cast<unsigned*>(row + place) = low;
        *reinterpret_cast<unsigned*>(row + place + 8) = high;
      } else {
        *reinterpret_cast<uint2*>(row + i % kQuads * 4) = make_uint2(low, high);
      }
    }
  }
}

// The same of a warp's 16 rows from first_row on, and of 16 kSteps dimensions, as mma.sync and wgmma take them.
template <int kSteps, typename T>
__device__ __forceinline__ void LoadQueryFragments(const AttentionParameters<T>& p, const RowView& rows, int first_row,
                                                   int first_dimension, unsigned (&query)[kSteps][4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = first_row + half * 8 + lane / 4;
    const bool exists = row < rows.tile.num_rows;
    const float* head = p.q + (rows.tile.first_token + rows.TokenOf(row)) * p.q_token_stride +
                        rows.HeadOf(row) * p.q_head_stride + first_dimension + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < 2 * kSteps; ++i) {
      float2 pair = make_float2(0.0f, 0.0f);
      if (exists && p.q_in_fours) pair = *reinterpret_cast<const float2*>(head + i * 8);
      if (exists && !p.q_in_fours) pair = make_float2(head[i * 8], head[i * 8 + 1]);
      query[i / 2][i % 2 * 2 + half] = Pack(pair.x, pair.y, T());
    }
  }
}

// Where in the pages the row of the position lies that the calling thread looks up, of the kTile positions of a tile;
// -1 where there is none in [begin, end).
template <int kTile, typename T>
__device__ __forceinline__ int32_t LookUpRow(const AttentionParameters<T>& p, const RowView& rows, int tile, int begin,
                                             int end) {
  const int thread = static_cast<int>(threadIdx.x);
  const int position = tile * kTile + thread;
  if (thread >= kTile || position < begin || position >= end) return -1;
  const int32_t* blocks = p.block_ids + p.block_starts[rows.tile.sequence];
  return static_cast<int32_t>(p.RowOf(blocks, rows.kv_head, position));
}

// What a block of any of the bodies does. Grid: tiles of rows, those of a sequence's longest contexts first; KV heads;
// parts of the positions.
template <typename Shape, typename Body>
__device__ __forceinline__ void RunBlock(const AttentionParameters<typename Shape::T>& p, char* shared) {
  const RowTile tile =
      FindRowTile<Shape::kPhase>(p, Shape::kRows, static_cast<int>(gridDim.x) - 1 - static_cast<int>(blockIdx.x));
  if (tile.num_rows == 0) return;
  const RowView rows(p, tile, static_cast<int>(blockIdx.y));
  const int split = static_cast<int>(blockIdx.z);
  const int begin = max(rows.BeginOf(rows.FirstEnd()), split * p.split_positions);
  const int end = min(rows.LastEnd(), (split + 1) * p.split_positions);
  if (begin >= end) return;
  Body body(p, rows, shared);
  body.Run(begin, end);
  body.Store(split);
}

// Scores, then weights, of a warp's rows: [16 rows][8 positions][as mma.sync has them].
template <int kRowTiles, int kScoreTiles>
using Scores = float[kRowTiles][kScoreTiles][4];

// -inf for what a row does not see: of a warp's rows from first_row on, and positions from first_position on.
template <int kRowTiles, int kScoreTiles>
__device__ __forceinline__ void MaskScores(const RowView& rows, int first_row, int first_position,
                                           Scores<kRowTiles, kScoreTiles>& scores) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int end = rows.EndOf(first_row + i * 16 + half * 8 + lane / 4);
      const int begin = rows.BeginOf(end);
#pragma unroll
      for (int n = 0; n < kScoreTiles; ++n) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const int position = first_position + n * 8 + lane % 4 * 2 + j;
          if (position < begin || position >= end) scores[i][n][half * 2 + j] = -INFINITY;
        }
      }
    }
  }
}

// The weights of 16 positions, tiles n and n + 1, rounded, as the first operand of a product.
template <typename T, int kScoreTiles>
__device__ __forceinline__ void PackWeights(const float (&weights)[kScoreTiles][4], int n, unsigned (&a)[4]) {
#pragma unroll
  for (int j = 0; j < 4; ++j) a[j] = Pack(weights[n + j / 2][j % 2 * 2], weights[n + j / 2][j % 2 * 2 + 1], T());
}

// The online softmax of a warp's rows, and their weighted values of 8 kValueTiles dimensions. Lane l has rows
// l / 4 and 8 more of each 16.
template <int kRowTiles, int kValueTiles>
struct RowSums {
  // The largest score so far, times scale and log2(e); the sum over this lane's positions.
  float max[kRowTiles][2], sum[kRowTiles][2];
  float values[kRowTiles][kValueTiles][4];

  __device__ __forceinline__ void Clear() {
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        max[i][half] = -INFINITY;
        sum[i][half] = 0.0f;
      }
#pragma unroll
      for (int n = 0; n < kValueTiles; ++n) {
#pragma unroll
        for (int j = 0; j < 4; ++j) values[i][n][j] = 0.0f;
      }
    }
  }

  // Scores to weights relative to the largest score so far; the sums so far follow. Values must be multiplied by the
  // factors before weights like these are added to them.
  template <int kScoreTiles>
  __device__ __forceinline__ void Weigh(float scale, Scores<kRowTiles, kScoreTiles>& scores,
                                        float (&factors)[kRowTiles][2]) {
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float largest = -INFINITY;
#pragma unroll
        for (int n = 0; n < kScoreTiles; ++n) {
          largest = fmaxf(largest, fmaxf(scores[i][n][half * 2], scores[i][n][half * 2 + 1]));
        }
        largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 2));
        const float new_max = fmaxf(max[i][half], largest * scale);
        // A row that has seen nothing yet: all of its weights are zero.
        const float subtract = new_max == -INFINITY ? 0.0f : new_max;
        factors[i][half] = ptx::Exp2(max[i][half] - subtract);
        max[i][half] = new_max;
        float part = 0.0f;
#pragma unroll
        for (int n = 0; n < kScoreTiles; ++n) {
#pragma unroll
          for (int j = half * 2; j < half * 2 + 2; ++j) {
            scores[i][n][j] = ptx::Exp2(fmaf(scores[i][n][j], scale, -subtract));
            part += scores[i][n][j];
          }
        }
        sum[i][half] = fmaf(sum[i][half], factors[i][half], part);
      }
    }
  }

  __device__ __forceinline__ void Rescale(const float (&factors)[kRowTiles][2]) {
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        // Later tiles seldom have a larger score.
        if (__all_sync(kAllLanes, factors[i][half] == 1.0f) != 0) continue;
#pragma unroll
        for (int n = 0; n < kValueTiles; ++n) {
          values[i][n][half * 2] *= factors[i][half];
          values[i][n][half * 2 + 1] *= factors[i][half];
        }
      }
    }
  }

  template <int kScoreTiles>
  __device__ __forceinline__ void ToWeights(float scale, Scores<kRowTiles, kScoreTiles>& scores) {
    float factors[kRowTiles][2];
    Weigh(scale, scores, factors);
    Rescale(factors);
  }

  // Adds the weighted rows of `from`, which are kStride elements apart; a row is a position.
  template <typename T, int kStride, int kScoreTiles>
  __device__ __forceinline__ void AddValues(const T* from, const Scores<kRowTiles, kScoreTiles>& weights) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const T* const value = from + lane % 16 * kStride + lane / 16 * 8;
#pragma unroll
    for (int n = 0; n < kScoreTiles; n += 2) {
      unsigned a[kRowTiles][4];
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) PackWeights<T>(weights[i], n, a[i]);
#pragma unroll
      for (int d = 0; d < kValueTiles; d += 2) {
        unsigned v[4];
        ptx::LdMatrix<4, true>(v, value + n * 8 * kStride + d * 8);
        const unsigned lower[2] = {v[0], v[1]}, upper[2] = {v[2], v[3]};
#pragma unroll
        for (int i = 0; i < kRowTiles; ++i) {
          Multiply(values[i][d], a[i], lower, T());
          Multiply(values[i][d + 1], a[i], upper, T());
        }
      }
    }
  }

  // Each sum over all lanes' positions.
  __device__ __forceinline__ void SumOverLanes() {
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        sum[i][half] += __shfl_xor_sync(kAllLanes, sum[i][half], 1);
        sum[i][half] += __shfl_xor_sync(kAllLanes, sum[i][half], 2);
      }
    }
  }
};

// Two neighbouring dimensions of a row's result, or of its part of a split. `state` has the largest score times
// log2(e).
template <typename T>
__device__ __forceinline__ void StorePair(const AttentionParameters<T>& p, const RowView& rows, int row, int split,
                                          const RowState& state, int d, float left, float right) {
  const int head = rows.HeadOf(row);
  const RowState natural = {state.max * kLn2, state.sum};
  if (p.partials == nullptr) {
    const float factor = FinalFactor(natural, p.sinks, head);
    float* out = p.out + (rows.tile.first_token + rows.TokenOf(row)) * p.out_stride + head * p.v_head_dim + d;
    out[0] = left * factor;
    out[1] = right * factor;
    return;
  }
  float* partial = p.Partial(rows.tile.sequence, head, split);
  if (d == 0) {
    partial[0] = natural.max;
    partial[1] = natural.sum;
  }
  partial[kPartialHeader + d] = left;
  partial[kPartialHeader + d + 1] = right;
}

// Which dimension the first of a lane's pair in value tile n is. Of integers a lane has four neighbours in two tiles
// (SortIntegerValues).
template <typename T>
__device__ __forceinline__ int DimensionOf(int n) {
  const int member = static_cast<int>(threadIdx.x) % 4;
  return std::is_same_v<T, int8_t> ? n / 2 * 16 + member * 4 + n % 2 * 2 : n * 8 + member * 2;
}

// All that a warp's rows have in `sums`, from dimension first_dimension on.
template <typename T, int kRowTiles, int kValueTiles>
__device__ __forceinline__ void StoreRows(const AttentionParameters<T>& p, const RowView& rows, int first_row,
                                          int first_dimension, int split, const RowSums<kRowTiles, kValueTiles>& sums) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = first_row + i * 16 + half * 8 + lane / 4;
      if (row >= rows.tile.num_rows) continue;
      const RowState state = {sums.max[i][half], sums.sum[i][half]};
#pragma unroll
      for (int n = 0; n < kValueTiles; ++n) {
        StorePair(p, rows, row, split, state, first_dimension + DimensionOf<T>(n), sums.values[i][n][half * 2],
                  sums.values[i][n][half * 2 + 1]);
      }
    }
  }
}

// A head's result, four of its dimensions from d on, from the parts [first, end) that lie at `partials`, added in their
// order. Every part holds positions that are seen. Loads of several parts are under way together.
__device__ __forceinline__ float4 CombineParts(const float* partials, int first, int end, int v_head_dim, int d,
                                               RowState* state) {
  constexpr int kAtOnce = 8;
  const int64_t stride = kPartialHeader + v_head_dim;
  float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  *state = {-INFINITY, 0.0f};
  for (int begin = first; begin < end; begin += kAtOnce) {
    float2 parts[kAtOnce];
    float4 values[kAtOnce];
    float largest = state->max;
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const float* partial = partials + min(begin + i, end - 1) * stride;
      parts[i] = *reinterpret_cast<const float2*>(partial);
      values[i] = *reinterpret_cast<const float4*>(partial + kPartialHeader + d);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) largest = fmaxf(largest, parts[i].x);
    const float old = expf(state->max - largest);
    state->sum *= old;
    sum = make_float4(sum.x * old, sum.y * old, sum.z * old, sum.w * old);
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const float factor = begin + i < end ? expf(parts[i].x - largest) : 0.0f;
      state->sum = fmaf(parts[i].y, factor, state->sum);
      sum.x = fmaf(values[i].x, factor, sum.x);
      sum.y = fmaf(values[i].y, factor, sum.y);
      sum.z = fmaf(values[i].z, factor, sum.z);
      sum.w = fmaf(values[i].w, factor, sum.w);
    }
    state->max = largest;
  }
  return sum;
}

constexpr int kCombineThreads = 128;

// Grid: sequences, as many heads as a block has threads for. Of sequences with one token: adds the parts of their
// positions.
template <typename T>
__global__ void __launch_bounds__(kCombineThreads) FlashCombineKernel(AttentionParameters<T> p) {
  ptx::AwaitEarlierGrids();
  const int threads_of_head = p.v_head_dim / 4;
  const int sequence = static_cast<int>(blockIdx.x);
  const int thread = static_cast<int>(threadIdx.x);
  const int head = static_cast<int>(blockIdx.y) * (kCombineThreads / threads_of_head) + thread / threads_of_head;
  const int d = thread % threads_of_head * 4;
  const int token = p.query_starts[sequence];
  if (p.query_starts[sequence + 1] != token + 1 || head >= p.num_heads) return;
  const int end = p.context_lens[sequence];
  const int begin = p.window == 0 ? 0 : max(0, end - p.window);
  RowState state;
  const float4 sum = CombineParts(p.Partial(sequence, head, 0), begin / p.split_positions,
                                  CeilDiv(end, p.split_positions), p.v_head_dim, d, &state);
  const float factor = FinalFactor(state, p.sinks, head);
  float* out = p.out + token * p.out_stride + head * p.v_head_dim + d;
  out[0] = sum.x * factor;
  out[1] = sum.y * factor;
  out[2] = sum.z * factor;
  out[3] = sum.w * factor;
}

}  // namespace moed::kernels::flash

#endif  // KERNELS_PAGED_ATTENTION_FLASH_TILE_CUDA_H_
