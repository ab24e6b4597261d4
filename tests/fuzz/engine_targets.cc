#include <string>
#include <vector>

#include "base/logging.h"
#include "engine/moe_engine.h"
#include "engine/step_plan.h"
#include "tests/fuzz/targets.h"

namespace moed::fuzz {

void StepPlan(std::string_view input) {
  const auto plan = ParsePlan(input);
  if (!plan.ok()) {
    MOED_CHECK(absl::IsDataLoss(plan.status()), "{}", plan.status().ToString());
    return;
  }
  // A plan has one encoding.
  MOED_CHECK(SerializePlan(*plan) == input, "the plan did not come back");
  // What the engine holds it against before it computes anything.
  EngineInfo info;
  info.vocab_size = 32;
  info.max_context = 64;
  info.max_slots = 4;
  info.max_tokens_per_step = 32;
  info.cache_groups = {{.block_size = 16, .num_blocks = 8},
                       {.block_size = 16, .num_blocks = 8, .window = 16, .num_host_blocks = 4}};
  const absl::Status fits = CheckPlan(*plan, info);
  MOED_CHECK(fits.ok() || absl::IsInvalidArgument(fits), "{}", fits.ToString());
}

}  // namespace moed::fuzz
