#include "engine/step_outputs.h"

#include <algorithm>
#include <utility>

namespace moed {

absl::Status StepOutputs::Fetch(const ExecContext& ctx, const DecoderOutput& output, const SampledRows& sampled) {
  const bool is_sampled = !sampled.memory.empty();
  TensorView rows = is_sampled ? sampled.memory : output.logits;
  expert_offsets_ = output.expert_offsets;
  logits_ = TensorView();
  sampled_.reset();
  if (ctx.device.type == DeviceType::kCuda) MOED_RETURN_IF_ERROR(CopyToHost(ctx, {&rows, &expert_offsets_}));
  if (is_sampled) {
    sampled_ = SampledRows::Of(rows, sampled.tokens.dim(0), sampled.top_ids.dim(1));
  } else {
    logits_ = rows;
  }
  return absl::OkStatus();
}

absl::Status StepOutputs::CopyToHost(const ExecContext& ctx, std::initializer_list<TensorView*> views) {
  size_t bytes = 0;
  for (const TensorView* view : views) bytes += view->empty() ? 0 : view->num_bytes();
  if (host_.size() < bytes) {
    MOED_ASSIGN_OR_RETURN(host_, Buffer::AllocatePinned(std::max(bytes, 2 * host_.size())));
  }
  char* to = static_cast<char*>(host_.data());
  for (TensorView* const view : views) {
    if (view->empty()) continue;
    ctx.stream->Copy(to, view->data, view->num_bytes());
    view->data = to;
    view->device = Device{};
    to += view->num_bytes();
  }
  return absl::OkStatus();
}

absl::Status StepOutputs::Wait(const ExecContext& ctx) {
  return ctx.stream == nullptr ? absl::OkStatus() : ctx.stream->Synchronize();
}

std::vector<std::vector<int32_t>> StepOutputs::ExpertLoads() const {
  std::vector<std::vector<int32_t>> loads;
  if (expert_offsets_.empty()) return loads;
  const int64_t layers = expert_offsets_.dim(0), experts = expert_offsets_.dim(1) - 1;
  for (int64_t layer = 0; layer < layers; ++layer) {
    const int32_t* const offsets = expert_offsets_.As<int32_t>() + layer * (experts + 1);
    std::vector<int32_t>& of_layer = loads.emplace_back(experts);
    for (int64_t e = 0; e < experts; ++e) of_layer[e] = offsets[e + 1] - offsets[e];
  }
  return loads;
}

}  // namespace moed
