#include "engine/score.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace moed {
namespace {

// A prompt that is being computed.
struct Active {
  size_t prompt = 0;
  int32_t slot = 0;
  int32_t computed = 0;
  std::vector<std::vector<int32_t>> blocks;  // [groups][blocks]
};

class Scorer {
 public:
  Scorer(Engine& engine, std::span<const std::vector<int32_t>> prompts, int32_t chunk, const LogitsSink& sink)
      : engine_(engine),
        info_(engine.info()),
        prompts_(prompts),
        chunk_(chunk > 0 ? chunk : std::numeric_limits<int32_t>::max()),
        sink_(sink) {
    for (int32_t slot = info_.max_slots; slot-- > 0;) free_slots_.push_back(slot);
    for (const CacheGroupInfo& group : info_.cache_groups) {
      auto& blocks = free_blocks_.emplace_back();
      for (int32_t block = group.num_blocks; block-- > 0;) blocks.push_back(block);
    }
  }

  absl::Status Run() {
    MOED_RETURN_IF_ERROR(CheckPrompts());
    while (next_ < prompts_.size() || !active_.empty()) {
      Admit();
      MOED_RETURN_IF_ERROR(Step());
    }
    return absl::OkStatus();
  }

 private:
  int64_t BlocksOf(size_t prompt, size_t group) const {
    const int64_t size = info_.cache_groups[group].block_size;
    return (static_cast<int64_t>(prompts_[prompt].size()) + size - 1) / size;
  }

  absl::Status CheckPrompts() const {
    for (size_t p = 0; p < prompts_.size(); ++p) {
      const std::vector<int32_t>& ids = prompts_[p];
      if (ids.empty()) return InvalidArgument("prompt {} is empty; it needs at least one token", p);
      if (ids.size() > static_cast<size_t>(info_.max_context)) {
        return InvalidArgument("prompt {} has {} tokens; the context holds {}", p, ids.size(), info_.max_context);
      }
      for (size_t i = 0; i < ids.size(); ++i) {
        if (ids[i] < 0 || ids[i] >= info_.vocab_size) {
          return InvalidArgument("prompt {}, token {} is {}; ids are in [0, {})", p, i, ids[i], info_.vocab_size);
        }
      }
      for (size_t g = 0; g < info_.cache_groups.size(); ++g) {
        if (BlocksOf(p, g) > info_.cache_groups[g].num_blocks) {
          return InvalidArgument("prompt {} has {} tokens; the KV cache holds {}", p, ids.size(),
                                 int64_t{info_.cache_groups[g].num_blocks} * info_.cache_groups[g].block_size);
        }
      }
    }
    return absl::OkStatus();
  }

  void Admit() {
    while (next_ < prompts_.size() && !free_slots_.empty()) {
      for (size_t g = 0; g < free_blocks_.size(); ++g) {
        if (BlocksOf(next_, g) > static_cast<int64_t>(free_blocks_[g].size())) return;
      }
      Active& active = active_.emplace_back();
      active.prompt = next_;
      active.slot = free_slots_.back();
      free_slots_.pop_back();
      for (size_t g = 0; g < free_blocks_.size(); ++g) {
        const auto end = free_blocks_[g].end(), begin = end - BlocksOf(next_, g);
        active.blocks.emplace_back(begin, end);
        free_blocks_[g].erase(begin, end);
      }
      ++next_;
    }
  }

  StepPlan Plan() {
    StepPlan plan;
    plan.step = step_++;
    plan.query_starts.push_back(0);
    plan.block_tables.resize(info_.cache_groups.size());
    for (BlockTables& tables : plan.block_tables) tables.starts.push_back(0);
    int32_t budget = info_.max_tokens_per_step;
    for (const Active& active : active_) {
      const std::vector<int32_t>& ids = prompts_[active.prompt];
      const int32_t count = std::min({budget, chunk_, static_cast<int32_t>(ids.size()) - active.computed});
      if (count == 0) break;
      budget -= count;
      const int32_t sequence = plan.num_sequences();
      for (int32_t i = 0; i < count; ++i) {
        plan.logits_rows.push_back({plan.num_tokens(), sequence, /*sample=*/false, /*return_logits=*/true});
        plan.token_ids.push_back(ids[active.computed + i]);
        plan.positions.push_back(active.computed + i);
      }
      plan.query_starts.push_back(plan.num_tokens());
      plan.slots.push_back(active.slot);
      for (size_t g = 0; g < plan.block_tables.size(); ++g) {
        BlockTables& tables = plan.block_tables[g];
        tables.ids.insert(tables.ids.end(), active.blocks[g].begin(), active.blocks[g].end());
        tables.starts.push_back(static_cast<int32_t>(tables.ids.size()));
      }
    }
    return plan;
  }

  absl::Status Step() {
    const StepPlan plan = Plan();
    MOED_ASSIGN_OR_RETURN(const Engine::Ticket ticket, engine_.Submit(plan));
    MOED_ASSIGN_OR_RETURN(const StepResult result, engine_.Collect(ticket));
    for (size_t r = 0; r < plan.logits_rows.size(); ++r) {
      const LogitsRow& row = plan.logits_rows[r];
      sink_(active_[row.sequence].prompt, plan.positions[row.token], result.rows[r].logits);
    }
    for (int32_t s = 0; s < plan.num_sequences(); ++s) {
      active_[s].computed += plan.query_starts[s + 1] - plan.query_starts[s];
    }
    std::erase_if(active_, [this](const Active& active) {
      if (active.computed < static_cast<int32_t>(prompts_[active.prompt].size())) return false;
      free_slots_.push_back(active.slot);
      for (size_t g = 0; g < free_blocks_.size(); ++g) {
        free_blocks_[g].insert(free_blocks_[g].end(), active.blocks[g].begin(), active.blocks[g].end());
      }
      return true;
    });
    return absl::OkStatus();
  }

  Engine& engine_;
  const EngineInfo& info_;
  const std::span<const std::vector<int32_t>> prompts_;
  const int32_t chunk_;
  const LogitsSink& sink_;
  size_t next_ = 0;
  uint64_t step_ = 0;
  std::vector<Active> active_;
  std::vector<int32_t> free_slots_;
  std::vector<std::vector<int32_t>> free_blocks_;  // [groups]
};

}  // namespace

absl::Status ScorePrompts(Engine& engine, std::span<const std::vector<int32_t>> prompts, int32_t chunk,
                          const LogitsSink& sink) {
  return Scorer(engine, prompts, chunk, sink).Run();
}

}  // namespace moed
