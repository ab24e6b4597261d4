// What the kernels' benchmarks share: the machine, weights that come from memory, figures as fractions of ceilings.
#ifndef BENCH_KERNELS_BENCH_SUPPORT_H_
#define BENCH_KERNELS_BENCH_SUPPORT_H_

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "base/logging.h"
#include "kernels/gemm/packed_weight.h"
#include "kernels/machine_peaks/machine_peaks.h"

namespace moed::bench {

// All usable cores (or MOED_BENCH_THREADS of them), and memory full of packed weights that no cache holds.
class Machine {
 public:
  static Machine& Get() {
    static Machine machine;
    return machine;
  }

  // Of the weights, for a sample of the bandwidth.
  static constexpr size_t kReadBytes = size_t{192} << 20;

  const ExecContext& context() const { return context_; }
  const Buffer& weights() const { return weights_; }

  // The next [n, k] weights in memory.
  kernels::PackedWeight NextWeight(int64_t n, int64_t k, kernels::WeightFormat format) {
    return {NextBytes(kernels::PackedBytes(n, k, format)), n, k, format};
  }

  // The next bytes in memory, going round: by the time that a place comes again, the caches have forgotten it.
  void* NextBytes(size_t bytes) {
    bytes = (bytes + 63) / 64 * 64;
    MOED_CHECK(bytes <= weights_.size());
    if (next_ + bytes > weights_.size()) next_ = 0;
    void* const place = static_cast<char*>(weights_.data()) + next_;
    next_ += bytes;
    return place;
  }

 private:
  static constexpr size_t kWeightBytes = size_t{512} << 20;

  static int NumThreads() {
    const char* const text = std::getenv("MOED_BENCH_THREADS");
    return text != nullptr ? std::max(1, std::atoi(text)) : NumUsableCpus();
  }

  Machine() : threads_(NumThreads()) {
    auto buffer = Buffer::Allocate(kWeightBytes);
    MOED_CHECK(buffer.ok(), "{}", buffer.status().ToString());
    weights_ = std::move(buffer).value();
    // Small numbers as fp32, as two bf16 and as scales: no infinities, no subnormals, whose arithmetic may be slower.
    std::fill_n(static_cast<uint32_t*>(weights_.data()), kWeightBytes / 4, 0x3c233c23u);
    context_.threads = &threads_;
    context_.workspace = &workspace_;
  }

  ThreadPool threads_;
  Workspace workspace_;
  Buffer weights_;
  ExecContext context_;
  size_t next_ = 0;
};

// Times body() in each iteration of the benchmark and reports the median: GOP/s, GB/s, and both as fractions of the
// ceilings sampled in between. `bytes` are those that must come from memory; `format` says with what arithmetic the
// operations are done.
template <typename Body>
void Measure(benchmark::State& state, kernels::WeightFormat format, double operations, double bytes, const Body& body) {
  const Machine& machine = Machine::Get();
  const int num_threads = machine.context().threads->num_threads();
  const auto sample = [&] {
    return kernels::Ceilings{kernels::PeakOperations(machine.context(), format),
                             kernels::ReadBandwidth(machine.context(), machine.weights().data(), Machine::kReadBytes)};
  };
  body();
  kernels::CeilingMeter meter(sample());
  std::vector<double> seconds;
  for (auto _ : state) {
    const double start = kernels::Now(num_threads);
    body();
    seconds.push_back(kernels::Now(num_threads) - start);
    state.SetIterationTime(seconds.back());
    meter.Ran(seconds.back());
    if (meter.IsDue()) meter.Add(sample());
  }
  meter.Add(sample());
  std::nth_element(seconds.begin(), seconds.begin() + seconds.size() / 2, seconds.end());
  const double median = seconds[seconds.size() / 2];
  const double best = *std::min_element(seconds.begin(), seconds.end());
  state.counters["GOP/s"] = operations / median / 1e9;
  state.counters["GB/s"] = bytes / median / 1e9;
  state.counters["of_peak"] = operations / median / meter.mean().operations;
  state.counters["of_read"] = bytes / median / meter.mean().bytes;
  // The quickest iteration beside the best sample: what the kernel does when nobody else takes the cores meanwhile.
  state.counters["best_of_peak"] = operations / best / meter.best().operations;
  state.counters["best_of_read"] = bytes / best / meter.best().bytes;
}

}  // namespace moed::bench

#endif  // BENCH_KERNELS_BENCH_SUPPORT_H_
