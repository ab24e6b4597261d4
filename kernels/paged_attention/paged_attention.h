// Causal attention of a ragged batch, prefill chunks and decodes together, over keys and values read from pages
// (Kwon et al. 2023, arXiv:2309.06180), with the online softmax of FlashAttention (Dao et al. 2022, arXiv:2205.14135).
#ifndef KERNELS_PAGED_ATTENTION_PAGED_ATTENTION_H_
#define KERNELS_PAGED_ATTENTION_PAGED_ATTENTION_H_

#include "kernels/common/key_layout.h"
#include "kernels/common/op.h"

namespace moed::kernels {

// Results do not depend on how a sequence is cut into chunks nor on who else is in the batch: keys are visited in tiles
// that start at fixed positions, and partial results are combined in that order. The GPU's bodies on tensor cores
// (pages of bf16, f16 and integers with heads of 64 and 128; MLA's latent in bf16 and f16) are exceptions: a chunk of
// one token is computed in another way than a longer one, and in parts whose size depends on the batch, so that results
// may differ in the low bits, unless ExecContext::batch_invariant is set. CPUs with 8-bit dot products multiply pages
// of i8 whose keys lie in words (and v_head_dim is a multiple of 4) as integers, queries and weights being made 16 bits
// wide.
struct PagedAttentionArgs {
  TensorView q;  // f32 [num_tokens, num_heads, k_head_dim], rows may be strided
  // f32, bf16, f16 or i8 [num_blocks, num_kv_heads, block_size, k_head_dim]; the step's own keys are written already.
  TensorView k_pages;
  KeyLayout key_layout = KeyLayout::kRows;  // of k_pages
  // The same dtype [num_blocks, num_kv_heads, block_size, v_head_dim]; rows of all heads and blocks at equal distances.
  // Where values are a part of their keys (the latent of MLA), a view of some columns of k_pages.
  TensorView v_pages;
  // f32 [num_blocks, num_kv_heads, block_size], for pages of i8 alone: what a row's integers are multiplied by; values'
  // are not negative (those of kv_write never are). Where values are a part of their keys, one and the same.
  TensorView k_scales = {}, v_scales = {};
  TensorView query_starts;  // i32 [num_sequences + 1]: sequence s owns tokens [query_starts[s], query_starts[s + 1])
  // i32 [num_sequences]: positions in the cache that belong to the sequence, its tokens of this step included. Its last
  // token sees all of them, the one before all but one, and so on.
  TensorView context_lens;
  // The blocks of sequence s, in order: block_ids[block_starts[s] + i].
  TensorView block_starts;  // i32 [num_sequences + 1]
  TensorView block_ids;     // i32 [block_starts[num_sequences]]
  // At least the largest of context_lens, by which a device sizes its grid without looking at them; 0: what block_ids
  // can hold.
  int64_t max_context = 0;
  float scale = 1.0f;  // of the scores, usually 1 / sqrt(k_head_dim)
  // A token sees the last `window` positions, itself included; 0: all. Blocks that lie before the window of each of a
  // sequence's tokens may have been given back: their ids are not looked at.
  int window = 0;
  // Optional f32 [num_heads]: a logit that takes part in the softmax without a value (GPT-OSS).
  TensorView sinks = {};
  TensorView out;  // f32 [num_tokens, num_heads * v_head_dim]
};

absl::Status Check(const PagedAttentionArgs& args);

namespace reference {
void PagedAttention(const PagedAttentionArgs& args);
}
namespace cpu {
void PagedAttention(const ExecContext& ctx, const PagedAttentionArgs& args);
}
namespace cuda {
void PagedAttention(const ExecContext& ctx, const PagedAttentionArgs& args);
}
MOED_DEFINE_OP_DISPATCH(PagedAttention)

}  // namespace moed::kernels

#endif  // KERNELS_PAGED_ATTENTION_PAGED_ATTENTION_H_
