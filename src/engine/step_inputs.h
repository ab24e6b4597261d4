// A plan's arrays as the decoder takes them.
#ifndef MOED_ENGINE_STEP_INPUTS_H_
#define MOED_ENGINE_STEP_INPUTS_H_

#include <cstdint>
#include <span>

#include "base/status.h"
#include "engine/sampler.h"
#include "engine/step_plan.h"
#include "model/decoder.h"
#include "tensor/buffer.h"
#include "tensor/exec_context.h"

namespace moed {

// What a step starts from.
struct StepBatch {
  DecoderBatch decoder;
  SamplingBatch sampling;  // without rows where the host samples
};

// How much of what a step has; sizes its arrays.
struct StepSize {
  int64_t tokens = 0, sequences = 0, rows = 0, groups = 0;
  int64_t blocks = 0;       // in the tables of a group
  int64_t adjustments = 0;  // of all rows' logits

  // Bytes that the arrays take at most.
  size_t NumBytes() const;
};
StepSize SizeOf(const StepPlan& plan, std::span<const SamplerSlot> slots);

// How a step's arrays lie: as is fit for the one step, or with room for all steps that share a graph.
struct StepLayout {
  static StepLayout Fit(const StepPlan& plan, std::span<const SamplerSlot> slots, int32_t vocab_size,
                        bool samples_on_device);

  StepSize room;
  int64_t max_context = 0;  // DecoderBatch::max_context
  bool samples_on_device = false;
  int32_t max_top = 0;  // SamplingBatch::max_top
};

// All arrays lie in one piece of memory, which a GPU gets in one copy. Not thread-safe.
class StepInputs {
 public:
  // The batch of `plan`, with what its slots say: their last tokens stand for pending ones, and their parameters are
  // how rows are sampled, where the layout asks for that. Its views are in the context's workspace, or on the host, and
  // hold until the next call; on a GPU that must not come before the step has ended. RESOURCE_EXHAUSTED when there is
  // no pinned memory.
  absl::StatusOr<StepBatch> Make(const ExecContext& ctx, const StepPlan& plan, std::span<const SamplerSlot> slots,
                                 const StepLayout& layout, int32_t block_size);

 private:
  Buffer host_;
};

}  // namespace moed

#endif  // MOED_ENGINE_STEP_INPUTS_H_
