#include "model/decoder.h"

#include <algorithm>
#include <utility>

#include "kernels/embedding/embedding.h"
#include "kernels/gemm/gemm.h"
#include "kernels/kv_write/kv_write.h"
#include "kernels/moe_ffn/moe_ffn.h"
#include "kernels/moe_gating/moe_gating.h"
#include "kernels/paged_attention/paged_attention.h"
#include "kernels/rms_norm/rms_norm.h"
#include "kernels/rope/rope.h"

namespace moed {

// The rows that flow through the layers. `branch` holds what the last block gave and the next norm adds to `residual`;
// it is empty before the first layer.
struct TransformerDecoder::Activations {
  TensorView residual;  // [num_tokens, hidden]
  TensorView branch;    // [num_tokens, hidden]
  TensorView normed;    // [num_tokens, hidden]
  TensorView qkv;       // [num_tokens, q + k + v]
  TensorView attended;  // [num_tokens, num_heads * v_head_dim]
  TensorView router;    // [num_tokens, num_experts]
  // Of MoeGating; in a dense layer every token chooses expert 0 with weight 1.
  TensorView expert_ids, expert_weights, sorted_pairs, expert_offsets;
  TensorView dense_weights, dense_pairs, dense_offsets;
  bool has_branch = false;

  // normed = norm(residual + branch), the sum kept in `residual`.
  void Norm(const ExecContext& ctx, const TensorView& weight, float eps) {
    kernels::RmsNormArgs args{.x = residual, .weight = weight, .residual = {}, .eps = eps, .out = normed};
    if (has_branch) {
      args.x = branch;
      args.residual = residual;
    }
    kernels::RmsNorm(ctx, args);
    has_branch = true;  // whatever follows a norm fills the branch
  }
};

absl::StatusOr<TransformerDecoder> TransformerDecoder::Create(ModelConfig config, ModelWeights weights,
                                                              int32_t max_context, Device device) {
  MOED_ASSIGN_OR_RETURN(RopeTable rope, RopeTable::Create(config.rope, max_context, device));
  return TransformerDecoder(std::move(config), std::move(weights), std::move(rope));
}

DecoderOutput TransformerDecoder::Forward(const ExecContext& ctx, const DecoderBatch& batch,
                                          PagedKvCache* cache) const {
  const AttentionConfig& attention = config_.attention;
  const int64_t tokens = batch.token_ids.dim(0);
  const int64_t hidden = config_.hidden_size;
  Workspace& workspace = *ctx.workspace;

  Activations act;
  act.residual = workspace.Tensor({tokens, hidden});
  act.branch = workspace.Tensor({tokens, hidden});
  act.normed = workspace.Tensor({tokens, hidden});
  act.qkv = workspace.Tensor({tokens, weights_.layer(0).qkv.weight.n});
  act.attended = workspace.Tensor({tokens, int64_t{attention.num_heads} * attention.v_head_dim});
  if (config_.num_moe_layers() > 0) {
    const int64_t experts = config_.moe.num_experts, top_k = config_.moe.top_k;
    act.router = workspace.Tensor({tokens, experts});
    act.expert_ids = workspace.Tensor({tokens, top_k}, DType::kI32);
    act.expert_weights = workspace.Tensor({tokens, top_k});
    act.sorted_pairs = workspace.Tensor({tokens * top_k}, DType::kI32);
    act.expert_offsets = workspace.Tensor({experts + 1}, DType::kI32);
  }
  if (config_.num_moe_layers() < config_.num_layers()) {
    act.dense_weights = workspace.Tensor({tokens, 1});
    act.dense_pairs = workspace.Tensor({tokens}, DType::kI32);
    act.dense_offsets = workspace.Tensor({2}, DType::kI32);
    std::fill_n(act.dense_weights.As<float>(), tokens, 1.0f);
    for (int64_t t = 0; t < tokens; ++t) act.dense_pairs.As<int32_t>()[t] = static_cast<int32_t>(t);
    act.dense_offsets.As<int32_t>()[0] = 0;
    act.dense_offsets.As<int32_t>()[1] = static_cast<int32_t>(tokens);
  }

  DecoderOutput out;
  kernels::Embedding(ctx, {.ids = batch.token_ids, .table = weights_.embedding(), .out = act.residual});
  for (int32_t layer = 0; layer < config_.num_layers(); ++layer) {
    Attention(ctx, batch, cache->layer(layer), layer, &act);
    FeedForward(ctx, layer, &act, &out);
  }
  Logits(ctx, batch, &act, &out);
  return out;
}

void TransformerDecoder::Attention(const ExecContext& ctx, const DecoderBatch& batch, const LayerCache& cache,
                                   int32_t layer, Activations* act) const {
  const AttentionConfig& config = config_.attention;
  const LayerWeights& weights = weights_.layer(layer);
  const DecoderBatch::Group& group = batch.groups[cache.group];

  act->Norm(ctx, weights.attention_norm, config_.norm_eps);
  kernels::Gemm(ctx, {.x = act->normed, .weight = weights.qkv.weight, .bias = weights.qkv.bias, .out = act->qkv});

  const int64_t q_columns = int64_t{config.num_heads} * config.k_head_dim;
  const int64_t k_end = q_columns + int64_t{config.num_kv_heads} * config.k_head_dim;
  const TensorView q = act->qkv.Columns(0, q_columns).SplitLast(config.num_heads, config.k_head_dim);
  const TensorView k = act->qkv.Columns(q_columns, k_end).SplitLast(config.num_kv_heads, config.k_head_dim);
  const TensorView v = act->qkv.Columns(k_end, act->qkv.dim(1)).SplitLast(config.num_kv_heads, config.v_head_dim);
  if (config.qk_norm) {
    kernels::RmsNorm(ctx, {.x = q, .weight = weights.q_norm, .residual = {}, .eps = config_.norm_eps, .out = q});
    kernels::RmsNorm(ctx, {.x = k, .weight = weights.k_norm, .residual = {}, .eps = config_.norm_eps, .out = k});
  }
  kernels::Rope(ctx, {.q = q,
                      .k = k,
                      .positions = batch.positions,
                      .cos_sin = rope_.cos_sin(),
                      .interleaved = config_.rope.interleaved});
  kernels::KvWrite(ctx, {.k = k, .v = v, .slots = group.slots, .k_pages = cache.k_pages, .v_pages = cache.v_pages});
  kernels::PagedAttention(ctx, {.q = q,
                                .k_pages = cache.k_pages,
                                .v_pages = cache.v_pages,
                                .query_starts = batch.query_starts,
                                .context_lens = batch.context_lens,
                                .block_starts = group.block_starts,
                                .block_ids = group.block_ids,
                                .scale = config.scale,
                                .window = config_.layers[layer].window,
                                .sinks = {},
                                .out = act->attended});
  kernels::Gemm(ctx,
                {.x = act->attended, .weight = weights.output.weight, .bias = weights.output.bias, .out = act->branch});
}

void TransformerDecoder::FeedForward(const ExecContext& ctx, int32_t layer, Activations* act,
                                     DecoderOutput* out) const {
  const LayerWeights& weights = weights_.layer(layer);
  act->Norm(ctx, weights.ffn_norm, config_.norm_eps);

  kernels::MoeFfnArgs ffn{.x = act->normed,
                          .num_experts = 1,
                          .gate = weights.experts.gate.data(),
                          .up = weights.experts.up.data(),
                          .down = weights.experts.down.data(),
                          .activation = config_.activation,
                          .top_k = 1,
                          .weights = act->dense_weights,
                          .sorted_pairs = act->dense_pairs,
                          .expert_offsets = act->dense_offsets,
                          .out = act->branch};
  if (config_.layers[layer].is_moe) {
    const MoeConfig& moe = config_.moe;
    kernels::Gemm(ctx, {.x = act->normed, .weight = weights.router, .bias = {}, .out = act->router});
    kernels::MoeGating(ctx, {.logits = act->router,
                             .scoring = moe.scoring,
                             .top_k = moe.top_k,
                             .renormalize = moe.renormalize,
                             .correction_bias = {},
                             .expert_ids = act->expert_ids,
                             .weights = act->expert_weights,
                             .sorted_pairs = act->sorted_pairs,
                             .expert_offsets = act->expert_offsets});
    ffn.num_experts = moe.num_experts;
    ffn.top_k = moe.top_k;
    ffn.weights = act->expert_weights;
    ffn.sorted_pairs = act->sorted_pairs;
    ffn.expert_offsets = act->expert_offsets;

    const int32_t* offsets = act->expert_offsets.As<int32_t>();
    std::vector<int32_t>& loads = out->expert_loads.emplace_back(moe.num_experts);
    for (int32_t e = 0; e < moe.num_experts; ++e) loads[e] = offsets[e + 1] - offsets[e];
  }
  kernels::MoeFfn(ctx, ffn);
}

// Only the rows that are asked for go through the final norm and the LM head.
void TransformerDecoder::Logits(const ExecContext& ctx, const DecoderBatch& batch, Activations* act,
                                DecoderOutput* out) const {
  const int64_t rows = batch.logits_tokens.dim(0), hidden = config_.hidden_size;
  if (rows == 0) return;
  Activations last;
  last.residual = ctx.workspace->Tensor({rows, hidden});
  last.branch = ctx.workspace->Tensor({rows, hidden});
  last.normed = ctx.workspace->Tensor({rows, hidden});
  last.has_branch = true;
  kernels::Embedding(ctx, {.ids = batch.logits_tokens, .table = act->residual, .out = last.residual});
  kernels::Embedding(ctx, {.ids = batch.logits_tokens, .table = act->branch, .out = last.branch});
  last.Norm(ctx, weights_.final_norm(), config_.norm_eps);
  out->logits = ctx.workspace->Tensor({rows, config_.vocab_size});
  kernels::Gemm(ctx, {.x = last.normed, .weight = weights_.lm_head(), .bias = {}, .out = out->logits});
}

}  // namespace moed
