#include "kernels/common/cuda.h"
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
  bool interleaved;
};

// Query heads first, then key heads, as if they were one tensor.
__device__ __forceinline__ float* HeadOf(const Heads& q, const Heads& k, int64_t token, int head) {
  if (head < q.heads) return q.data + token * q.token_stride + head * q.head_stride;
  return k.data + token * k.token_stride + (head - q.heads) * k.head_stride;
}

// A block a token; a thread rotates one pair at a time.
__global__ void __launch_bounds__(kThreads) RopeKernel(RopeParameters p) {
  const int64_t token = blockIdx.x;
  const float* cosines = p.cos_sin + p.positions[token] * p.cos_sin_stride;
  const float* sines = cosines + p.half;
  const int num_pairs = (p.q.heads + p.k.heads) * p.half;
  for (int pair = static_cast<int>(threadIdx.x); pair < num_pairs; pair += kThreads) {
    const float* head = HeadOf(p.q, p.k, token, pair / p.half);
    float* out = HeadOf(p.q_out, p.k, token, pair / p.half);
    const int i = pair % p.half;
    const int first = p.interleaved ? 2 * i : i;
    const int second = p.interleaved ? 2 * i + 1 : i + p.half;
    const float a = head[first];
    const float b = head[second];
    out[first] = a * cosines[i] - b * sines[i];
    out[second] = b * cosines[i] + a * sines[i];
  }
  if (p.q_out.data == p.q.data) return;
  const int rest = p.head_dim - 2 * p.half;
  for (int j = static_cast<int>(threadIdx.x); j < p.q.heads * rest; j += kThreads) {
    const int d = 2 * p.half + j % rest;
    HeadOf(p.q_out, p.k, token, j / rest)[d] = HeadOf(p.q, p.k, token, j / rest)[d];
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
  if (args.q.dim(0) == 0 || (p.half == 0 && args.q_out.empty())) return;
  MOED_LAUNCH(RopeKernel, static_cast<unsigned>(args.q.dim(0)), kThreads, 0, ctx.stream, p);
}

}  // namespace cuda
}  // namespace moed::kernels
