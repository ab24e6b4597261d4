#include <algorithm>

#include "kernels/common/cuda.h"
#include "kernels/common/ptx.h"
#include "kernels/rope/rope.h"

namespace moed::kernels {
namespace {

constexpr int kThreads = 128;

// [num_tokens, heads, head_dim] with any strides of the first two dimensions.
struct Heads {
  float* data;
  int64_t token_stride, head_stride;
  int heads;
};

struct RopeParameters {
  Heads q, k;
  Heads q_out;  // q itself, or elsewhere
  const int32_t* positions;
  const float* cos_sin;
  int64_t cos_sin_stride;
  int half;  // rotary_dim / 2
  int head_dim;
  int num_copied;  // of a token's elements, not rotated
  bool interleaved;
};

// Query heads first, then key heads, as if they were one tensor.
__device__ __forceinline__ float* HeadOf(const Heads& q, const Heads& k, int64_t token, int head) {
  if (head < q.heads) return q.data + token * q.token_stride + head * q.head_stride;
  return k.data + token * k.token_stride + (head - q.heads) * k.head_stride;
}

// Grid: tokens, pieces of their pairs. A thread rotates one pair, and copies one of the elements that are not rotated
// where the queries go elsewhere.
__global__ void __launch_bounds__(kThreads) RopeKernel(RopeParameters p) {
  ptx::AwaitEarlierGrids();
  const int64_t token = blockIdx.x;
  const int thread = static_cast<int>(blockIdx.y) * kThreads + static_cast<int>(threadIdx.x);
  if (thread < (p.q.heads + p.k.heads) * p.half) {
    const float* cosines = p.cos_sin + p.positions[token] * p.cos_sin_stride;
    const float* head = HeadOf(p.q, p.k, token, thread / p.half);
    float* out = HeadOf(p.q_out, p.k, token, thread / p.half);
    const int i = thread % p.half;
    const int first = p.interleaved ? 2 * i : i;
    const int second = p.interleaved ? 2 * i + 1 : i + p.half;
    const float a = head[first];
    const float b = head[second];
    const float cosine = cosines[i];
    const float sine = cosines[p.half + i];
    out[first] = a * cosine - b * sine;
    out[second] = b * cosine + a * sine;
  }
  if (thread < p.num_copied) {
    const int rest = p.head_dim - 2 * p.half;
    const int d = 2 * p.half + thread % rest;
    HeadOf(p.q_out, p.k, token, thread / rest)[d] = HeadOf(p.q, p.k, token, thread / rest)[d];
  }
}

Heads HeadsOf(const TensorView& tensor) {
  return {tensor.As<float>(), tensor.stride(0), tensor.stride(1), static_cast<int>(tensor.dim(1))};
}

}  // namespace

namespace cuda {

void Rope(const ExecContext& ctx, const RopeArgs& args) {
  RopeParameters p;
  p.q = HeadsOf(args.q);
  p.k = HeadsOf(args.k);
  p.q_out = HeadsOf(args.q_out.empty() ? args.q : args.q_out);
  p.positions = args.positions.As<int32_t>();
  p.cos_sin = args.cos_sin.As<float>();
  p.cos_sin_stride = args.cos_sin.stride(0);
  p.half = static_cast<int>(args.cos_sin.dim(1) / 2);
  p.head_dim = static_cast<int>(args.q.dim(2));
  p.interleaved = args.interleaved;
  p.num_copied = p.q_out.data == p.q.data ? 0 : p.q.heads * (p.head_dim - 2 * p.half);
  const int threads = std::max((p.q.heads + p.k.heads) * p.half, p.num_copied);
  if (args.q.dim(0) == 0 || threads == 0) return;
  const dim3 grid(static_cast<unsigned>(args.q.dim(0)), static_cast<unsigned>(CeilDiv(threads, kThreads)));
  MOED_LAUNCH_DEPENDENT(RopeKernel, grid, kThreads, 0, ctx.stream, p);
}

}  // namespace cuda
}  // namespace moed::kernels
