// Decode steps as CUDA graphs: the kernels of a step recorded once and enqueued in one call from then on.
#ifndef MOED_ENGINE_STEP_GRAPHS_H_
#define MOED_ENGINE_STEP_GRAPHS_H_

#include <compare>
#include <cstdint>
#include <map>
#include <optional>
#include <span>

#include "engine/sampler.h"
#include "engine/step_inputs.h"
#include "model/decoder.h"
#include "tensor/cuda_graph.h"

namespace moed {

// What the steps of one graph have in common: the grids of all kernels, and where arrays lie. Nothing is padded but the
// arrays, so that a step does no more than it would without a graph.
struct StepGraphKey {
  int32_t sequences = 0;
  int32_t max_context = 0;  // a power of two, or the most that a sequence may have

  // NOLINTNEXTLINE(modernize-use-nullptr): the check means the zero that the compiler compares with
  auto operator<=>(const StepGraphKey&) const = default;
};

// The graphs that were recorded last. Not thread-safe.
class StepGraphs {
 public:
  // Graphs that are kept. A server's steps have few lengths of context, and so many sizes of batch at a time.
  static constexpr int kMaxGraphs = 32;
  // With more sequences a step takes so long that its launches do not count.
  static constexpr int32_t kMaxSequences = 256;
  // Biased, penalised and barred logits for which each sequence has room.
  static constexpr int64_t kAdjustmentsPerSequence = 256;

  struct Step {
    CudaGraph graph;
    const void* inputs;  // where they must lie
    DecoderOutput output;
    SampledRows sampled;
  };

  StepGraphs(int32_t max_context, int32_t vocab_size, int32_t block_size)
      : max_context_(max_context), vocab_size_(vocab_size), block_size_(block_size) {}

  // The key of a step in which every sequence has one token, and one row that the device can sample; nothing for
  // another, and for one that is larger than its graph's arrays.
  std::optional<StepGraphKey> KeyOf(const StepPlan& plan, std::span<const SamplerSlot> slots) const;
  StepLayout LayoutOf(const StepGraphKey& key, int64_t num_groups) const;

  // Null where there is none, or one for inputs that lie elsewhere. Valid until the next Add.
  const Step* Find(const StepGraphKey& key, const void* inputs);
  // In place of the one that was not used for longest. The step before must have ended.
  const Step* Add(const StepGraphKey& key, Step step);

 private:
  struct Entry {
    Step step;
    uint64_t last_use;
  };

  int32_t max_context_, vocab_size_, block_size_;
  uint64_t use_ = 0;
  std::map<StepGraphKey, Entry> entries_;
};

}  // namespace moed

#endif  // MOED_ENGINE_STEP_GRAPHS_H_
