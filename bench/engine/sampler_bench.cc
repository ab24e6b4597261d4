// One token from a row of logits, on one core: what a decode step pays for each sequence beside the model.
#include "engine/sampler.h"

#include <benchmark/benchmark.h>

#include <random>
#include <vector>

namespace moed::bench {
namespace {

// Most of the probability on few tokens, as a language model has it.
std::vector<float> Logits(int64_t vocab) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0.0f, 3.0f);
  std::vector<float> logits(vocab);
  for (float& logit : logits) logit = normal(random);
  return logits;
}

void Run(benchmark::State& state, const SamplingParams& params) {
  const std::vector<float> logits = Logits(state.range(0));
  std::vector<float> row;
  SamplerSlot slot(SlotInit{.params = params, .seed = 1});
  for (auto _ : state) {
    row = logits;
    benchmark::DoNotOptimize(SampleRow({}, row, &slot));
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
}

void BM_Greedy(benchmark::State& state) { Run(state, {.temperature = 0.0f}); }
void BM_Temperature(benchmark::State& state) { Run(state, {.temperature = 0.7f}); }
void BM_TopP(benchmark::State& state) { Run(state, {.temperature = 0.7f, .top_p = 0.95f}); }
void BM_TopK(benchmark::State& state) { Run(state, {.temperature = 0.7f, .top_k = 50}); }
void BM_Logprobs(benchmark::State& state) { Run(state, {.temperature = 0.0f, .logprobs = 5}); }
BENCHMARK(BM_Greedy)->Arg(32000)->Arg(151936);
BENCHMARK(BM_Temperature)->Arg(32000)->Arg(151936);
BENCHMARK(BM_TopP)->Arg(32000)->Arg(151936);
BENCHMARK(BM_TopK)->Arg(32000)->Arg(151936);
BENCHMARK(BM_Logprobs)->Arg(32000)->Arg(151936);

}  // namespace
}  // namespace moed::bench

BENCHMARK_MAIN();
