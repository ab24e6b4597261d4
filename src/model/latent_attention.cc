#include "model/latent_attention.h"

#include "kernels/gemm/gemm.h"
#include "kernels/kv_write/kv_write.h"
#include "kernels/rms_norm/rms_norm.h"
#include "kernels/rope/rope.h"

namespace moed {
namespace {

void NormInPlace(const ExecContext& ctx, const TensorView& x, const TensorView& weight, float eps) {
  kernels::RmsNorm(ctx, {.x = x, .weight = weight, .residual = {}, .eps = eps, .out = x});
}

// f32 [num_tokens, num_heads, k_head_dim], not rotated yet: a part of `projected`, or a product of the latent there.
TensorView Queries(const ExecContext& ctx, const AttentionConfig& config, const LatentAttentionWeights& weights,
                   const TensorView& projected) {
  const int64_t columns = int64_t{config.num_heads} * config.k_head_dim;
  TensorView q;
  if (config.latent.q_lora_rank == 0) {
    q = projected.Columns(0, columns);
  } else {
    const TensorView q_latent = projected.Columns(0, config.latent.q_lora_rank);
    NormInPlace(ctx, q_latent, weights.q_norm, config.latent.norm_eps);
    q = ctx.workspace->Tensor({projected.dim(0), columns});
    kernels::Gemm(ctx, {.x = q_latent, .weight = weights.q_b, .bias = {}, .accumulate = false, .out = q});
  }
  return q.SplitLast(config.num_heads, config.k_head_dim);
}

}  // namespace

void LatentAttention(const ExecContext& ctx, const AttentionConfig& config, bool interleaved,
                     const LatentAttentionWeights& weights, const LatentAttentionStep& step) {
  const Workspace::Scope scope(ctx.workspace);
  const LatentAttentionConfig& latent = config.latent;
  const int64_t tokens = step.projected.dim(0), heads = config.num_heads;
  const int64_t rank = latent.kv_lora_rank, nope = latent.nope_head_dim, cached = latent.cached_dim();

  const TensorView key =
      step.projected.Columns(step.projected.dim(1) - cached, step.projected.dim(1)).SplitLast(1, cached);
  NormInPlace(ctx, key.Columns(0, rank), weights.kv_norm, latent.norm_eps);
  const TensorView q = Queries(ctx, config, weights, step.projected);

  // The queries as the cached keys are: against the latent, then the rotary part.
  const TensorView absorbed = ctx.workspace->Tensor({tokens, heads, cached});
  kernels::BatchedGemm(ctx,
                       {.x = q.Columns(0, nope), .weights = weights.k_up.data(), .out = absorbed.Columns(0, rank)});
  kernels::Rope(ctx, {.q = q.Columns(nope, q.dim(2)),
                      .k = key.Columns(rank, cached),
                      .positions = step.positions,
                      .cos_sin = step.cos_sin,
                      .interleaved = interleaved,
                      .q_out = absorbed.Columns(rank, cached)});
  kernels::KvWrite(ctx, {.k = key,
                         .v = {},
                         .slots = step.slots,
                         .k_pages = step.attention.k_pages,
                         .v_pages = {},
                         .k_scales = step.attention.k_scales,
                         .key_layout = step.attention.key_layout});

  const TensorView values = ctx.workspace->Tensor({tokens, heads * rank});
  kernels::PagedAttentionArgs attention = step.attention;
  attention.q = absorbed;
  attention.out = values;
  kernels::PagedAttention(ctx, attention);
  kernels::BatchedGemm(ctx, {.x = values.SplitLast(heads, rank),
                             .weights = weights.v_up.data(),
                             .out = step.attended.SplitLast(heads, config.v_head_dim)});
}

}  // namespace moed
