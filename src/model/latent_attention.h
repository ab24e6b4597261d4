// Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1) over a paged cache of latents.
//
// A head's key is W_UK c beside the shared rotary key r, its value W_UV c, where c is the position's latent. Written
// out for each position (the expanded form) a score costs nope + rope multiplications and its value v_head_dim. But
//   q_nope · (W_UK c) = (W_UK^T q_nope) · c   and   sum of weight * (W_UV c) = W_UV (sum of weight * c),
// so that attention can run on the latents themselves (the absorbed form): all heads are queries of one KV head whose
// key is [c, r] and whose value is the key's beginning, and a position is read once for all of them.
//
// Every token goes through the absorbed form, whether it is decoded or part of a prompt. The two forms round
// differently, and what decides for the expanded one - how many queries a step has for one context - is company: it
// would make a token's numbers, and with them the latents of its later layers that other requests find in the prefix
// cache, depend on chunks, batches and preemption. (With 128 + 64 dimensions a head over latents of 512, the expanded
// form needs fewer multiplications from about 170 queries a step on, and at best 3.4 times fewer in attention alone.)
#ifndef MOED_MODEL_LATENT_ATTENTION_H_
#define MOED_MODEL_LATENT_ATTENTION_H_

#include <vector>

#include "kernels/gemm/packed_weight.h"
#include "kernels/paged_attention/paged_attention.h"
#include "kv_cache/paged_kv_cache.h"
#include "model/model_config.h"
#include "tensor/exec_context.h"

namespace moed {

// Beside LayerWeights::qkv, which gives for each token [queries or their latent | latent | rotary key].
struct LatentAttentionWeights {
  TensorView q_norm;                        // f32 [q_lora_rank], or empty
  kernels::PackedWeight q_b;                // [num_heads * k_head_dim, q_lora_rank], or empty
  TensorView kv_norm;                       // f32 [kv_lora_rank]
  std::vector<kernels::PackedWeight> k_up;  // [num_heads] of [kv_lora_rank, nope_head_dim]: W_UK transposed
  std::vector<kernels::PackedWeight> v_up;  // [num_heads] of [v_head_dim, kv_lora_rank]: W_UV
};

struct LatentAttentionStep {
  TensorView projected;  // f32 [num_tokens, …], what LayerWeights::qkv gives; normalised and rotated in place
  TensorView positions;  // i32 [num_tokens]
  TensorView cos_sin;    // of RopeTable
  TensorView slots;      // i64 [num_tokens]
  // The batch and the layer's pages; q and out are filled in here.
  kernels::PagedAttentionArgs attention;
  TensorView attended;  // f32 [num_tokens, num_heads * v_head_dim]
};

// Writes the step's latents into the pages and attends.
void LatentAttention(const ExecContext& ctx, const AttentionConfig& config, bool interleaved,
                     const LatentAttentionWeights& weights, const LatentAttentionStep& step);

}  // namespace moed

#endif  // MOED_MODEL_LATENT_ATTENTION_H_
