#include "engine/step_graphs.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace moed {

std::optional<StepGraphKey> StepGraphs::KeyOf(const StepPlan& plan, std::span<const SamplerSlot> slots) const {
  constexpr int32_t kShortest = 256;
  const int32_t sequences = plan.num_sequences();
  if (sequences == 0 || sequences > kMaxSequences || plan.num_tokens() != sequences ||
      std::ssize(plan.logits_rows) != sequences || !CanSampleOnDevice(plan)) {
    return std::nullopt;
  }
  const int32_t longest = 1 + *std::max_element(plan.positions.begin(), plan.positions.end());
  const auto rounded = static_cast<int32_t>(std::bit_ceil(static_cast<uint32_t>(std::max(longest, kShortest))));
  const StepGraphKey key = {.sequences = sequences, .max_context = std::min(rounded, max_context_)};
  const StepSize room = LayoutOf(key, std::ssize(plan.block_tables)).room;
  const StepSize needed = SizeOf(plan, slots);
  if (needed.blocks > room.blocks || needed.adjustments > room.adjustments) return std::nullopt;
  return key;
}

StepLayout StepGraphs::LayoutOf(const StepGraphKey& key, int64_t num_groups) const {
  const int64_t blocks_per_sequence = (key.max_context + block_size_ - 1) / block_size_;
  return {.room = {.tokens = key.sequences,
                   .sequences = key.sequences,
                   .rows = key.sequences,
                   .groups = num_groups,
                   .blocks = key.sequences * blocks_per_sequence,
                   .adjustments = key.sequences * kAdjustmentsPerSequence},
          .max_context = key.max_context,
          .samples_on_device = true,
          .max_top = std::min(SamplingParams::kMaxLogprobs, vocab_size_)};
}

const StepGraphs::Step* StepGraphs::Find(const StepGraphKey& key, const void* inputs) {
  const auto found = entries_.find(key);
  if (found == entries_.end() || found->second.step.inputs != inputs) return nullptr;
  found->second.last_use = ++use_;
  return &found->second.step;
}

const StepGraphs::Step* StepGraphs::Add(const StepGraphKey& key, Step step) {
  entries_.erase(key);
  if (entries_.size() >= kMaxGraphs) {
    entries_.erase(std::min_element(entries_.begin(), entries_.end(), [](const auto& a, const auto& b) {
      return a.second.last_use < b.second.last_use;
    }));
  }
  return &entries_.emplace(key, Entry{std::move(step), ++use_}).first->second.step;
}

}  // namespace moed
