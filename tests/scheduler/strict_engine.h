// An engine without a model that distrusts its planner. It keeps, for every cell of every block, which token was
// written there and a hash of all tokens up to it, as keys and values of a real model depend on all that came before;
// it reads the context back from the blocks that the plan names, and draws the next token from the hash that it finds.
#ifndef MOED_TESTS_SCHEDULER_STRICT_ENGINE_H_
#define MOED_TESTS_SCHEDULER_STRICT_ENGINE_H_

#include <algorithm>
#include <cstdint>
#include <deque>
#include <map>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "base/logging.h"
#include "engine/engine.h"

namespace moed {

// What the engine computes, one token at a time.
struct TokenChain {
  uint64_t hash = 0x243f6a8885a308d3;

  void Append(int32_t token) {
    hash ^= static_cast<uint32_t>(token) + 0x9e3779b97f4a7c15 + (hash << 6) + (hash >> 2);
    hash *= 0xff51afd7ed558ccd;
    hash ^= hash >> 33;
  }
  // The n-th token of an output depends on the request's seed, as a sampler's does.
  int32_t Next(uint64_t seed, int32_t n, int32_t vocab_size) const {
    TokenChain draw = *this;
    draw.Append(static_cast<int32_t>(seed));
    draw.Append(n);
    return static_cast<int32_t>(draw.hash % static_cast<uint64_t>(vocab_size));
  }
};

// The output of a request that has the engine to itself.
inline std::vector<int32_t> OutputAlone(const std::vector<int32_t>& prompt, const SamplingParams& params,
                                        int32_t max_positions, int32_t vocab_size) {
  TokenChain chain;
  for (const int32_t token : prompt) chain.Append(token);
  std::vector<int32_t> output;
  const int32_t room = max_positions - static_cast<int32_t>(prompt.size());
  while (std::ssize(output) < std::min(params.max_tokens, room)) {
    const int32_t n = static_cast<int32_t>(output.size());
    const int32_t token = chain.Next(params.seed.value(), n, vocab_size);
    output.push_back(token);
    chain.Append(token);
    if (n >= params.min_tokens && std::ranges::count(params.stop_token_ids, token) > 0) break;
  }
  return output;
}

class StrictEngine {
 public:
  explicit StrictEngine(const EngineInfo& info) : info_(info), slots_(info.max_slots) {
    for (const CacheGroupInfo& group : info.cache_groups) {
      cells_.emplace_back(static_cast<size_t>(group.num_blocks) * group.block_size);
      host_cells_.emplace_back(static_cast<size_t>(group.num_host_blocks) * group.block_size);
    }
  }

  int num_outstanding() const { return static_cast<int>(outstanding_.size()); }

  void Submit(StepPlan plan) {
    MOED_CHECK(num_outstanding() < info_.max_steps_in_flight);
    CheckShape(plan);
    Step step{std::move(plan), {}, {}};
    for (int g = 0; g < std::ssize(info_.cache_groups); ++g) CollectUses(g, &step);
    CheckSharing(step, step);
    CheckTransfers(step.plan, step);
    for (const Step& other : outstanding_) {
      CheckTransfers(step.plan, other);
      CheckSharing(step, other);
      CheckSharing(other, step);
    }
    outstanding_.push_back(std::move(step));
  }

  // Computes the oldest step. Like a device it starts late: whatever the planner did meanwhile must not matter.
  StepResult Collect() {
    const StepPlan plan = Take();
    Spoil(plan.transfers, Cell{});
    for (const SlotInit& init : plan.slot_inits) slots_[init.slot] = {init.seed, init.output_ids};
    for (int32_t s = 0; s < plan.num_sequences(); ++s) {
      for (int32_t t = plan.query_starts[s]; t < plan.query_starts[s + 1]; ++t) Write(plan, s, t);
      CheckContext(plan, s);
    }
    for (const BlockTransfer& transfer : plan.transfers) Transfer(transfer);
    StepResult result;
    result.step = plan.step;
    for (const LogitsRow& row : plan.logits_rows) result.rows.push_back(Sample(plan, row));
    return result;
  }

  // The oldest step fails as a whole, halfway through.
  void Fail() {
    const StepPlan plan = Take();
    Spoil(plan.transfers, Cell{.failed = true});
    for (const SlotInit& init : plan.slot_inits) slots_[init.slot] = {init.seed, init.output_ids};
    for (int32_t s = 0; s < plan.num_sequences(); ++s) {
      for (int32_t t = plan.query_starts[s]; t < plan.query_starts[s + 1]; ++t) {
        for (int g = 0; g < std::ssize(cells_); ++g) At(plan, g, s, plan.positions[t]) = Cell{};
      }
      // A step behind this one may still name the token that this one should have sampled.
      if (slots_[plan.slots[s]].output.empty()) slots_[plan.slots[s]].output.push_back(0);
      slots_[plan.slots[s]].failed = true;
    }
  }

 private:
  struct Cell {
    int32_t token = -1;
    uint64_t hash = 0;
    bool failed = false;  // was to come from the host in a step that failed
  };
  struct Slot {
    uint64_t seed = 0;
    std::vector<int32_t> output;
    bool failed = false;
  };
  using GroupBlock = std::pair<int, int32_t>;
  struct Step {
    StepPlan plan;
    std::map<GroupBlock, int32_t> written;          // by which slot
    std::map<GroupBlock, std::set<int32_t>> named;  // in the tables of which slots
  };

  StepPlan Take() {
    MOED_CHECK(!outstanding_.empty());
    StepPlan plan = std::move(outstanding_.front().plan);
    outstanding_.pop_front();
    return plan;
  }

  void CheckShape(const StepPlan& plan) const {
    const int32_t num_sequences = plan.num_sequences();
    MOED_CHECK(plan.block_tables.size() == info_.cache_groups.size());
    if (num_sequences == 0) {
      // Nothing but transfers.
      MOED_CHECK(!plan.transfers.empty() && plan.token_ids.empty() && plan.query_starts.empty());
      for (const BlockTables& tables : plan.block_tables) MOED_CHECK(tables.starts.empty() && tables.ids.empty());
      return;
    }
    MOED_CHECK(plan.num_tokens() <= info_.max_tokens_per_step);
    MOED_CHECK(std::ssize(plan.query_starts) == num_sequences + 1 && plan.query_starts.front() == 0);
    MOED_CHECK(plan.query_starts.back() == plan.num_tokens() && std::ssize(plan.positions) == plan.num_tokens());
    const std::set<int32_t> slots(plan.slots.begin(), plan.slots.end());
    MOED_CHECK(std::ssize(slots) == num_sequences && *slots.begin() >= 0 && *slots.rbegin() < info_.max_slots);
    for (int32_t s = 0; s < num_sequences; ++s) {
      MOED_CHECK(plan.query_starts[s] < plan.query_starts[s + 1], "sequence {} has no token", s);
      for (int32_t t = plan.query_starts[s] + 1; t < plan.query_starts[s + 1]; ++t) {
        MOED_CHECK(plan.positions[t] == plan.positions[t - 1] + 1);
      }
      MOED_CHECK(plan.positions[plan.query_starts[s + 1] - 1] < info_.max_context);
    }
    for (const BlockTables& tables : plan.block_tables) {
      MOED_CHECK(std::ssize(tables.starts) == num_sequences + 1 && tables.starts.front() == 0);
      MOED_CHECK(tables.starts.back() == std::ssize(tables.ids));
    }
  }

  void CollectUses(int g, Step* step) const {
    const CacheGroupInfo& group = info_.cache_groups[g];
    const StepPlan& plan = step->plan;
    const BlockTables& tables = plan.block_tables[g];
    for (int32_t s = 0; s < plan.num_sequences(); ++s) {
      const int32_t first = plan.positions[plan.query_starts[s]] / group.block_size;
      const int32_t last = plan.positions[plan.query_starts[s + 1] - 1] / group.block_size;
      MOED_CHECK(last < tables.starts[s + 1] - tables.starts[s], "no block for the last token of sequence {}", s);
      for (int32_t i = 0; i < tables.starts[s + 1] - tables.starts[s]; ++i) {
        const int32_t block = tables.ids[tables.starts[s] + i];
        MOED_CHECK(block >= -1 && block < group.num_blocks, "block {}", block);
        // What lies before the window is not read, though the table may name it still.
        const int32_t visible = group.window == 0 ? 0 : plan.positions[plan.query_starts[s]] - group.window + 1;
        if (block < 0 || (i + 1) * group.block_size <= visible) continue;
        step->named[{g, block}].insert(plan.slots[s]);
        if (i < first || i > last) continue;
        MOED_CHECK(step->written.emplace(GroupBlock{g, block}, plan.slots[s]).second, "block {} has two writers",
                   block);
      }
    }
  }

  // Nobody may see a block that somebody else writes to in the same step or in another that is under way: neither
  // share it before it is filled, nor get it before its last user is through.
  static void CheckSharing(const Step& writer, const Step& user) {
    for (const auto& [block, slot] : writer.written) {
      const auto it = user.named.find(block);
      if (it == user.named.end()) continue;
      MOED_CHECK(it->second.size() == 1 && it->second.contains(slot), "block {} of group {} is written by slot {}",
                 block.second, block.first, slot);
    }
  }

  // What the plan's transfers read is there, whole, and nobody has to do with what they write, in the plan's own step
  // or in one that is under way.
  void CheckTransfers(const StepPlan& plan, const Step& other) const {
    std::set<GroupBlock> blocks, host_blocks;  // written by a transfer
    for (const BlockTransfer& transfer : plan.transfers) {
      const GroupBlock block{transfer.group, transfer.block}, host_block{transfer.group, transfer.host_block};
      const CacheGroupInfo& group = info_.cache_groups.at(transfer.group);
      MOED_CHECK(transfer.block >= 0 && transfer.block < group.num_blocks, "block {}", transfer.block);
      MOED_CHECK(transfer.host_block >= 0 && transfer.host_block < group.num_host_blocks);
      MOED_CHECK(!other.written.contains(block), "block {} is moved and written", transfer.block);
      MOED_CHECK(transfer.to_host || !other.named.contains(block), "block {} is filled and read", transfer.block);
      MOED_CHECK(transfer.to_host ? host_blocks.insert(host_block).second : blocks.insert(block).second,
                 "two transfers write to one place");
    }
    for (const BlockTransfer& transfer : plan.transfers) {
      const GroupBlock block{transfer.group, transfer.block}, host_block{transfer.group, transfer.host_block};
      MOED_CHECK(transfer.to_host ? !blocks.contains(block) : !host_blocks.contains(host_block),
                 "a transfer reads what another writes");
    }
  }

  std::span<Cell> BlockOf(std::vector<std::vector<Cell>>* cells, int32_t g, int32_t block) {
    const size_t size = info_.cache_groups[g].block_size;
    return std::span(cells->at(g)).subspan(block * size, size);
  }

  // Nobody may rely on what is written by transfers before the step is through.
  void Spoil(const std::vector<BlockTransfer>& transfers, const Cell& with) {
    for (const auto& [group, block, host_block, to_host] : transfers) {
      std::ranges::fill(to_host ? BlockOf(&host_cells_, group, host_block) : BlockOf(&cells_, group, block), with);
    }
  }

  void Transfer(const BlockTransfer& transfer) {
    const std::span<Cell> here = BlockOf(&cells_, transfer.group, transfer.block);
    const std::span<Cell> there = BlockOf(&host_cells_, transfer.group, transfer.host_block);
    for (const Cell& cell : transfer.to_host ? here : there) MOED_CHECK(cell.token >= 0, "a block with holes is moved");
    transfer.to_host ? std::ranges::copy(here, there.begin()) : std::ranges::copy(there, here.begin());
  }

  Cell& At(const StepPlan& plan, int g, int32_t s, int32_t position) {
    const int32_t size = info_.cache_groups[g].block_size;
    const BlockTables& tables = plan.block_tables[g];
    const int32_t block = tables.ids[tables.starts[s] + position / size];
    MOED_CHECK(block >= 0, "position {} of sequence {} was given back", position, s);
    return cells_[g][static_cast<size_t>(block) * size + position % size];
  }

  void Write(const StepPlan& plan, int32_t s, int32_t t) {
    const int32_t position = plan.positions[t];
    const Slot& slot = slots_[plan.slots[s]];
    int32_t token = plan.token_ids[t];
    if (token == kPendingToken) {
      MOED_CHECK(!slot.output.empty(), "slot {} has not sampled", plan.slots[s]);
      token = slot.output.back();
    }
    MOED_CHECK(token >= 0 && token < info_.vocab_size);
    TokenChain chain;
    if (position > 0) chain.hash = At(plan, 0, s, position - 1).hash;
    chain.Append(token);
    for (int g = 0; g < std::ssize(cells_); ++g) At(plan, g, s, position) = {.token = token, .hash = chain.hash};
  }

  bool ReadsFailed(const StepPlan& plan, int32_t s) {
    const int32_t last = plan.positions[plan.query_starts[s + 1] - 1];
    for (int g = 0; g < std::ssize(cells_); ++g) {
      const int32_t window = info_.cache_groups[g].window;
      for (int32_t position = window == 0 ? 0 : std::max(0, last - window + 1); position <= last; ++position) {
        if (At(plan, g, s, position).failed) return true;
      }
    }
    return false;
  }

  // All that the last token sees is one sequence of tokens, in every group.
  void CheckContext(const StepPlan& plan, int32_t s) {
    Slot& slot = slots_[plan.slots[s]];
    const int32_t last = plan.positions[plan.query_starts[s + 1] - 1];
    // A step behind one that failed may build on what did not come; its sequence has ended.
    slot.failed = slot.failed || ReadsFailed(plan, s);
    if (slot.failed) return;
    const uint64_t hash = At(plan, 0, s, last).hash;
    for (int g = 0; g < std::ssize(cells_); ++g) {
      const int32_t window = info_.cache_groups[g].window;
      const int32_t first = window == 0 ? 0 : std::max(0, last - window + 1);
      TokenChain chain;
      if (first > 0) chain.hash = At(plan, g, s, first).hash;
      for (int32_t position = first; position <= last; ++position) {
        const Cell& cell = At(plan, g, s, position);
        if (position > first || first == 0) chain.Append(cell.token);
        MOED_CHECK(cell.token >= 0 && cell.hash == chain.hash,
                   "position {} of slot {}, step {}, group {} is not its own", position, plan.slots[s], plan.step, g);
      }
      MOED_CHECK(chain.hash == hash, "group {} holds another sequence", g);
    }
  }

  RowResult Sample(const StepPlan& plan, const LogitsRow& row) {
    MOED_CHECK(row.token + 1 == plan.query_starts[row.sequence + 1]);
    Slot& slot = slots_[plan.slots[row.sequence]];
    const int32_t last = plan.positions[row.token];
    const int32_t n = static_cast<int32_t>(slot.output.size());
    MOED_CHECK(slot.failed || n == 0 || At(plan, 0, row.sequence, last).token == slot.output.back(),
               "slot {} does not remember its output", plan.slots[row.sequence]);
    TokenChain chain;
    chain.hash = At(plan, 0, row.sequence, last).hash;
    slot.output.push_back(chain.Next(slot.seed, n, info_.vocab_size));
    RowResult result;
    result.tokens.push_back(slot.output.back());
    return result;
  }

  const EngineInfo info_;
  std::vector<std::vector<Cell>> cells_;       // [num_groups][num_blocks * block_size]
  std::vector<std::vector<Cell>> host_cells_;  // [num_groups][num_host_blocks * block_size]
  std::vector<Slot> slots_;
  std::deque<Step> outstanding_;
};

}  // namespace moed

#endif  // MOED_TESTS_SCHEDULER_STRICT_ENGINE_H_
