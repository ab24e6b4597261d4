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

// The shortest of a few runs of `body` by the team, in seconds.
template <typename Body>
double ShortestSeconds(int num_threads, const Body& body) {
  constexpr int kSamples = 3;
  double shortest = 1e300;
  for (int i = 0; i < kSamples; ++i) {
    const double start = Now(num_threads);
    body();
    shortest = std::min(shortest, Now(num_threads) - start);
  }
  return shortest;
}

// A thread's own result, away from the others' cache lines.
struct alignas(64) Sink {
  float value = 1;
};

}  // namespace

double Now(int num_threads) {
  timespec time;
  clock_gettime(num_threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

double PeakOperations(const ExecContext& ctx, WeightFormat format) {
  constexpr int64_t kRounds = 100000;
  const PeakBodies bodies = Choose(ctx.isa);
  const auto body = format.is_integer()                        ? bodies.dot_products
                    : format.type == WeightFormat::Type::kBF16 ? bodies.bf16_products
                                                               : bodies.multiply_adds;
  const int num_threads = ctx.threads->num_threads();
  std::vector<Sink> sinks(num_threads);
  std::vector<int64_t> operations(num_threads);
  const double seconds = ShortestSeconds(num_threads, [&] {
    ctx.threads->ParallelFor(num_threads, 1, [&](int64_t begin, int64_t end, int /*worker*/) {
      for (int64_t i = begin; i < end; ++i) operations[i] = body(kRounds, &sinks[i].value);
    });
  });
  double total = 0;
  for (int64_t count : operations) total += static_cast<double>(count);
  return total / seconds;
}

double ReadBandwidth(const ExecContext& ctx, const void* memory, size_t bytes) {
  constexpr int64_t kPiece = 1 << 20;
  constexpr size_t kReadBytes = size_t{192} << 20;
  const PeakBodies bodies = Choose(ctx.isa);
  const int num_threads = ctx.threads->num_threads();
  std::vector<Sink> sinks(num_threads);
  const auto read_bytes = static_cast<int64_t>(std::min(bytes, kReadBytes));
  const double seconds = ShortestSeconds(num_threads, [&] {
    ctx.threads->ParallelFor(read_bytes, kPiece, [&](int64_t begin, int64_t end, int worker) {
      bodies.read_memory(static_cast<const char*>(memory) + begin, end - begin, &sinks[worker].value);
    });
  });
  return static_cast<double>(read_bytes) / seconds;
}

}  // namespace moed::kernels
