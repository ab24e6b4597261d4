// From a row of logits to the next token.
#ifndef MOED_ENGINE_SAMPLER_H_
#define MOED_ENGINE_SAMPLER_H_

#include <cstdint>
#include <span>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "base/status.h"
#include "engine/step_plan.h"
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

  // Adds bias and penalties in place and bars the stop ids until min_tokens are there. logits: [vocab].
  void Adjust(std::span<float> logits) const;
  // Takes note of a token that was chosen.
  void Accept(int32_t token);

 private:
  SamplingParams params_;
  uint64_t seed_ = 0;
  int32_t num_generated_ = 0;
  int32_t last_token_ = -1;
  // Kept only where a penalty needs them.
  std::unordered_map<int32_t, int32_t> output_counts_;
  std::unordered_set<int32_t> seen_;  // in prompt or output
};

// Draws one token for the slot from `logits` [vocab], which it overwrites, and reports log-probabilities of the model's
// own distribution where they are asked for. Choices among equal logits go to the lower id, and the draw is a function
// of (seed, number of the token, logits): the same whatever else is in the batch. Sorting is bounded to the candidates
// that top-k and top-p leave. The row's status is INTERNAL when no logit is finite or one is NaN. Different slots may
// be sampled by different threads at once. Of `ctx` the instruction set counts alone: logits are in the host's memory.
RowResult SampleRow(const ExecContext& ctx, std::span<float> logits, SamplerSlot* slot);

}  // namespace moed

#endif  // MOED_ENGINE_SAMPLER_H_
