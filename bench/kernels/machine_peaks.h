// What the machine can do at best, measured beside a benchmark: other work may share its cores and its memory, and a
// figure says something only as a fraction of what was to be had in the same seconds.
#ifndef BENCH_KERNELS_MACHINE_PEAKS_H_
#define BENCH_KERNELS_MACHINE_PEAKS_H_

#include <cstdint>

#include "tensor/buffer.h"
#include "tensor/exec_context.h"

namespace moed::bench {

// Seconds since some moment, for timing what a team of `num_threads` does. With one thread it is the processor time of
// the caller: what other processes take of a crowded machine does not count. With more it is the clock on the wall.
double Now(int num_threads);

// Floating-point operations a second of the whole team: fused multiply-adds on registers alone, in the context's
// instruction set. The best of a few short samples.
double PeakFlops(const ExecContext& ctx);

// Bytes a second that the whole team reads from `memory` (its first 192 MiB, which should be several times the
// last-level cache). The best of a few samples.
double ReadBandwidth(const ExecContext& ctx, const Buffer& memory);

}  // namespace moed::bench

#endif  // BENCH_KERNELS_MACHINE_PEAKS_H_
