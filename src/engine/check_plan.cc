#include <vector>

#include "engine/moe_engine.h"

namespace moed {
namespace {

absl::Status CheckStarts(const char* field, const std::vector<int32_t>& starts, size_t num_sequences, size_t total,
                         int32_t least) {
  if (num_sequences == 0 && starts.empty() && total == 0) return absl::OkStatus();
  if (starts.size() != num_sequences + 1 || starts.front() != 0 || starts.back() != static_cast<int64_t>(total)) {
    return InvalidArgument("plan: {} must have {} entries from 0 to {}", field, num_sequences + 1, total);
  }
  for (size_t s = 0; s < num_sequences; ++s) {
    if (starts[s + 1] < starts[s] + least) return InvalidArgument("plan: {} falls at sequence {}", field, s);
  }
  return absl::OkStatus();
}

absl::Status CheckRange(const char* field, size_t index, int64_t value, int64_t low, int64_t end) {
  if (value >= low && value < end) return absl::OkStatus();
  return InvalidArgument("plan: {}[{}] is {}; it must be in [{}, {})", field, index, value, low, end);
}

absl::Status CheckTokens(const StepPlan& plan, const EngineInfo& info) {
  if (plan.num_tokens() > info.max_tokens_per_step) {
    return InvalidArgument("plan: {} tokens; a step takes at most {}", plan.num_tokens(), info.max_tokens_per_step);
  }
  if (plan.positions.size() != plan.token_ids.size()) {
    return InvalidArgument("plan: {} positions for {} tokens", plan.positions.size(), plan.token_ids.size());
  }
  for (size_t i = 0; i < plan.token_ids.size(); ++i) {
    MOED_RETURN_IF_ERROR(CheckRange("token_ids", i, plan.token_ids[i], kPendingToken, info.vocab_size));
    MOED_RETURN_IF_ERROR(CheckRange("positions", i, plan.positions[i], 0, info.max_context));
  }
  return CheckStarts("query_starts", plan.query_starts, plan.slots.size(), plan.token_ids.size(), 1);
}

absl::Status CheckSlots(const StepPlan& plan, const EngineInfo& info) {
  std::vector<bool> used(info.max_slots);
  for (size_t s = 0; s < plan.slots.size(); ++s) {
    MOED_RETURN_IF_ERROR(CheckRange("slots", s, plan.slots[s], 0, info.max_slots));
    if (used[plan.slots[s]]) return InvalidArgument("plan: slot {} is named twice", plan.slots[s]);
    used[plan.slots[s]] = true;
  }
  for (size_t i = 0; i < plan.slot_inits.size(); ++i) {
    const SlotInit& init = plan.slot_inits[i];
    MOED_RETURN_IF_ERROR(CheckRange("slot_inits", i, init.slot, 0, info.max_slots));
    for (const std::vector<int32_t>* ids : {&init.prompt_ids, &init.output_ids, &init.params.stop_token_ids}) {
      for (int32_t id : *ids) MOED_RETURN_IF_ERROR(CheckRange("slot_inits ids", i, id, 0, info.vocab_size));
    }
    for (const auto& [id, bias] : init.params.logit_bias) {
      MOED_RETURN_IF_ERROR(CheckRange("slot_inits logit_bias", i, id, 0, info.vocab_size));
    }
  }
  return absl::OkStatus();
}

// Every position of a sequence, the new ones included, needs a block; blocks that a window has passed may be -1.
absl::Status CheckBlocks(const StepPlan& plan, const EngineInfo& info) {
  if (plan.block_tables.size() != info.cache_groups.size()) {
    return InvalidArgument("plan: {} block tables for {} cache groups", plan.block_tables.size(),
                           info.cache_groups.size());
  }
  for (size_t g = 0; g < plan.block_tables.size(); ++g) {
    const BlockTables& tables = plan.block_tables[g];
    const CacheGroupInfo& group = info.cache_groups[g];
    MOED_RETURN_IF_ERROR(CheckStarts("block_tables.starts", tables.starts, plan.slots.size(), tables.ids.size(), 0));
    for (size_t i = 0; i < tables.ids.size(); ++i) {
      MOED_RETURN_IF_ERROR(
          CheckRange("block_tables.ids", i, tables.ids[i], group.window > 0 ? -1 : 0, group.num_blocks));
    }
    for (size_t s = 0; s < plan.slots.size(); ++s) {
      const int32_t first = plan.query_starts[s], last = plan.query_starts[s + 1] - 1;
      if (plan.positions[last] - plan.positions[first] != last - first) {
        return InvalidArgument("plan: positions of sequence {} are not consecutive", s);
      }
      const int64_t needed = plan.positions[last] / group.block_size + 1;
      if (tables.starts[s + 1] - tables.starts[s] < needed) {
        return InvalidArgument("plan: sequence {} has {} blocks in group {}; position {} needs {}", s,
                               tables.starts[s + 1] - tables.starts[s], g, plan.positions[last], needed);
      }
    }
  }
  return absl::OkStatus();
}

absl::Status CheckCopies(const StepPlan& plan, const EngineInfo& info) {
  for (size_t i = 0; i < plan.block_copies.size(); ++i) {
    const BlockCopy& copy = plan.block_copies[i];
    MOED_RETURN_IF_ERROR(CheckRange("block_copies.group", i, copy.group, 0, info.cache_groups.size()));
    const int32_t blocks = info.cache_groups[copy.group].num_blocks;
    MOED_RETURN_IF_ERROR(CheckRange("block_copies.source", i, copy.source, 0, blocks));
    MOED_RETURN_IF_ERROR(CheckRange("block_copies.destination", i, copy.destination, 0, blocks));
  }
  for (size_t i = 0; i < plan.transfers.size(); ++i) {
    const BlockTransfer& transfer = plan.transfers[i];
    MOED_RETURN_IF_ERROR(CheckRange("transfers.group", i, transfer.group, 0, info.cache_groups.size()));
    const CacheGroupInfo& group = info.cache_groups[transfer.group];
    MOED_RETURN_IF_ERROR(CheckRange("transfers.block", i, transfer.block, 0, group.num_blocks));
    MOED_RETURN_IF_ERROR(CheckRange("transfers.host_block", i, transfer.host_block, 0, group.num_host_blocks));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckPlan(const StepPlan& plan, const EngineInfo& info) {
  MOED_RETURN_IF_ERROR(CheckTokens(plan, info));
  MOED_RETURN_IF_ERROR(CheckSlots(plan, info));
  MOED_RETURN_IF_ERROR(CheckBlocks(plan, info));
  for (size_t i = 0; i < plan.logits_rows.size(); ++i) {
    MOED_RETURN_IF_ERROR(CheckRange("logits_rows.token", i, plan.logits_rows[i].token, 0, plan.num_tokens()));
    MOED_RETURN_IF_ERROR(CheckRange("logits_rows.sequence", i, plan.logits_rows[i].sequence, 0, plan.num_sequences()));
  }
  return CheckCopies(plan, info);
}

}  // namespace moed
