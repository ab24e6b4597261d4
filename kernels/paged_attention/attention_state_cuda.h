// What the bodies of attention on the GPU share: their parameters, the state of a softmax that goes on over several
// parts of the positions, and the sum of such parts.
#ifndef KERNELS_PAGED_ATTENTION_ATTENTION_STATE_CUDA_H_
#define KERNELS_PAGED_ATTENTION_ATTENTION_STATE_CUDA_H_

#include "kernels/common/cuda.h"
#include "tensor/exec_context.h"

namespace moed::kernels {

// Floats before a partial result's values, so that these may be read in fours.
constexpr int kPartialHeader = 4;

template <typename T>
struct AttentionParameters {
  const float* q;  // [num_tokens, num_heads, k_head_dim], the first two dimensions strided
  int64_t q_token_stride, q_head_stride;
  bool q_in_fours;   // rows start at multiples of 16 bytes
  const T* k_pages;  // [num_blocks, num_kv_heads, block_size, k_head_dim]
  const T* v_pages;
  int64_t v_row_stride;   // at least v_head_dim
  int64_t num_page_rows;  // num_blocks * num_kv_heads * block_size
  // [num_blocks, num_kv_heads, block_size]: what a row of integers is multiplied by.
  const float *k_scales, *v_scales;
  const int32_t *query_starts, *context_lens, *block_starts, *block_ids;
  int num_sequences, num_heads, num_kv_heads, k_head_dim, v_head_dim, block_size, window;
  float scale;
  const float* sinks;
  float* out;
  int64_t out_stride;
  // Positions are cut into num_splits parts of split_positions each, for blocks of their own.
  int split_positions, num_splits;
  // Whether a kernel for prompts takes sequences of one token too.
  bool takes_all;
  // [tokens or sequences, num_heads, num_splits, kPartialHeader + v_head_dim]: largest score, sum, nothing, and
  // weighted values. Null: one part.
  float* partials;

  // Where in the pages the row of a position lies, in rows.
  __device__ __forceinline__ int64_t RowOf(const int32_t* sequence_blocks, int kv_head, int position) const {
    const int64_t block = sequence_blocks[position / block_size];
    return (block * num_kv_heads + kv_head) * block_size + position % block_size;
  }
  __device__ __forceinline__ float* Partial(int64_t index, int head, int split) const {
    return partials + ((index * num_heads + head) * num_splits + split) * (kPartialHeader + v_head_dim);
  }
};

// Memory of the workspace for the partial results of `count` tokens or sequences.
template <typename T>
float* AllocatePartials(const ExecContext& ctx, const AttentionParameters<T>& p, int64_t count) {
  const int64_t floats = count * p.num_heads * p.num_splits * (kPartialHeader + p.v_head_dim);
  return static_cast<float*>(ctx.workspace->Allocate(static_cast<size_t>(floats) * sizeof(float)));
}

// Softmax state of a row: the largest score so far, the sum of weights relative to it.
struct RowState {
  float max, sum;
};

// The factors by which the old and the new weighted values count after `part` joined `state`.
struct MergeFactors {
  float old_values, new_values;
};

__device__ __forceinline__ MergeFactors FactorsOf(const RowState& state, const RowState& part) {
  const float new_max = fmaxf(state.max, part.max);
  return {state.max == -INFINITY ? 0.0f : expf(state.max - new_max), expf(part.max - new_max)};
}

__device__ __forceinline__ RowState Merged(const RowState& state, const RowState& part) {
  const MergeFactors factors = FactorsOf(state, part);
  return {fmaxf(state.max, part.max), fmaf(part.sum, factors.new_values, state.sum * factors.old_values)};
}

// Multiplies the weighted values to give the result; the sink, if there is one, takes its part of the softmax.
__device__ __forceinline__ float FinalFactor(const RowState& state, const float* sinks, int head) {
  if (sinks == nullptr) return 1.0f / state.sum;
  const RowState with_sink = Merged(state, {sinks[head], 1.0f});
  return expf(state.max - with_sink.max) / with_sink.sum;
}

}  // namespace moed::kernels

#endif  // KERNELS_PAGED_ATTENTION_ATTENTION_STATE_CUDA_H_
