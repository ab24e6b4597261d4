#include "kernels/machine_peaks/machine_peaks.h"

#include <time.h>

#include <algorithm>
#include <vector>

namespace moed::kernels {

// The bodies of machine_peaks_cpu.cc.
struct PeakBodies {
  int64_t (*multiply_adds)(int64_t rounds, float* sink);
  int64_t (*dot_products)(int64_t rounds, float* sink);
  int64_t (*bf16_products)(int64_t rounds, float* sink);
  void (*read_memory)(const char* data, int64_t bytes, float* sink);
};
#define MOED_DECLARE_PEAKS(isa)                                  \
  namespace isa {                                                \
  int64_t MultiplyAdds(int64_t rounds, float* sink);             \
  int64_t DotProducts(int64_t rounds, float* sink);              \
  int64_t Bf16Products(int64_t rounds, float* sink);             \
  void ReadMemory(const char* data, int64_t bytes, float* sink); \
  }
#define MOED_PEAK_BODIES(isa) \
  PeakBodies { isa::MultiplyAdds, isa::DotProducts, isa::Bf16Products, isa::ReadMemory }
MOED_DECLARE_PEAKS(generic)
#if defined(__x86_64__)
MOED_DECLARE_PEAKS(avx2)
MOED_DECLARE_PEAKS(avx_vnni)
MOED_DECLARE_PEAKS(avx512)
MOED_DECLARE_PEAKS(avx512_vnni)
MOED_DECLARE_PEAKS(avx512_bf16)
MOED_DECLARE_PEAKS(amx)
#endif

namespace {

PeakBodies Choose(Isa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case Isa::kAvx2:
      return MOED_PEAK_BODIES(avx2);
    case Isa::kAvxVnni:
      return MOED_PEAK_BODIES(avx_vnni);
    case Isa::kAvx512:
      return MOED_PEAK_BODIES(avx512);
    case Isa::kAvx512Vnni:
      return MOED_PEAK_BODIES(avx512_vnni);
    case Isa::kAvx512Bf16:
      return MOED_PEAK_BODIES(avx512_bf16);
    case Isa::kAmx:
      return MOED_PEAK_BODIES(amx);
#endif
    default:
      return MOED_PEAK_BODIES(generic);
  }
}

constexpr double Ceilings::*kParts[] = {&Ceilings::operations, &Ceilings::bytes, &Ceilings::attention_operations};

// A thread's own result, away from the others' cache lines.
struct alignas(64) Sink {
  float value = 1;
  double per_second = 0;
};

}  // namespace

double Now(int num_threads) {
  timespec time;
  clock_gettime(num_threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

double PeakOperations(const ExecContext& ctx, WeightFormat format) {
  constexpr int64_t kRounds = 50000;
  const PeakBodies bodies = Choose(ctx.isa);
  const auto body = format.is_integer()                        ? bodies.dot_products
                    : format.type == WeightFormat::Type::kBF16 ? bodies.bf16_products
                                                               : bodies.multiply_adds;
  const int num_threads = ctx.threads->num_threads();
  std::vector<Sink> sinks(num_threads);
  ctx.threads->ParallelFor(num_threads, 1, [&](int64_t begin, int64_t end, int /*worker*/) {
    for (int64_t i = begin; i < end; ++i) {
      const double start = Now(num_threads);
      const int64_t operations = body(kRounds, &sinks[i].value);
      sinks[i].per_second = static_cast<double>(operations) / (Now(num_threads) - start);
    }
  });
  double total = 0;
  for (const Sink& sink : sinks) total += sink.per_second;
  return total;
}

double ReadBandwidth(const ExecContext& ctx, const void* memory, size_t bytes) {
  constexpr int64_t kPiece = 1 << 20;
  const PeakBodies bodies = Choose(ctx.isa);
  const int num_threads = ctx.threads->num_threads();
  std::vector<Sink> sinks(num_threads);
  const double start = Now(num_threads);
  ctx.threads->ParallelFor(static_cast<int64_t>(bytes), kPiece, [&](int64_t begin, int64_t end, int worker) {
    bodies.read_memory(static_cast<const char*>(memory) + begin, end - begin, &sinks[worker].value);
  });
  return static_cast<double>(bytes) / (Now(num_threads) - start);
}

void CeilingMeter::Add(const Ceilings& sample) {
  for (double Ceilings::*part : kParts) given_.*part += unsampled_ * (last_.*part + sample.*part) / 2;
  sampled_ += unsampled_;
  unsampled_ = 0;
  last_ = sample;
  for (double Ceilings::*part : kParts) best_.*part = std::max(best_.*part, sample.*part);
}

Ceilings CeilingMeter::mean() const {
  if (sampled_ == 0) return last_;
  Ceilings mean;
  for (double Ceilings::*part : kParts) mean.*part = given_.*part / sampled_;
  return mean;
}

}  // namespace moed::kernels
