// What the machine can do at best, measured beside a benchmark: other work may share its cores and its memory, and a
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

// Operations a second of the whole team on registers alone, in the context's instruction set, a multiplication and an
// addition counted as two: dot products of small integers for integer weights and of bf16 for bf16, where it has them,
// else fused multiply-adds of floats. The best of a few short samples.
double PeakOperations(const ExecContext& ctx, WeightFormat format);

// Bytes a second that the whole team reads from `memory` (its first 192 MiB at most; it should be several times the
// last-level cache). The best of a few samples.
double ReadBandwidth(const ExecContext& ctx, const void* memory, size_t bytes);

// Of the context's GPU, the best of a few samples. RESOURCE_EXHAUSTED where it has no gigabyte free.
// Bytes a second of a copy from its memory to its memory, read and written ones counted.
absl::StatusOr<double> CudaCopyBandwidth(const ExecContext& ctx);
// Operations a second of cuBLAS in a large product: of bf16 matrices with fp32 sums, or for weights of int8 of 8-bit
// integers with 32-bit sums. NOT_FOUND where the machine has no cuBLAS.
absl::StatusOr<double> CublasOperations(const ExecContext& ctx, WeightFormat format = WeightFormat::BF16());

}  // namespace moed::kernels

#endif  // KERNELS_MACHINE_PEAKS_MACHINE_PEAKS_H_
