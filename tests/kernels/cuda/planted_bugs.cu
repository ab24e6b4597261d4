// Small kernels with one mistake each, for the test that the shim finds them. `bug` chooses the mistake, 0 is none.
#include "tests/kernels/cuda/planted_bugs.h"

#include "kernels/common/cuda.h"
#include "kernels/common/ptx.h"

namespace moed::simt {
namespace {

using kernels::kAllLanes;
using kernels::WarpSum;

constexpr int kThreads = 128;

// out[block] = the sum of the block's kThreads elements.
__global__ void BlockSumKernel(Bug bug, const float* in, float* out) {
  MOED_SHARED(float, sums, [kThreads / 32]);
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32;
  float value = in[blockIdx.x * kThreads + thread];
  if (bug == Bug::kWrongLane) {
    for (int distance = 16; distance > 0; distance /= 2) {
      value += __shfl_xor_sync(kAllLanes, value, distance == 4 ? 2 : distance);
    }
  } else if (bug == Bug::kAbsentLane && lane < 16) {
    value += __shfl_sync(0xffffu, value, 16 + lane);
  } else if (bug == Bug::kMaskWithoutCaller) {
    value += __shfl_xor_sync(0xffffu, value, 1);
  } else {
    value = WarpSum(value);
  }
  if (lane == 0) sums[thread / 32] = value;
  if (bug == Bug::kEarlyExit && thread >= 64) return;
  if (bug == Bug::kDivergentBarrier) {
    if (thread < 64) {
      __syncthreads();
    } else {
      __syncthreads();
    }
  } else if (bug != Bug::kMissingBarrier) {
    __syncthreads();
  }
  if (thread != 0) return;
  float sum = 0;
  for (int warp = 0; warp < kThreads / 32 - (bug == Bug::kShortTail ? 1 : 0); ++warp) sum += sums[warp];
  out[blockIdx.x] = sum;
}

// Copies kThreads * 4 floats a block through shared memory.
__global__ void AsyncCopyKernel(Bug bug, const float* in, float* out) {
  MOED_DYNAMIC_SHARED(float, tile);
  const int thread = static_cast<int>(threadIdx.x);
  in += blockIdx.x * kThreads * 4;
  out += blockIdx.x * kThreads * 4;
  kernels::ptx::CpAsync16(tile + thread * 4, in + thread * 4 + (bug == Bug::kMisaligned ? 1 : 0));
  kernels::ptx::CpAsyncCommit();
  if (bug == Bug::kLateWait) {
    kernels::ptx::CpAsyncWait<1>();
  } else if (bug != Bug::kNoWait) {
    kernels::ptx::CpAsyncWait<0>();
  }
  __syncthreads();
  for (int i = thread; i < kThreads * 4; i += kThreads) out[i] = tile[i];
  if (bug == Bug::kLateWait) kernels::ptx::CpAsyncWait<0>();
}

}  // namespace

void BlockSum(Bug bug, const float* in, int num_blocks, float* out) {
  MOED_LAUNCH(BlockSumKernel, static_cast<unsigned>(num_blocks), bug == Bug::kPartOfAWarp ? 100 : kThreads, 0, nullptr,
              bug, in, out);
}

void AsyncCopyThrough(Bug bug, const float* in, int num_blocks, float* out) {
  MOED_LAUNCH(AsyncCopyKernel, static_cast<unsigned>(num_blocks), kThreads, kThreads * 16, nullptr, bug, in, out);
}

}  // namespace moed::simt
