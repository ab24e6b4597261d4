#include "model/decoder.h"

#include <array>
#include <utility>

#include "kernels/attention_inputs/attention_inputs.h"
#include "kernels/embedding/embedding.h"
#include "kernels/gemm/gemm.h"
#include "kernels/layer_norm/layer_norm.h"
#include "kernels/moe_ffn/moe_ffn.h"
#include "kernels/moe_gating/moe_gating.h"
#include "kernels/paged_attention/paged_attention.h"
#include "kernels/rms_norm/rms_norm.h"
#include "model/latent_attention.h"

namespace moed {

// Which experts the tokens go to: the results of MoeGating.
struct TransformerDecoder::Routing {
  static Routing Allocate(Workspace& workspace, int64_t tokens, int64_t experts, int64_t top_k) {
    return {.ids = workspace.Tensor({tokens, top_k}, DType::kI32),
            .weights = workspace.Tensor({tokens, top_k}),
            .sorted_pairs = workspace.Tensor({tokens * top_k}, DType::kI32),
            .offsets = workspace.Tensor({experts + 1}, DType::kI32)};
  }

  static Routing ToOneExpert(const DecoderBatch::OneExpert& expert) {
    TensorView weights = expert.weights;
    return {.ids = {},
            .weights = weights.SplitLast(weights.dim(0), 1),
            .sorted_pairs = expert.sorted_pairs,
            .offsets = expert.offsets};
  }

  TensorView ids;           // [num_tokens, top_k]
  TensorView weights;       // [num_tokens, top_k]
  TensorView sorted_pairs;  // [num_tokens * top_k]
  TensorView offsets;       // [experts + 1]
};

// The rows that flow through the layers. `branch` holds what the last block gave and the next norm adds to `residual`;
// it is empty before the first layer.
struct TransformerDecoder::Activations {
  TensorView residual;  // [num_tokens, hidden]
  TensorView branch;    // [num_tokens, hidden]
  TensorView normed;    // [num_tokens, hidden]
  TensorView qkv;       // [num_tokens, q + k + v]
  TensorView attended;  // [num_tokens, num_heads * v_head_dim]
  TensorView router;    // [num_tokens, num_experts]
  Routing experts;      // `offsets` is that of the layer in DecoderOutput::expert_offsets
  Routing all;          // every token chooses expert 0 with weight 1: a dense layer, a shared expert
  Routing gated;        // … with the sigmoid of a product as its weight
  TensorView gate;      // [num_tokens, 1]: that product
  bool has_branch = false;
  InputObserver* observer = nullptr;

  void Observe(int32_t layer, MatrixInput input, const TensorView& x) const {
    if (observer != nullptr) observer->OnProduct(layer, input, x);
  }

  // normed = norm(residual + branch), the sum kept in `residual`.
  void Norm(const ExecContext& ctx, const NormWeights& weights, const ModelConfig& config) {
    const TensorView x = has_branch ? branch : residual, sum = has_branch ? residual : TensorView();
    if (config.norm == NormKind::kLayer) {
      kernels::LayerNorm(ctx, {.x = x,
                               .weight = weights.weight,
                               .bias = weights.bias,
                               .residual = sum,
                               .residual_scale = config.residual_multiplier,
                               .eps = config.norm_eps,
                               .out = normed});
    } else {
      kernels::RmsNorm(ctx, {.x = x,
                             .weight = weights.weight,
                             .residual = sum,
                             .residual_scale = config.residual_multiplier,
                             .eps = config.norm_eps,
                             .out = normed});
    }
    has_branch = true;  // whatever follows a norm fills the branch
  }
};

absl::StatusOr<TransformerDecoder> TransformerDecoder::Create(ModelConfig config, ModelWeights weights,
                                                              int32_t max_context, Device device) {
  MOED_ASSIGN_OR_RETURN(RopeTable rope, RopeTable::Create(config.rope, max_context, device));
  return TransformerDecoder(std::move(config), std::move(weights), std::move(rope));
}

absl::Status TransformerDecoder::CheckDevice(const ModelConfig& config, Device device) {
  if (device.type == DeviceType::kCpu) return absl::OkStatus();
  struct Need {
    bool is_needed, is_there;
    std::string_view op;
  };
  const std::array needs = {
      Need{config.norm == NormKind::kLayer, kernels::kHasCudaLayerNorm, "layer_norm"},
      Need{config.norm == NormKind::kRms, kernels::kHasCudaRmsNorm, "rms_norm"},
      Need{config.num_moe_layers() > 0, kernels::kHasCudaMoeGating, "moe_gating"},
      Need{true, kernels::kHasCudaMoeFfn, "moe_ffn"},
  };
  for (const Need& need : needs) {
    if (need.is_needed && !need.is_there) return Unimplemented("the op {} does not run on GPUs yet", need.op);
  }
  return absl::OkStatus();
}

DecoderOutput TransformerDecoder::Forward(const ExecContext& ctx, const DecoderBatch& batch, PagedKvCache* cache,
                                          InputObserver* observer) const {
  const AttentionConfig& attention = config_.attention;
  const int64_t tokens = batch.token_ids.dim(0);
  const int64_t hidden = config_.hidden_size;
  Workspace& workspace = *ctx.workspace;

  Activations act;
  act.observer = observer;
  act.residual = workspace.Tensor({tokens, hidden});
  act.branch = workspace.Tensor({tokens, hidden});
  act.normed = workspace.Tensor({tokens, hidden});
  act.qkv = workspace.Tensor({tokens, weights_.layer(0).qkv.weight.n});
  act.attended = workspace.Tensor({tokens, int64_t{attention.num_heads} * attention.v_head_dim});
  const MoeConfig& moe = config_.moe;
  DecoderOutput out;
  if (const int64_t moe_layers = config_.num_moe_layers(); moe_layers > 0) {
    act.router = workspace.Tensor({tokens, moe.num_experts});
    act.experts = Routing::Allocate(workspace, tokens, moe.num_experts, moe.top_k);
    out.expert_offsets = workspace.Tensor({moe_layers, moe.num_experts + 1}, DType::kI32);
    if (moe.shared_gate) {
      act.gate = workspace.Tensor({tokens, 1});
      act.gated = Routing::Allocate(workspace, tokens, 1, 1);
    }
  }
  act.all = Routing::ToOneExpert(batch.one_expert);

  kernels::Embedding(ctx, {.ids = batch.token_ids,
                           .table = weights_.embedding().table,
                           .packed = weights_.embedding().packed,
                           .scale = config_.embedding_multiplier,
                           .out = act.residual});
  int64_t moe_layer = 0;
  for (int32_t layer = 0; layer < config_.num_layers(); ++layer) {
    Attention(ctx, batch, cache->layer(layer), layer, &act);
    if (config_.layers[layer].is_moe) {
      const TensorView offsets = out.expert_offsets.Rows(moe_layer, moe_layer + 1);
      act.experts.offsets = TensorView(offsets.data, {moe.num_experts + 1}, DType::kI32, offsets.device);
      ++moe_layer;
    }
    FeedForward(ctx, layer, &act);
  }
  Logits(ctx, batch, &act, &out);
  return out;
}

namespace {

// Attention over the layer's pages as the batch describes them; q and out are left to fill in.
kernels::PagedAttentionArgs AttentionArgs(const ModelConfig& config, const DecoderBatch& batch, const LayerCache& cache,
                                          int32_t layer) {
  const DecoderBatch::Group& group = batch.groups[cache.group];
  kernels::PagedAttentionArgs args;
  args.k_pages = cache.k_pages;
  args.key_layout = cache.key_layout;
  args.v_pages = cache.v_pages;
  args.k_scales = cache.k_scales;
  args.v_scales = cache.v_scales;
  args.query_starts = batch.query_starts;
  args.context_lens = batch.context_lens;
  args.block_starts = group.block_starts;
  args.block_ids = group.block_ids;
  args.max_context = batch.max_context;
  args.scale = config.attention.scale;
  args.window = config.layers[layer].window;
  return args;
}

}  // namespace

void TransformerDecoder::Attention(const ExecContext& ctx, const DecoderBatch& batch, const LayerCache& cache,
                                   int32_t layer, Activations* act) const {
  const LayerWeights& weights = weights_.layer(layer);
  act->Norm(ctx, weights.attention_norm, config_);
  act->Observe(layer, MatrixInput::kAttention, act->normed);
  kernels::Gemm(ctx, {.x = act->normed, .weight = weights.qkv.weight, .bias = weights.qkv.bias, .out = act->qkv});
  if (config_.attention.is_latent()) {
    MultiHeadLatentAttention(ctx, batch, cache, layer, act);
  } else {
    GroupedQueryAttention(ctx, batch, cache, layer, act);
  }
  act->Observe(layer, MatrixInput::kAttended, act->attended);
  kernels::Gemm(ctx,
                {.x = act->attended, .weight = weights.output.weight, .bias = weights.output.bias, .out = act->branch});
}

void TransformerDecoder::GroupedQueryAttention(const ExecContext& ctx, const DecoderBatch& batch,
                                               const LayerCache& cache, int32_t layer, Activations* act) const {
  const AttentionConfig& config = config_.attention;
  const LayerWeights& weights = weights_.layer(layer);
  const int64_t q_columns = int64_t{config.num_heads} * config.k_head_dim;
  const int64_t k_end = q_columns + int64_t{config.num_kv_heads} * config.k_head_dim;
  const TensorView q = act->qkv.Columns(0, q_columns), k = act->qkv.Columns(q_columns, k_end);
  const TensorView v = act->qkv.Columns(k_end, act->qkv.dim(1));
  kernels::AttentionInputs(ctx, {.q = q,
                                 .k = k,
                                 .v = v,
                                 .q_norm = config.qk_norm ? weights.q_norm : TensorView(),
                                 .k_norm = config.qk_norm ? weights.k_norm : TensorView(),
                                 .eps = config_.norm_eps,
                                 .norm_after_rope = config.qk_norm_after_rope,
                                 .positions = batch.positions,
                                 .cos_sin = rope_.cos_sin(),
                                 .interleaved = config_.rope.interleaved,
                                 .slots = batch.groups[cache.group].slots,
                                 .k_pages = cache.k_pages,
                                 .v_pages = cache.v_pages,
                                 .k_scales = cache.k_scales,
                                 .v_scales = cache.v_scales,
                                 .key_layout = cache.key_layout});
  kernels::PagedAttentionArgs attention = AttentionArgs(config_, batch, cache, layer);
  attention.q = q.SplitLast(config.num_heads, config.k_head_dim);
  attention.sinks = weights.sinks;
  attention.out = act->attended;
  kernels::PagedAttention(ctx, attention);
}

void TransformerDecoder::MultiHeadLatentAttention(const ExecContext& ctx, const DecoderBatch& batch,
                                                  const LayerCache& cache, int32_t layer, Activations* act) const {
  LatentAttention(ctx, config_.attention, config_.rope.interleaved, weights_.layer(layer).latent,
                  {.projected = act->qkv,
                   .positions = batch.positions,
                   .cos_sin = rope_.cos_sin(),
                   .slots = batch.groups[cache.group].slots,
                   .attention = AttentionArgs(config_, batch, cache, layer),
                   .attended = act->attended});
  // The latent was normed in its place.
  const int64_t rank = config_.attention.latent.q_lora_rank;
  if (rank > 0) act->Observe(layer, MatrixInput::kQueryLatent, act->qkv.Columns(0, rank));
}

void TransformerDecoder::FeedForward(const ExecContext& ctx, int32_t layer, Activations* act) const {
  const LayerWeights& weights = weights_.layer(layer);
  act->Norm(ctx, weights.ffn_norm, config_);
  if (!config_.layers[layer].is_moe) return Experts(ctx, layer, WeightPart::kDense, act->all, act);

  const MoeConfig& moe = config_.moe;
  kernels::Gemm(ctx,
                {.x = act->normed, .weight = weights.router.weight, .bias = weights.router.bias, .out = act->router});
  kernels::MoeGating(ctx, {.logits = act->router,
                           .scoring = moe.scoring,
                           .top_k = moe.top_k,
                           .renormalize = moe.renormalize,
                           .weight_scale = moe.weight_scale,
                           .correction_bias = weights.correction_bias,
                           .num_groups = moe.num_groups,
                           .top_groups = moe.top_groups,
                           .jitter = moe.jitter,
                           .expert_ids = act->experts.ids,
                           .weights = act->experts.weights,
                           .sorted_pairs = act->experts.sorted_pairs,
                           .expert_offsets = act->experts.offsets});
  Experts(ctx, layer, WeightPart::kExperts, act->experts, act);
  if (moe.shared_intermediate_size > 0) SharedExpert(ctx, layer, act);
}

// branch += shared(normed), or its product with sigmoid(gate . normed): a router over one expert.
void TransformerDecoder::SharedExpert(const ExecContext& ctx, int32_t layer, Activations* act) const {
  if (!config_.moe.shared_gate) return Experts(ctx, layer, WeightPart::kShared, act->all, act);
  const kernels::PackedWeight& gate = weights_.layer(layer).shared_gate;
  kernels::Gemm(ctx, {.x = act->normed, .weight = gate, .bias = {}, .out = act->gate});
  kernels::MoeGating(ctx, {.logits = act->gate,
                           .scoring = kernels::RouterScoring::kSigmoid,
                           .top_k = 1,
                           .correction_bias = {},
                           .expert_ids = act->gated.ids,
                           .weights = act->gated.weights,
                           .sorted_pairs = act->gated.sorted_pairs,
                           .expert_offsets = act->gated.offsets});
  Experts(ctx, layer, WeightPart::kShared, act->gated, act);
}

void TransformerDecoder::Experts(const ExecContext& ctx, int32_t layer, WeightPart part, const Routing& routing,
                                 Activations* act) const {
  const bool shared = part == WeightPart::kShared;
  const ExpertWeights& weights = shared ? weights_.layer(layer).shared : weights_.layer(layer).experts;
  const kernels::MoeFfnArgs args = {.x = act->normed,
                                    .num_experts = static_cast<int>(weights.gate.size()),
                                    .gate = weights.gate.data(),
                                    .up = weights.up.data(),
                                    .down = weights.down.data(),
                                    .gate_bias = weights.gate_bias,
                                    .up_bias = weights.up_bias,
                                    .down_bias = weights.down_bias,
                                    .activation = config_.activation,
                                    .swiglu_alpha = config_.swiglu_alpha,
                                    .swiglu_limit = config_.swiglu_limit,
                                    .top_k = static_cast<int>(routing.weights.dim(1)),
                                    .weights = routing.weights,
                                    .sorted_pairs = routing.sorted_pairs,
                                    .expert_offsets = routing.offsets,
                                    .accumulate = shared,
                                    .out = act->branch};
  if (act->observer != nullptr) act->observer->OnFeedForward(layer, part, args);
  kernels::MoeFfn(ctx, args);
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
  last.Norm(ctx, weights_.final_norm(), config_);
  act->Observe(config_.num_layers(), MatrixInput::kHead, last.normed);
  out->logits = ctx.workspace->Tensor({rows, config_.vocab_size});
  kernels::Gemm(
      ctx,
      {.x = last.normed, .weight = weights_.lm_head().weight, .bias = weights_.lm_head().bias, .out = out->logits});
}

}  // namespace moed
