// What one step of the engine is to do, and what came of it: plain data without pointers, so that a plan can be sent to
// another rank, recorded and replayed.
#ifndef MOED_ENGINE_STEP_PLAN_H_
#define MOED_ENGINE_STEP_PLAN_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "request/sampling_params.h"
#include "request/sequence.h"

namespace moed {

// In StepPlan::token_ids: the token that the slot's last sampling gave, which the planner has not seen yet.
inline constexpr int32_t kPendingToken = -1;

// Sampling state that the engine keeps for a running sequence, set before the step's tokens are computed. A sequence
// that was preempted comes back with the output that it has, and goes on as if nothing had been.
struct SlotInit {
  int32_t slot = 0;
  SamplingParams params;
  // Drawn for requests that name no seed; the n-th token is drawn from (seed, n), so company does not matter.
  uint64_t seed = 0;
  std::vector<int32_t> prompt_ids;  // for the repetition penalty; empty where there is none
  std::vector<int32_t> output_ids;  // generated before

  bool operator==(const SlotInit&) const = default;
};

// A row of hidden states that goes through the LM head.
struct LogitsRow {
  int32_t token = 0;           // index into StepPlan::token_ids
  int32_t sequence = 0;        // index into StepPlan::slots
  bool sample = true;          // draw a token with the slot's parameters
  bool return_logits = false;  // give back the row itself, f32 [vocab]

  bool operator==(const LogitsRow&) const = default;
};

// The blocks of the sequences in one cache group: sequence s has ids[starts[s] .. starts[s + 1]), in order of position.
// In a group with a window, -1 stands for a block that lies wholly before it: it was given
// back, and nobody reads it.
struct BlockTables {
  std::vector<int32_t> starts;  // [num_sequences + 1]
  std::vector<int32_t> ids;

  bool operator==(const BlockTables&) const = default;
};

// Before the step: block `source` of the group is copied over block `destination`.
struct BlockCopy {
  int32_t group = 0;
  int32_t source = 0;
  int32_t destination = 0;

  bool operator==(const BlockCopy&) const = default;
};

// Between a block of the group and one of its host tier. Done beside the step: after all that was done before it, and
// before anything of the next one. The step, its block_copies included, does not write the device's block, nor read one
// that is filled.
struct BlockTransfer {
  int32_t group = 0;
  int32_t block = 0;
  int32_t host_block = 0;
  bool to_host = false;

  bool operator==(const BlockTransfer&) const = default;
};

// A ragged batch: sequence s owns tokens [query_starts[s], query_starts[s + 1]), at consecutive positions.
struct StepPlan {
  uint64_t step = 0;
  std::vector<int32_t> token_ids;         // [num_tokens], ids or kPendingToken
  std::vector<int32_t> positions;         // [num_tokens]
  std::vector<int32_t> query_starts;      // [num_sequences + 1]; empty for a plan without sequences
  std::vector<int32_t> slots;             // [num_sequences], each once
  std::vector<BlockTables> block_tables;  // [num_cache_groups]
  std::vector<LogitsRow> logits_rows;     // in the order of their tokens
  std::vector<SlotInit> slot_inits;
  std::vector<BlockCopy> block_copies;
  std::vector<BlockTransfer> transfers;

  int32_t num_tokens() const { return static_cast<int32_t>(token_ids.size()); }
  int32_t num_sequences() const { return static_cast<int32_t>(slots.size()); }
  // Nothing to do. A plan without tokens may have transfers still.
  bool empty() const { return token_ids.empty() && transfers.empty(); }

  bool operator==(const StepPlan&) const = default;
};

// What one LogitsRow gave.
struct RowResult {
  std::vector<int32_t> tokens;          // 0 to n sampled tokens
  std::vector<TokenLogprobs> logprobs;  // one a token where the slot's parameters ask for them
  std::vector<float> logits;            // [vocab] where return_logits
  // Not OK when this row alone failed (logits that are not finite): its sequence ends with kError.
  absl::Status status;
};

struct StepResult {
  uint64_t step = 0;
  std::vector<RowResult> rows;  // [StepPlan::logits_rows]
  // Tokens that each expert of each MoE layer took: [moe_layers][experts].
  std::vector<std::vector<int32_t>> expert_loads;
};

// A plan as bytes and back; Parse(Serialize(p)) equals p. DATA_LOSS when the bytes are not a plan of this version.
std::string SerializePlan(const StepPlan& plan);
absl::StatusOr<StepPlan> ParsePlan(std::string_view bytes);

}  // namespace moed

#endif  // MOED_ENGINE_STEP_PLAN_H_
