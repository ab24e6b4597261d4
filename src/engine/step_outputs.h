// What the host wants to know of a step that the decoder has computed.
#ifndef MOED_ENGINE_STEP_OUTPUTS_H_
#define MOED_ENGINE_STEP_OUTPUTS_H_

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "model/decoder.h"
#include "tensor/buffer.h"
#include "tensor/exec_context.h"

namespace moed {

// On a GPU results come back through pinned memory. Not thread-safe.
class StepOutputs {
 public:
  // Enqueues the way back of a step's results. RESOURCE_EXHAUSTED when there is no pinned memory.
  absl::Status Fetch(const ExecContext& ctx, const DecoderOutput& output);

  // Waits for the step. The error is that of any of its parts (CudaStream::Synchronize).
  absl::Status Wait(const ExecContext& ctx);

  // After Wait: f32 [num_rows, vocab], to be overwritten at will until the next Fetch; empty without rows.
  const TensorView& logits() const { return logits_; }
  // [moe_layers][experts]
  std::vector<std::vector<int32_t>> ExpertLoads() const;

 private:
  Buffer host_;
  TensorView logits_;
  TensorView expert_offsets_;  // i32 [moe_layers, experts + 1]
};

}  // namespace moed

#endif  // MOED_ENGINE_STEP_OUTPUTS_H_
