// From rows of logits to the next tokens: what the engine keeps of a running sequence for it, and the two ways, row by
// row on the host and all rows of a step on the device.
#ifndef MOED_ENGINE_SAMPLER_H_
#define MOED_ENGINE_SAMPLER_H_

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/status.h"
#include "engine/step_plan.h"
#include "kernels/sampling/sample_rows.h"
#include "tensor/exec_context.h"

namespace moed {

// What the engine keeps for a running sequence: its parameters and what they count.
class SamplerSlot {
 public:
  SamplerSlot() = default;
  explicit SamplerSlot(const SlotInit& init);

  const SamplingParams& params() const { return params_; }
  // The token sampled last (kPendingToken in a plan stands for it); -1 before the first.
  int32_t last_token() const { return last_token_; }
  int32_t num_generated() const { return num_generated_; }
  uint64_t seed() const { return seed_; }

  // How the next token is chosen; its adjustments are the ones below, at an offset that the caller sets.
  kernels::SamplingRow Row() const;
  // Bias and penalties, and the stop ids barred until min_tokens are there: each id once.
  std::span<const kernels::LogitAdjustment> adjustments() const { return adjustments_; }

  // Takes note of a token that was chosen.
  void Accept(int32_t token);

 private:
  kernels::LogitAdjustment& AdjustmentOf(int32_t id);
  void Count(int32_t token);
  void BarStopIds(bool barred);

  SamplingParams params_;
  uint64_t seed_ = 0;
  int32_t num_generated_ = 0;
  int32_t last_token_ = -1;
  // Kept only where a parameter needs them.
  std::vector<kernels::LogitAdjustment> adjustments_;
  std::vector<int32_t> output_counts_;              // of the same ids
  std::unordered_map<int32_t, int32_t> positions_;  // in both, by id
};

// Draws one token for the slot from `logits` [vocab], which it overwrites, and reports log-probabilities of the model's
// own distribution where they are asked for. Choices among equal logits go to the lower id, and the draw is a function
// of (seed, number of the token, logits): the same whatever else is in the batch. Sorting is bounded to the candidates
// that top-k and top-p leave. The row's status is INTERNAL when no logit is finite or one is NaN. Different slots may
// be sampled by different threads at once. Of `ctx` the instruction set counts alone: logits are in the host's memory.
RowResult SampleRow(const ExecContext& ctx, std::span<float> logits, SamplerSlot* slot);

// What the device needs to sample the rows of a step, in its memory.
struct SamplingBatch {
  const kernels::SamplingRow* rows = nullptr;  // [num_rows]
  const kernels::LogitAdjustment* adjustments = nullptr;
  int64_t num_adjustments = 0;
  int32_t max_top = 0;  // the most alternatives that a row asks for
};

// The tokens of all rows with their log-probabilities, in one piece of memory.
struct SampledRows {
  // Views into `memory` [NumElements(rows, top)]; see SampleRowsArgs.
  static SampledRows Of(const TensorView& memory, int64_t rows, int64_t top);
  static int64_t NumElements(int64_t rows, int64_t top) { return rows * (2 + 2 * top); }

  TensorView memory;  // i32
  TensorView tokens, token_logprobs, top_ids, top_logprobs;
};

// Whether the step's rows can be sampled on the device: each by its own sequence's parameters, and nobody asks for
// logits. Other steps are sampled by the host.
bool CanSampleOnDevice(const StepPlan& plan);

// Enqueues it. The results are in the context's workspace; `logits` f32 [num_rows, vocab] is overwritten.
SampledRows SampleOnDevice(const ExecContext& ctx, const TensorView& logits, const SamplingBatch& batch);

// Row `r` of what was sampled, in the host's memory: takes note of the token in its slot.
RowResult TakeSampledRow(const SampledRows& sampled, int64_t r, SamplerSlot* slot);

}  // namespace moed

#endif  // MOED_ENGINE_SAMPLER_H_
