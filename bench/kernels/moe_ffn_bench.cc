// The experts' feed-forward of one layer in the shapes of real models, tokens spread evenly over random experts.
#include "kernels/moe_ffn/moe_ffn.h"

#include <numeric>
#include <random>

#include "bench/kernels/bench_support.h"

namespace moed::bench {
namespace {

using kernels::WeightFormat;

struct Layer {
  int64_t hidden, intermediate;
  int num_experts, top_k;
};
constexpr Layer kOlmoe = {2048, 1024, 64, 8};
constexpr Layer kSmall = {1024, 512, 32, 4};

// top_k distinct random experts for each token, grouped by expert.
struct Routing {
  Routing(int64_t num_tokens, const Layer& layer)
      : weights(num_tokens * layer.top_k, 1.0f / layer.top_k), offsets(layer.num_experts + 1) {
    std::mt19937 random(1);
    std::vector<std::vector<int32_t>> pairs(layer.num_experts);
    std::vector<int> experts(layer.num_experts);
    std::iota(experts.begin(), experts.end(), 0);
    for (int64_t token = 0; token < num_tokens; ++token) {
      std::shuffle(experts.begin(), experts.end(), random);
      for (int choice = 0; choice < layer.top_k; ++choice) {
        pairs[experts[choice]].push_back(static_cast<int32_t>(token * layer.top_k + choice));
      }
    }
    for (int expert = 0; expert < layer.num_experts; ++expert) {
      active += pairs[expert].empty() ? 0 : 1;
      sorted.insert(sorted.end(), pairs[expert].begin(), pairs[expert].end());
      offsets[expert + 1] = static_cast<int32_t>(sorted.size());
    }
  }

  std::vector<float> weights;
  std::vector<int32_t> sorted, offsets;
  int active = 0;  // experts with tokens
};

void BM_MoeFfn(benchmark::State& state, const Layer& layer, WeightFormat format) {
  const int64_t num_tokens = state.range(0), num_pairs = num_tokens * layer.top_k;
  Machine& machine = Machine::Get();
  const Routing routing(num_tokens, layer);
  std::vector<float> x(num_tokens * layer.hidden, 0.5f), out(num_tokens * layer.hidden);
  std::vector<kernels::PackedWeight> gate(layer.num_experts), up = gate, down = gate;
  kernels::MoeFfnArgs args;
  args.x = TensorView(x.data(), {num_tokens, layer.hidden}, DType::kF32);
  args.num_experts = layer.num_experts;
  args.gate = gate.data();
  args.up = up.data();
  args.down = down.data();
  args.top_k = layer.top_k;
  args.weights = TensorView::Of(routing.weights.data(), {num_tokens, layer.top_k});
  args.sorted_pairs = TensorView::Of(routing.sorted.data(), {num_pairs});
  args.expert_offsets = TensorView::Of(routing.offsets.data(), {layer.num_experts + 1});
  args.out = TensorView(out.data(), {num_tokens, layer.hidden}, DType::kF32);

  const double expert_elements = 3.0 * layer.hidden * layer.intermediate;
  const size_t expert_bytes = 2 * kernels::PackedBytes(layer.intermediate, layer.hidden, format) +
                              kernels::PackedBytes(layer.hidden, layer.intermediate, format);
  const double bytes = static_cast<double>(routing.active * expert_bytes);
  Measure(state, format, 2 * expert_elements * num_pairs, bytes, [&] {
    for (int expert = 0; expert < layer.num_experts; ++expert) {
      gate[expert] = machine.NextWeight(layer.intermediate, layer.hidden, format);
      up[expert] = machine.NextWeight(layer.intermediate, layer.hidden, format);
      down[expert] = machine.NextWeight(layer.hidden, layer.intermediate, format);
    }
    kernels::cpu::MoeFfn(machine.context(), args);
  });
}

void Tokens(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgName("tokens")->UseManualTime()->MinTime(0.1)->Unit(benchmark::kMicrosecond);
  for (int tokens : {1, 4, 8, 16, 32, 64, 128, 256, 512, 2048})
    benchmark->Arg(tokens);  // eight times the rows an expert
}
BENCHMARK_CAPTURE(BM_MoeFfn, olmoe_bf16, kOlmoe, WeightFormat::BF16())->Apply(Tokens);
BENCHMARK_CAPTURE(BM_MoeFfn, olmoe_int8, kOlmoe, WeightFormat::Int8())->Apply(Tokens);
BENCHMARK_CAPTURE(BM_MoeFfn, olmoe_int4, kOlmoe, WeightFormat::Int4())->Apply(Tokens);
BENCHMARK_CAPTURE(BM_MoeFfn, small_bf16, kSmall, WeightFormat::BF16())->Apply(Tokens);
BENCHMARK_CAPTURE(BM_MoeFfn, small_int8, kSmall, WeightFormat::Int8())->Apply(Tokens);
BENCHMARK_CAPTURE(BM_MoeFfn, small_int4, kSmall, WeightFormat::Int4())->Apply(Tokens);
BENCHMARK_CAPTURE(BM_MoeFfn, small_fp32, kSmall, WeightFormat::F32())->Apply(Tokens);

}  // namespace
}  // namespace moed::bench
