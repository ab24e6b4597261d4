// How fast an engine computes at a given batch size, without scheduler and server: the ceiling of what serving can
// reach, and itself a fraction of what the machine has to give.
#ifndef MOED_ENGINE_BATCH_BENCH_H_
#define MOED_ENGINE_BATCH_BENCH_H_

#include <cstdint>

#include "base/status.h"
#include "engine/moe_engine.h"
#include "kernels/machine_peaks/machine_peaks.h"

namespace moed {

struct BatchBenchOptions {
  int32_t batch = 1;      // sequences
  int32_t prompt = 128;   // random tokens of each
  int32_t generate = 64;  // tokens of each, drawn greedily
  uint64_t seed = 0;      // of the prompts
};

// One phase: all prompts, or all generated tokens.
struct PhaseResult {
  int64_t tokens = 0;
  int64_t steps = 0;
  double seconds = 0;
  // Weights that the steps had to read at least (of the experts, those with tokens) and KV cache that attention reads.
  double bytes = 0;
  // Multiplications and additions of the products with weights, and of queries with keys and of probabilities with
  // values.
  double operations = 0;
  double attention_operations = 0;
  // What the device had to give meanwhile: the mean of samples taken between steps. Of a GPU, taken before and after,
  // a large product by cuBLAS (0 where the machine has none) and a copy inside its memory.
  kernels::Ceilings ceilings;

  // The time that all operations take at the ceilings, as a fraction of the time that they took; 0 where the ceilings
  // are not known.
  double OfPeakOperations() const;
};

struct BatchBenchResult {
  PhaseResult prefill;
  PhaseResult decode;
};

// Runs all prompts, in steps as large as the engine takes, then a token of every sequence at a time. INVALID_ARGUMENT
// where the engine has too few slots, positions or blocks.
absl::StatusOr<BatchBenchResult> RunBatchBench(MoeEngine& engine, const BatchBenchOptions& options);

}  // namespace moed

#endif  // MOED_ENGINE_BATCH_BENCH_H_
