#ifndef TESTS_KERNELS_CUDA_PLANTED_BUGS_H_
#define TESTS_KERNELS_CUDA_PLANTED_BUGS_H_

namespace moed::simt {

enum class Bug {
  kNone,
  kMissingBarrier,
  kDivergentBarrier,
  kEarlyExit,
  kWrongLane,
  kAbsentLane,
  kMaskWithoutCaller,
  kShortTail,
  kPartOfAWarp,
  kLateWait,
  kNoWait,
  kMisaligned,
};

// out[b] = the sum of in[128 b .. 128 b + 127].
void BlockSum(Bug bug, const float* in, int num_blocks, float* out);
// Copies 512 floats a block.
void AsyncCopyThrough(Bug bug, const float* in, int num_blocks, float* out);

}  // namespace moed::simt

#endif  // TESTS_KERNELS_CUDA_PLANTED_BUGS_H_
