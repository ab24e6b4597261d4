// GEMM with packed weights that come from memory, from one row (bound by reading them) to many (bound by arithmetic).
#include "kernels/gemm/gemm.h"

#include "bench/kernels/bench_support.h"

namespace moed::bench {
namespace {

void BM_Gemm(benchmark::State& state, kernels::WeightFormat format) {
  const int64_t m = state.range(0), n = state.range(1), k = state.range(2);
  Machine& machine = Machine::Get();
  std::vector<float> x(m * k, 0.5f), out(m * n);
  const TensorView x_view(x.data(), {m, k}, DType::kF32), out_view(out.data(), {m, n}, DType::kF32);
  Measure(state, format, 2.0 * m * n * k, static_cast<double>(kernels::PackedBytes(n, k, format)), [&] {
    kernels::cpu::Gemm(
        machine.context(),
        {.x = x_view, .weight = machine.NextWeight(n, k, format), .bias = {}, .accumulate = false, .out = out_view});
  });
}

void Shapes(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"m", "n", "k"})->UseManualTime()->MinTime(0.1)->Unit(benchmark::kMicrosecond);
  for (int m : {1, 2, 4, 8, 16, 32, 128, 256, 512}) benchmark->Args({m, 2048, 2048});
}
using kernels::WeightFormat;
BENCHMARK_CAPTURE(BM_Gemm, fp32, WeightFormat::F32())->Apply(Shapes);
BENCHMARK_CAPTURE(BM_Gemm, bf16, WeightFormat::BF16())->Apply(Shapes);
BENCHMARK_CAPTURE(BM_Gemm, int8, WeightFormat::Int8())->Apply(Shapes);
BENCHMARK_CAPTURE(BM_Gemm, int8_groups_of_32, WeightFormat::Int8(32))->Apply(Shapes);
BENCHMARK_CAPTURE(BM_Gemm, int4, WeightFormat::Int4())->Apply(Shapes);
BENCHMARK_CAPTURE(BM_Gemm, int4_groups_of_32, WeightFormat::Int4(32))->Apply(Shapes);

}  // namespace
}  // namespace moed::bench
