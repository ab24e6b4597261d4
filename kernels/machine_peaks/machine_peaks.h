// What the machine has to give, measured beside a benchmark: other work may share its cores and its memory, and a
// figure says something only as a fraction of what was to be had in the same seconds.
#ifndef KERNELS_MACHINE_PEAKS_MACHINE_PEAKS_H_
#define KERNELS_MACHINE_PEAKS_MACHINE_PEAKS_H_

#include <cstdint>

#include "base/status.h"
#include "kernels/gemm/weight_format.h"
#include "tensor/exec_context.h"

namespace moed::kernels {

// Seconds since some moment, for timing what a team of `num_threads` does. With one thread it is the processor time of
// the caller: what other processes take of a crowded machine does not count. With more it is the clock on the wall.
double Now(int num_threads);

// Operations a second on registers alone, in the context's instruction set, a multiplication and an addition counted as
// two: dot products of small integers for integer weights and of bf16 for bf16, where it has them, else fused
// multiply-adds of floats. One sample of less than a millisecond, in which each thread of the team has its own speed:
// their sum.
double PeakOperations(const ExecContext& ctx, WeightFormat format);

// Bytes a second that the whole team reads from `memory`. One sample; with 192 MiB, several times the last-level cache,
// of about ten milliseconds.
double ReadBandwidth(const ExecContext& ctx, const void* memory, size_t bytes);

// Operations and bytes a second.
struct Ceilings {
  double operations = 0;
  double bytes = 0;
  double attention_operations = 0;  // in the arithmetic of attention, where that is timed too
};

// The mean of what a machine had to give while something else was timed, from samples taken in between. On a crowded
// machine a core may run at half its speed for seconds: the best sample of all would belong to other seconds than the
// work.
//
//   CeilingMeter meter(Sample());
//   while (…) {
//     …work that took `seconds`…
//     meter.Ran(seconds);
//     if (meter.IsDue()) meter.Add(Sample());
//   }
//   meter.Add(Sample());
class CeilingMeter {
 public:
  explicit CeilingMeter(const Ceilings& first) : last_(first), best_(first) {}

  void Ran(double seconds) { unsampled_ += seconds; }
  // Whether so much ran since the last sample that the next one costs little beside it.
  bool IsDue() const { return unsampled_ >= kSecondsBetweenSamples; }
  // What ran since the last sample had the mean of that one and this.
  void Add(const Ceilings& sample);

  Ceilings mean() const;
  const Ceilings& best() const { return best_; }

 private:
  static constexpr double kSecondsBetweenSamples = 0.05;

  Ceilings last_, best_;
  Ceilings given_;  // operations and bytes, in sampled_ seconds
  double sampled_ = 0, unsampled_ = 0;
};

// Of the context's GPU, the best of a few samples. RESOURCE_EXHAUSTED where it has no gigabyte free.
// Bytes a second of a copy from its memory to its memory, read and written ones counted.
absl::StatusOr<double> CudaCopyBandwidth(const ExecContext& ctx);
// Operations a second of cuBLAS in a large product: of bf16 matrices with fp32 sums, or for weights of int8 of 8-bit
// integers with 32-bit sums. NOT_FOUND where the machine has no cuBLAS.
absl::StatusOr<double> CublasOperations(const ExecContext& ctx, WeightFormat format = WeightFormat::BF16());

}  // namespace moed::kernels

#endif  // KERNELS_MACHINE_PEAKS_MACHINE_PEAKS_H_
