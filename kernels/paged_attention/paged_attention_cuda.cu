// Two bodies. Pages of bf16, f16 and integers with heads of common sizes go to the tensor cores (flash_launch_cuda.h).
// The one in this file takes the rest: a block works on one token and up to kMaxGroup query heads of one KV head, split
// after split of the positions. Few tokens over long contexts get a block a split, and a second kernel adds the partial
// results; the arithmetic is the same either way, so that results do not depend on the batch. Of the tensor cores' they
// do, by whether a sequence has one token in the step or more, unless ExecContext::batch_invariant is set.
#include <algorithm>
#include <type_traits>

#include "kernels/paged_attention/attention_state_cuda.h"
#include "kernels/paged_attention/flash_launch_cuda.h"
#include "kernels/paged_attention/paged_attention.h"

namespace moed::kernels {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
// Told to the compiler, which otherwise spills registers to fit still more blocks onto a multiprocessor.
constexpr int kMinBlocks = 4;
constexpr int kMaxGroup = 8;
constexpr int kSplitPositions = 256;
// From so many blocks on, cutting the positions too would only cost memory traffic.
constexpr int64_t kEnoughBlocks = 512;

// What one token sees.
struct TokenView {
  int sequence;
  int first, end;  // positions
};

// False for rows of padding, which belong to no sequence.
template <typename T>
__device__ __forceinline__ bool FindToken(const AttentionParameters<T>& p, int token, TokenView* view) {
  if (token < p.query_starts[0] || token >= p.query_starts[p.num_sequences]) return false;
  int low = 0;
  int high = p.num_sequences;  // query_starts[low] <= token < query_starts[high]
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (p.query_starts[middle] <= token) {
      low = middle;
    } else {
      high = middle;
    }
  }
  view->sequence = low;
  view->end = p.context_lens[low] - (p.query_starts[low + 1] - 1 - token);
  view->first = p.window == 0 ? 0 : max(0, view->end - p.window);
  return true;
}

// The block's shared memory. Dynamic, since head sizes are known at launch only.
template <int kGroup>
struct SharedLayout {
  int64_t* rows;    // [kSplitPositions]: where in the pages a position's row lies
  float* q;         // [kGroup, k_head_dim]
  float* weights;   // [kGroup, kSplitPositions]: scores, then weights
  float* values;    // [kGroup, v_head_dim]: weighted values so far
  RowState* state;  // [kGroup]
  RowState* part;   // [kGroup]: of the split under way

  static size_t Bytes(int k_head_dim, int v_head_dim) {
    return kSplitPositions * sizeof(int64_t) +
           kGroup * (static_cast<size_t>(k_head_dim) + kSplitPositions + static_cast<size_t>(v_head_dim)) *
               sizeof(float) +
           2 * kGroup * sizeof(RowState);
  }
  __device__ SharedLayout(int64_t* memory, int k_head_dim, int v_head_dim) {
    rows = memory;
    q = reinterpret_cast<float*>(rows + kSplitPositions);
    weights = q + kGroup * k_head_dim;
    values = weights + kGroup * kSplitPositions;
    state = reinterpret_cast<RowState*>(values + kGroup * v_head_dim);
    part = state + kGroup;
  }
};

// What becomes of a value, or a sum of values, of row `row` of the pages.
template <typename T>
__device__ __forceinline__ float Scaled(float value, const float* scales, int64_t row) {
  if constexpr (std::is_same_v<T, int8_t>) return value * scales[row];
  return value;
}

// weights[g][i] = the score of position begin + i for head g; a warp takes every kWarps-th position.
template <int kGroup, typename T>
__device__ __forceinline__ void ComputeScores(const AttentionParameters<T>& p, const SharedLayout<kGroup>& shared,
                                              int count) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int i = static_cast<int>(threadIdx.x) / 32; i < count; i += kWarps) {
    const T* key = p.k_pages + shared.rows[i] * p.k_head_dim;
    float dots[kGroup] = {};
    for (int d = lane; d < p.k_head_dim; d += 32) {
      const float k = LoadFloat(key + d);
#pragma unroll
      for (int g = 0; g < kGroup; ++g) dots[g] = fmaf(shared.q[g * p.k_head_dim + d], k, dots[g]);
    }
#pragma unroll
    for (int g = 0; g < kGroup; ++g) {
      const float score = Scaled<T>(WarpSum(dots[g]), p.k_scales, shared.rows[i]);
      if (lane == g) shared.weights[g * kSplitPositions + i] = score;
    }
  }
}

// Scores to weights relative to their maximum, which goes to shared.part; a warp takes every kWarps-th head.
template <int kGroup>
__device__ __forceinline__ void ComputeWeights(const SharedLayout<kGroup>& shared, int count) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int g = static_cast<int>(threadIdx.x) / 32; g < kGroup; g += kWarps) {
    float* weights = shared.weights + g * kSplitPositions;
    float largest = -INFINITY;
    for (int i = lane; i < count; i += 32) largest = fmaxf(largest, weights[i]);
    largest = WarpMax(largest);
    float sum = 0.0f;
    for (int i = lane; i < count; i += 32) {
      weights[i] = expf(weights[i] - largest);
      sum += weights[i];
    }
    sum = WarpSum(sum);
    if (lane == 0) shared.part[g] = {largest, sum};
  }
}

// Adds the split's weighted values to what has been summed up; a thread takes every kThreads-th dimension.
template <int kGroup, typename T>
__device__ __forceinline__ void AddValues(const AttentionParameters<T>& p, const SharedLayout<kGroup>& shared,
                                          int count) {
  for (int d = static_cast<int>(threadIdx.x); d < p.v_head_dim; d += kThreads) {
    float sums[kGroup] = {};
    for (int i = 0; i < count; ++i) {
      const float v = Scaled<T>(LoadFloat(p.v_pages + shared.rows[i] * p.v_row_stride + d), p.v_scales, shared.rows[i]);
#pragma unroll
      for (int g = 0; g < kGroup; ++g) sums[g] = fmaf(shared.weights[g * kSplitPositions + i], v, sums[g]);
    }
#pragma unroll
    for (int g = 0; g < kGroup; ++g) {
      const MergeFactors factors = FactorsOf(shared.state[g], shared.part[g]);
      float* value = shared.values + g * p.v_head_dim + d;
      *value = fmaf(sums[g], factors.new_values, *value * factors.old_values);
    }
  }
}

template <int kGroup, typename T>
__device__ __forceinline__ void AttendSplit(const AttentionParameters<T>& p, const SharedLayout<kGroup>& shared,
                                            const TokenView& view, int kv_head, int begin, int count) {
  const int thread = static_cast<int>(threadIdx.x);
  const int32_t* block_ids = p.block_ids + p.block_starts[view.sequence];
  for (int i = thread; i < count; i += kThreads) {
    shared.rows[i] = p.RowOf(block_ids, kv_head, begin + i);
  }
  __syncthreads();
  ComputeScores<kGroup>(p, shared, count);
  __syncthreads();
  ComputeWeights<kGroup>(shared, count);
  __syncthreads();
  AddValues<kGroup>(p, shared, count);
  __syncthreads();
  if (thread < kGroup) shared.state[thread] = Merged(shared.state[thread], shared.part[thread]);
  __syncthreads();
}

// Grid: token, (KV head, kGroup of its query heads), parts of the positions.
template <typename T, int kGroup>
__global__ void __launch_bounds__(kThreads, kMinBlocks) AttendKernel(AttentionParameters<T> p) {
  MOED_DYNAMIC_SHARED(int64_t, memory);
  const SharedLayout<kGroup> shared(memory, p.k_head_dim, p.v_head_dim);
  const int thread = static_cast<int>(threadIdx.x);
  const int token = static_cast<int>(blockIdx.x);
  const int group = p.num_heads / p.num_kv_heads;
  const int chunks = (group + kGroup - 1) / kGroup;
  const int kv_head = static_cast<int>(blockIdx.y) / chunks;
  const int first_in_group = static_cast<int>(blockIdx.y) % chunks * kGroup;
  const int first_head = kv_head * group + first_in_group;
  const int num_heads = min(kGroup, group - first_in_group);
  TokenView view;
  if (!FindToken(p, token, &view)) return;

  // Heads that the last chunk lacks are computed from zeros and thrown away.
  for (int i = thread; i < kGroup * p.k_head_dim; i += kThreads) {
    const int g = i / p.k_head_dim;
    const float* head = p.q + token * p.q_token_stride + (first_head + g) * p.q_head_stride;
    shared.q[i] = g < num_heads ? head[i % p.k_head_dim] * p.scale : 0.0f;
  }
  for (int i = thread; i < kGroup * p.v_head_dim; i += kThreads) shared.values[i] = 0.0f;
  if (thread < kGroup) shared.state[thread] = {-INFINITY, 0.0f};
  __syncthreads();

  const int splits_a_block = p.split_positions / kSplitPositions;
  const int first_split = static_cast<int>(blockIdx.z) * splits_a_block;
  for (int split = first_split; split < first_split + splits_a_block; ++split) {
    const int begin = max(split * kSplitPositions, view.first);
    const int end = min((split + 1) * kSplitPositions, view.end);
    if (begin < end) AttendSplit<kGroup>(p, shared, view, kv_head, begin, end - begin);
  }

  for (int i = thread; i < num_heads * p.v_head_dim; i += kThreads) {
    const int g = i / p.v_head_dim;
    const int d = i % p.v_head_dim;
    const int head = first_head + g;
    if (p.partials == nullptr) {
      p.out[token * p.out_stride + head * p.v_head_dim + d] =
          shared.values[i] * FinalFactor(shared.state[g], p.sinks, head);
      continue;
    }
    float* partial = p.Partial(token, head, static_cast<int>(blockIdx.z));
    if (d == 0) {
      partial[0] = shared.state[g].max;
      partial[1] = shared.state[g].sum;
    }
    partial[kPartialHeader + d] = shared.values[i];
  }
}

// Grid: token, head. Adds the partial results in the order of the splits.
template <typename T>
__global__ void __launch_bounds__(kThreads) CombineKernel(AttentionParameters<T> p) {
  const int token = static_cast<int>(blockIdx.x);
  const int head = static_cast<int>(blockIdx.y);
  TokenView view;
  if (!FindToken(p, token, &view)) return;
  const float* partials = p.Partial(token, head, 0);
  for (int d = static_cast<int>(threadIdx.x); d < p.v_head_dim; d += kThreads) {
    RowState state = {-INFINITY, 0.0f};
    float value = 0.0f;
    for (int z = 0; z < p.num_splits; ++z) {
      const float* partial = partials + static_cast<int64_t>(z) * (kPartialHeader + p.v_head_dim);
      const RowState part = {partial[0], partial[1]};
      if (part.max == -INFINITY) continue;  // nothing of that split is seen
      const MergeFactors factors = FactorsOf(state, part);
      value = fmaf(partial[kPartialHeader + d], factors.new_values, value * factors.old_values);
      state = Merged(state, part);
    }
    p.out[token * p.out_stride + head * p.v_head_dim + d] = value * FinalFactor(state, p.sinks, head);
  }
}

template <typename T, int kGroup>
void LaunchAttend(const ExecContext& ctx, const AttentionParameters<T>& p, unsigned num_tokens) {
  const int group = p.num_heads / p.num_kv_heads;
  const dim3 grid(num_tokens, static_cast<unsigned>(p.num_kv_heads * ((group + kGroup - 1) / kGroup)),
                  static_cast<unsigned>(p.num_splits));
  const size_t shared_bytes = SharedLayout<kGroup>::Bytes(p.k_head_dim, p.v_head_dim);
  MOED_LAUNCH((AttendKernel<T, kGroup>), grid, kThreads, shared_bytes, ctx.stream, p);
}

template <typename T>
AttentionParameters<T> ParametersOf(const PagedAttentionArgs& args) {
  AttentionParameters<T> p = {};
  p.q = args.q.As<float>();
  p.q_token_stride = args.q.stride(0);
  p.q_head_stride = args.q.stride(1);
  p.q_in_fours = InFours(p.q, p.q_token_stride, p.q_head_stride);
  p.k_pages = args.k_pages.As<T>();
  p.v_pages = args.v_pages.As<T>();
  p.v_row_stride = args.v_pages.stride(2);
  p.num_page_rows = args.k_pages.dim(0) * args.k_pages.dim(1) * args.k_pages.dim(2);
  p.k_scales = args.k_scales.As<float>();
  p.v_scales = args.v_scales.As<float>();
  p.query_starts = args.query_starts.As<int32_t>();
  p.context_lens = args.context_lens.As<int32_t>();
  p.block_starts = args.block_starts.As<int32_t>();
  p.block_ids = args.block_ids.As<int32_t>();
  p.num_sequences = static_cast<int>(args.context_lens.dim(0));
  p.num_heads = static_cast<int>(args.q.dim(1));
  p.num_kv_heads = static_cast<int>(args.k_pages.dim(1));
  p.k_head_dim = static_cast<int>(args.k_pages.dim(3));
  p.v_head_dim = static_cast<int>(args.v_pages.dim(3));
  p.block_size = static_cast<int>(args.k_pages.dim(2));
  p.window = args.window;
  p.scale = args.scale;
  p.sinks = args.sinks.As<float>();
  p.out = args.out.As<float>();
  p.out_stride = args.out.stride(0);
  return p;
}

template <typename T>
void Attend(const ExecContext& ctx, const PagedAttentionArgs& args) {
  const int64_t num_tokens = args.q.dim(0);
  if (num_tokens == 0 || args.context_lens.dim(0) == 0) return;
  AttentionParameters<T> p = ParametersOf<T>(args);
  const int group = p.num_heads / p.num_kv_heads;
  const int64_t max_context = args.max_context > 0 ? args.max_context : args.block_ids.dim(0) * p.block_size;
  const Workspace::Scope scope(ctx.workspace);
  if constexpr (!std::is_same_v<T, float>) {
    if (flash::Attend(flash::Step<T>{ctx, p, num_tokens, max_context})) return;
  }
  const auto num_splits = static_cast<int>((max_context + kSplitPositions - 1) / kSplitPositions);
  const int64_t blocks = num_tokens * p.num_kv_heads * ((group + kMaxGroup - 1) / kMaxGroup);
  const bool one_block = num_splits <= 1 || blocks >= kEnoughBlocks;
  p.split_positions = (one_block ? num_splits : 1) * kSplitPositions;
  p.num_splits = one_block ? 1 : num_splits;
  if (!one_block) p.partials = AllocatePartials(ctx, p, num_tokens);
  if (group == 1) {
    LaunchAttend<T, 1>(ctx, p, static_cast<unsigned>(num_tokens));
  } else if (group <= 4) {
    LaunchAttend<T, 4>(ctx, p, static_cast<unsigned>(num_tokens));
  } else {
    LaunchAttend<T, kMaxGroup>(ctx, p, static_cast<unsigned>(num_tokens));
  }
  if (!one_block) {
    MOED_LAUNCH(CombineKernel<T>, dim3(static_cast<unsigned>(num_tokens), static_cast<unsigned>(p.num_heads)), kThreads,
                0, ctx.stream, p);
  }
}

}  // namespace

namespace cuda {

void PagedAttention(const ExecContext& ctx, const PagedAttentionArgs& args) {
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
}

}  // namespace cuda
}  // namespace moed::kernels
