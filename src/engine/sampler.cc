#include "engine/sampler.h"

#include <algorithm>
#include <iterator>

#include "engine/philox.h"

namespace moed {

static_assert(SamplingParams::kMaxLogprobs <= kernels::SampleRowsArgs::kMaxTop);

SamplerSlot::SamplerSlot(const SlotInit& init)
    : params_(init.params), seed_(init.seed), num_generated_(static_cast<int32_t>(init.output_ids.size())) {
  if (!init.output_ids.empty()) last_token_ = init.output_ids.back();
  for (const auto& [id, bias] : params_.logit_bias) AdjustmentOf(id).bias += bias;
  if (params_.repetition_penalty != 1.0f) {
    for (const int32_t id : init.prompt_ids) AdjustmentOf(id).is_seen = true;
  }
  for (const int32_t id : init.output_ids) Count(id);
  if (num_generated_ < params_.min_tokens) BarStopIds(true);
}

kernels::LogitAdjustment& SamplerSlot::AdjustmentOf(int32_t id) {
  const auto [position, is_new] = positions_.try_emplace(id, static_cast<int32_t>(adjustments_.size()));
  if (is_new) {
    adjustments_.push_back({.id = id});
    output_counts_.push_back(0);
  }
  return adjustments_[position->second];
}

void SamplerSlot::Count(int32_t token) {
  if (params_.repetition_penalty != 1.0f) AdjustmentOf(token).is_seen = true;
  if (params_.presence_penalty == 0.0f && params_.frequency_penalty == 0.0f) return;
  kernels::LogitAdjustment& adjustment = AdjustmentOf(token);
  const int32_t count = ++output_counts_[positions_.at(token)];
  adjustment.subtract = params_.presence_penalty + params_.frequency_penalty * static_cast<float>(count);
}

void SamplerSlot::BarStopIds(bool barred) {
  for (const int32_t id : params_.stop_token_ids) AdjustmentOf(id).is_barred = barred;
}

kernels::SamplingRow SamplerSlot::Row() const {
  return {.temperature = params_.temperature,
          .top_k = params_.top_k,
          .top_p = params_.top_p,
          .min_p = params_.min_p,
          .repetition_penalty = params_.repetition_penalty,
          .logprobs = params_.logprobs,
          .first_adjustment = 0,
          .num_adjustments = static_cast<int32_t>(adjustments_.size()),
          .uniform = PhiloxUniform(seed_, num_generated_)};
}

void SamplerSlot::Accept(int32_t token) {
  ++num_generated_;
  last_token_ = token;
  Count(token);
  if (num_generated_ == params_.min_tokens) BarStopIds(false);
}

SampledRows SampledRows::Of(const TensorView& memory, int64_t rows, int64_t top) {
  auto* const begin = memory.As<int32_t>();
  int32_t* const tops = begin + 2 * rows;
  return {.memory = memory,
          .tokens = TensorView(begin, {rows}, DType::kI32, memory.device),
          .token_logprobs = TensorView(begin + rows, {rows}, DType::kF32, memory.device),
          .top_ids = TensorView(tops, {rows, top}, DType::kI32, memory.device),
          .top_logprobs = TensorView(tops + rows * top, {rows, top}, DType::kF32, memory.device)};
}

namespace {

kernels::SampleRowsArgs ArgsOf(const TensorView& logits, const SamplingBatch& batch, const SampledRows& out) {
  return {.logits = logits,
          .rows = batch.rows,
          .adjustments = batch.adjustments,
          .num_adjustments = batch.num_adjustments,
          .tokens = out.tokens,
          .token_logprobs = out.token_logprobs,
          .top_ids = out.top_ids,
          .top_logprobs = out.top_logprobs};
}

}  // namespace

RowResult SampleRow(const ExecContext& ctx, std::span<float> logits, SamplerSlot* slot) {
  const kernels::SamplingRow row = slot->Row();
  const auto top = static_cast<int32_t>(std::clamp<int64_t>(row.logprobs, 0, std::ssize(logits)));
  std::vector<int32_t> memory(SampledRows::NumElements(1, top));
  const SampledRows out = SampledRows::Of(TensorView::Of(memory.data(), {std::ssize(memory)}), 1, top);
  const SamplingBatch batch = {
      .rows = &row, .adjustments = slot->adjustments().data(), .num_adjustments = row.num_adjustments, .max_top = top};
  kernels::cpu::SampleRows(ctx, ArgsOf(TensorView::Of(logits.data(), {1, std::ssize(logits)}), batch, out));
  return TakeSampledRow(out, 0, slot);
}

bool CanSampleOnDevice(const StepPlan& plan) {
  // The second token of a sequence hangs on the first.
  std::vector<bool> has_row(plan.num_sequences());
  for (const LogitsRow& row : plan.logits_rows) {
    if (!row.sample || row.return_logits || has_row[row.sequence]) return false;
    has_row[row.sequence] = true;
  }
  return !plan.logits_rows.empty();
}

SampledRows SampleOnDevice(const ExecContext& ctx, const TensorView& logits, const SamplingBatch& batch) {
  const int64_t rows = logits.dim(0);
  const TensorView memory = ctx.workspace->Tensor({SampledRows::NumElements(rows, batch.max_top)}, DType::kI32);
  const SampledRows out = SampledRows::Of(memory, rows, batch.max_top);
  kernels::SampleRows(ctx, ArgsOf(logits, batch, out));
  return out;
}

RowResult TakeSampledRow(const SampledRows& sampled, int64_t r, SamplerSlot* slot) {
  RowResult result;
  const int32_t token = sampled.tokens.As<int32_t>()[r];
  if (token == kernels::SampleRowsArgs::kNotFinite) {
    result.status = Internal("the model's logits are not finite");
    return result;
  }
  result.tokens.push_back(token);
  if (const int32_t wanted = slot->params().logprobs; wanted >= 0) {
    TokenLogprobs& logprobs = result.logprobs.emplace_back();
    logprobs.chosen = {token, sampled.token_logprobs.As<float>()[r]};
    const int64_t top = sampled.top_ids.dim(1), first = r * top;
    for (int64_t i = first; i < first + std::min<int64_t>(wanted, top); ++i) {
      logprobs.top.push_back({sampled.top_ids.As<int32_t>()[i], sampled.top_logprobs.As<float>()[i]});
    }
  }
  slot->Accept(token);
  return result;
}

}  // namespace moed
