#include "engine/batch_bench.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <random>
#include <span>
#include <vector>

#include "kernels/gemm/packed_weight.h"
#include "model/model_config.h"

namespace moed {
namespace {

using kernels::CeilingMeter;
using kernels::Ceilings;
using kernels::PackedWeight;

double Seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

double Bytes(const PackedWeight& weight) {
  return static_cast<double>(kernels::PackedBytes(weight.n, weight.k, weight.format));
}

// What a step reads of the weights.
struct WeightTraffic {
  double always = 0;               // attention, routers, dense layers, LM head
  std::vector<double> per_expert;  // [MoE layers]
};

WeightTraffic TrafficOf(const MoeEngine& engine) {
  WeightTraffic traffic;
  const ModelConfig& config = engine.model_config();
  const ModelWeights& weights = engine.weights();
  double experts = 0;
  for (int32_t l = 0; l < config.num_layers(); ++l) {
    if (!config.layers[l].is_moe) continue;
    const ExpertWeights& layer = weights.layer(l).experts;
    traffic.per_expert.push_back(Bytes(layer.gate[0]) + Bytes(layer.up[0]) + Bytes(layer.down[0]));
    experts += traffic.per_expert.back() * static_cast<double>(layer.gate.size());
  }
  // Of an embedding that is not the head only the tokens' rows are read.
  const EmbeddingWeights& table = weights.embedding();
  const double embedding = !table.table.empty()     ? static_cast<double>(table.table.num_bytes())
                           : config.tied_embeddings ? 0.0
                                                    : Bytes(table.packed);
  traffic.always = static_cast<double>(weights.num_bytes()) - embedding - experts;
  return traffic;
}

// What the device has to give to this engine now.
absl::StatusOr<Ceilings> SampleCeilings(const MoeEngine& engine) {
  const ExecContext& ctx = engine.exec_context();
  if (ctx.device.type == DeviceType::kCuda) {
    Ceilings ceilings;
    MOED_ASSIGN_OR_RETURN(ceilings.bytes, kernels::CudaCopyBandwidth(ctx));
    const auto operations = kernels::CublasOperations(ctx);
    if (!operations.ok() && !absl::IsNotFound(operations.status())) return operations.status();
    ceilings.operations = ceilings.attention_operations = operations.value_or(0.0);
    return ceilings;
  }
  static constexpr size_t kMemory = size_t{192} << 20;
  static const std::vector<char> memory(kMemory, 1);
  // Experts are most of what is computed.
  const PackedWeight& typical = engine.weights().layer(engine.model_config().num_layers() - 1).experts.gate[0];
  return Ceilings{.operations = kernels::PeakOperations(ctx, typical.format),
                  .bytes = kernels::ReadBandwidth(ctx, memory.data(), memory.size()),
                  .attention_operations = kernels::PeakOperations(ctx, kernels::WeightFormat::F32())};
}

// What a query at `position` multiplies and adds in all layers.
double AttentionOperations(const ModelConfig& config, std::span<const CacheSpec> specs, int32_t position) {
  double operations = 0;
  for (const CacheSpec& spec : specs) {
    const int32_t seen = spec.window > 0 ? std::min(spec.window, position + 1) : position + 1;
    operations += 2.0 * config.attention.num_heads * (spec.k_head_dim + spec.v_head_dim) * seen;
  }
  return operations;
}

class BatchBench {
 public:
  BatchBench(MoeEngine& engine, const BatchBenchOptions& options)
      : engine_(engine),
        info_(engine.info()),
        options_(options),
        traffic_(TrafficOf(engine)),
        cache_specs_(CacheSpecs(engine.model_config(), DType::kF32)),
        operations_per_logits_row_(2.0 * static_cast<double>(engine.weights().lm_head().weight.n) *
                                   static_cast<double>(engine.weights().lm_head().weight.k)),
        operations_per_token_(2.0 * static_cast<double>(CountParameters(engine.model_config()).active) -
                              operations_per_logits_row_) {}

  absl::StatusOr<BatchBenchResult> Run() {
    MOED_RETURN_IF_ERROR(Check());
    std::mt19937_64 random(options_.seed);
    next_tokens_.resize(options_.batch);
    prompts_.assign(options_.batch, std::vector<int32_t>(options_.prompt));
    for (std::vector<int32_t>& prompt : prompts_) {
      for (int32_t& id : prompt) id = static_cast<int32_t>(random() % info_.vocab_size);
    }
    BatchBenchResult result;
    MOED_ASSIGN_OR_RETURN(const Ceilings first, SampleCeilings(engine_));
    meter_ = CeilingMeter(first);
    MOED_RETURN_IF_ERROR(Prefill(&result.prefill));
    MOED_RETURN_IF_ERROR(EndPhase(&result.prefill));
    for (int32_t i = 0; i < options_.generate; ++i) MOED_RETURN_IF_ERROR(DecodeStep(i, &result.decode));
    if (options_.generate > 0) MOED_RETURN_IF_ERROR(EndPhase(&result.decode));
    return result;
  }

 private:
  // The sample that ends a phase is the first of the next.
  absl::Status EndPhase(PhaseResult* phase) {
    MOED_ASSIGN_OR_RETURN(const Ceilings sample, SampleCeilings(engine_));
    meter_.Add(sample);
    phase->ceilings = meter_.mean();
    meter_ = CeilingMeter(sample);
    return absl::OkStatus();
  }

  int32_t BlocksOfSequence(const CacheGroupInfo& group) const {
    return (options_.prompt + options_.generate + group.block_size - 1) / group.block_size;
  }

  absl::Status Check() const {
    if (options_.batch < 1 || options_.prompt < 1 || options_.generate < 0) {
      return InvalidArgument("batch is {}, prompt {}, generate {}; they must be at least 1, 1 and 0", options_.batch,
                             options_.prompt, options_.generate);
    }
    if (options_.batch > info_.max_slots) {
      return InvalidArgument("batch is {}; the engine runs {} sequences at once", options_.batch, info_.max_slots);
    }
    if (options_.prompt + options_.generate > info_.max_context) {
      return InvalidArgument("prompt and generate are {} and {}; the context holds {}", options_.prompt,
                             options_.generate, info_.max_context);
    }
    for (const CacheGroupInfo& group : info_.cache_groups) {
      const int64_t needed = int64_t{BlocksOfSequence(group)} * options_.batch;
      if (needed > group.num_blocks) {
        return InvalidArgument("batch {} with {} tokens each takes {} blocks of the KV cache, which has {}",
                               options_.batch, options_.prompt + options_.generate, needed, group.num_blocks);
      }
    }
    return absl::OkStatus();
  }

  // Adds `count` tokens of a sequence from position `first` on.
  void Add(int32_t sequence, int32_t first, int32_t count, bool sample, StepPlan* plan) const {
    if (plan->query_starts.empty()) {
      plan->query_starts.push_back(0);
      plan->block_tables.resize(info_.cache_groups.size());
      for (BlockTables& tables : plan->block_tables) tables.starts.push_back(0);
    }
    for (int32_t position = first; position < first + count; ++position) {
      plan->token_ids.push_back(position < options_.prompt ? prompts_[sequence][position] : next_tokens_[sequence]);
      plan->positions.push_back(position);
    }
    if (sample) plan->logits_rows.push_back({plan->num_tokens() - 1, plan->num_sequences(), true, false});
    plan->query_starts.push_back(plan->num_tokens());
    plan->slots.push_back(sequence);
    for (size_t g = 0; g < plan->block_tables.size(); ++g) {
      BlockTables& tables = plan->block_tables[g];
      const int32_t blocks = BlocksOfSequence(info_.cache_groups[g]);
      for (int32_t b = 0; b < blocks; ++b) tables.ids.push_back(sequence * blocks + b);
      tables.starts.push_back(static_cast<int32_t>(tables.ids.size()));
    }
  }

  absl::Status RunStep(const StepPlan& plan, PhaseResult* phase) {
    const double start = Seconds();
    MOED_ASSIGN_OR_RETURN(const Engine::Ticket ticket, engine_.Submit(plan));
    MOED_ASSIGN_OR_RETURN(const StepResult result, engine_.Collect(ticket));
    const double seconds = Seconds() - start;
    phase->seconds += seconds;
    meter_.Ran(seconds);
    phase->steps += 1;
    phase->tokens += plan.num_tokens();
    phase->operations += operations_per_token_ * plan.num_tokens() +
                         operations_per_logits_row_ * static_cast<double>(plan.logits_rows.size());
    for (const int32_t position : plan.positions) {
      phase->attention_operations += AttentionOperations(engine_.model_config(), cache_specs_, position);
    }
    phase->bytes += traffic_.always;
    for (size_t layer = 0; layer < result.expert_loads.size(); ++layer) {
      const auto& loads = result.expert_loads[layer];
      phase->bytes += traffic_.per_expert[layer] *
                      static_cast<double>(std::count_if(loads.begin(), loads.end(), [](int32_t n) { return n > 0; }));
    }
    const double kv_bytes = static_cast<double>(engine_.memory_plan().kv_bytes_per_token);
    for (int32_t s = 0; s < plan.num_sequences(); ++s) {
      phase->bytes += kv_bytes * (plan.positions[plan.query_starts[s + 1] - 1] + 1);
    }
    for (size_t r = 0; r < result.rows.size(); ++r) {
      MOED_RETURN_IF_ERROR(result.rows[r].status);
      next_tokens_[plan.slots[plan.logits_rows[r].sequence]] = result.rows[r].tokens.at(0);
    }
    // A GPU is one's own as a rule, and a sample of it takes many steps' time.
    if (!meter_.IsDue() || engine_.exec_context().device.type == DeviceType::kCuda) return absl::OkStatus();
    MOED_ASSIGN_OR_RETURN(const Ceilings sample, SampleCeilings(engine_));
    meter_.Add(sample);
    return absl::OkStatus();
  }

  absl::Status Prefill(PhaseResult* phase) {
    StepPlan plan;
    for (int32_t sequence = 0; sequence < options_.batch; ++sequence) {
      for (int32_t done = 0; done < options_.prompt;) {
        const int32_t count = std::min(options_.prompt - done, info_.max_tokens_per_step - plan.num_tokens());
        if (done == 0) {
          SamplingParams params;
          params.temperature = 0;
          params.ignore_eos = true;
          plan.slot_inits.push_back(
              {.slot = sequence, .params = params, .seed = 0, .prompt_ids = {}, .output_ids = {}});
        }
        Add(sequence, done, count, done + count == options_.prompt, &plan);
        done += count;
        const bool is_last = sequence + 1 == options_.batch && done == options_.prompt;
        if (plan.num_tokens() == info_.max_tokens_per_step || is_last) {
          plan.step = step_++;
          MOED_RETURN_IF_ERROR(RunStep(plan, phase));
          plan = StepPlan();
        }
      }
    }
    return absl::OkStatus();
  }

  absl::Status DecodeStep(int32_t index, PhaseResult* phase) {
    StepPlan plan;
    plan.step = step_++;
    for (int32_t sequence = 0; sequence < options_.batch; ++sequence) {
      Add(sequence, options_.prompt + index, 1, true, &plan);
    }
    return RunStep(plan, phase);
  }

  MoeEngine& engine_;
  const EngineInfo& info_;
  const BatchBenchOptions options_;
  const WeightTraffic traffic_;
  const std::vector<CacheSpec> cache_specs_;  // whatever the type of the elements
  const double operations_per_logits_row_;    // of the LM head, which only the sampled rows go through
  const double operations_per_token_;         // of everything else
  std::vector<std::vector<int32_t>> prompts_;
  std::vector<int32_t> next_tokens_;
  uint64_t step_ = 0;
  CeilingMeter meter_{Ceilings()};  // of the phase that runs
};

}  // namespace

double PhaseResult::OfPeakOperations() const {
  if (ceilings.operations == 0 || ceilings.attention_operations == 0) return 0;
  return (operations / ceilings.operations + attention_operations / ceilings.attention_operations) / seconds;
}

absl::StatusOr<BatchBenchResult> RunBatchBench(MoeEngine& engine, const BatchBenchOptions& options) {
  return BatchBench(engine, options).Run();
}

}  // namespace moed
