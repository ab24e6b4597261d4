// The engine as the scheduler and the serving loop see it.
#ifndef MOED_ENGINE_ENGINE_H_
#define MOED_ENGINE_ENGINE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "engine/step_plan.h"

namespace moed {

// Layers with the same kind of cache share block tables: one group each kind.
struct CacheGroupInfo {
  int32_t block_size = 16;  // positions in a block
  int32_t num_blocks = 0;
  int32_t window = 0;           // only the last `window` positions are read; 0: all
  int64_t bytes_per_block = 0;  // over all layers of the group
  int32_t num_host_blocks = 0;  // of its host tier
};

// What the planner must know; constant after construction.
struct EngineInfo {
  std::string model_name;
  int32_t vocab_size = 0;
  int32_t max_context = 0;  // positions that a sequence may have
  int32_t max_slots = 0;    // sequences that may run at once
  int32_t max_tokens_per_step = 0;
  // Steps that may be submitted and not yet collected: 1 where Submit computes at once.
  int32_t max_steps_in_flight = 1;
  std::vector<int32_t> eos_token_ids;
  std::vector<CacheGroupInfo> cache_groups;
};

// Runs steps in the order of their submission. One thread calls Submit and Collect.
class Engine {
 public:
  using Ticket = uint64_t;

  virtual ~Engine() = default;

  virtual const EngineInfo& info() const = 0;

  // Starts a step. INVALID_ARGUMENT for a plan that does not fit EngineInfo (our own planner never makes one; a plan
  // from another rank may); nothing has happened then.
  virtual absl::StatusOr<Ticket> Submit(const StepPlan& plan) = 0;

  // Waits for the oldest step that was not collected, which must be `ticket`. INTERNAL or RESOURCE_EXHAUSTED when the
  // step failed as a whole: the sequences in it have no result, the engine lives on.
  virtual absl::StatusOr<StepResult> Collect(Ticket ticket) = 0;
};

}  // namespace moed

#endif  // MOED_ENGINE_ENGINE_H_
