// What the host wants to know of a step that the decoder has computed.
#ifndef MOED_ENGINE_STEP_OUTPUTS_H_
#define MOED_ENGINE_STEP_OUTPUTS_H_

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <vector>

#include "base/status.h"
#include "engine/sampler.h"
#include "model/decoder.h"
#include "tensor/buffer.h"
#include "tensor/exec_context.h"

namespace moed {

// On a GPU results come back through pinned memory. Not thread-safe.
class StepOutputs {
 public:
  // Enqueues the way back of a step's results: of the rows that were sampled, if there are any, else of the logits.
  // RESOURCE_EXHAUSTED when there is no pinned memory.
  absl::Status Fetch(const ExecContext& ctx, const DecoderOutput& output, const SampledRows& sampled);

  // Waits for the step. The error is that of any of its parts (CudaStream::Synchronize).
  absl::Status Wait(const ExecContext& ctx);

  // After Wait: f32 [num_rows, vocab], to be overwritten at will until the next Fetch; empty without rows, and where
  // they were sampled.
  const TensorView& logits() const { return logits_; }
  // Nothing: the rows were not sampled.
  const std::optional<SampledRows>& sampled() const { return sampled_; }
  // [moe_layers][experts]
  std::vector<std::vector<int32_t>> ExpertLoads() const;

 private:
  // Enqueues copies to pinned memory, where the views lead from then on.
  absl::Status CopyToHost(const ExecContext& ctx, std::initializer_list<TensorView*> views);

  Buffer host_;
  TensorView logits_;
  std::optional<SampledRows> sampled_;
  TensorView expert_offsets_;  // i32 [moe_layers, experts + 1]
};

}  // namespace moed

#endif  // MOED_ENGINE_STEP_OUTPUTS_H_
