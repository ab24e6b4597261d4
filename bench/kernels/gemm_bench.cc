// GEMM with packed weights that come from memory, from one row (bound by reading them) to many (bound by arithmetic).
#include "kernels/gemm/gemm.h"

#include "bench/kernels/bench_support.h"

namespace moed::bench {
namespace {

void BM_Gemm(benchmark::State& state, DType dtype) {
  const int64_t m = state.range(0), n = state.range(1), k = state.range(2);
  Machine& machine = Machine::Get();
  std::vector<float> x(m * k, 0.5f), out(m * n);
  const TensorView x_view(x.data(), {m, k}, DType::kF32), out_view(out.data(), {m, n}, DType::kF32);
  Measure(state, 2.0 * m * n * k, static_cast<double>(kernels::PackedBytes(n, k, dtype)), [&] {
    kernels::cpu::Gemm(
        machine.context(),
        {.x = x_view, .weight = machine.NextWeight(n, k, dtype), .bias = {}, .accumulate = false, .out = out_view});
  });
}

void Shapes(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"m", "n", "k"})->UseManualTime()->MinTime(0.1)->Unit(benchmark::kMicrosecond);
  for (int m : {1, 2, 4, 8, 16, 32, 128, 512}) benchmark->Args({m, 2048, 2048});
}
BENCHMARK_CAPTURE(BM_Gemm, fp32, DType::kF32)->Apply(Shapes);
BENCHMARK_CAPTURE(BM_Gemm, bf16, DType::kBF16)->Apply(Shapes);

}  // namespace
}  // namespace moed::bench
