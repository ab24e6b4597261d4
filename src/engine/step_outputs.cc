#include "engine/step_outputs.h"

#include <algorithm>
#include <utility>

namespace moed {

absl::Status StepOutputs::Fetch(const ExecContext& ctx, const DecoderOutput& output) {
  logits_ = output.logits;
  expert_offsets_ = output.expert_offsets;
  if (ctx.device.type == DeviceType::kCpu) return absl::OkStatus();
  const size_t logits_bytes = logits_.empty() ? 0 : logits_.num_bytes();
  const size_t offsets_bytes = expert_offsets_.empty() ? 0 : expert_offsets_.num_bytes();
  if (host_.size() < logits_bytes + offsets_bytes) {
    MOED_ASSIGN_OR_RETURN(host_, Buffer::AllocatePinned(std::max(logits_bytes + offsets_bytes, 2 * host_.size())));
  }
  char* to = static_cast<char*>(host_.data());
  for (TensorView* view : {&logits_, &expert_offsets_}) {
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
