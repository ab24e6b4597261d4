#include "kernels/common/cuda.h"
#include "kernels/common/ptx.h"
#include "kernels/layer_norm/layer_norm.h"

namespace moed::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

struct LayerNormParameters {
  float* x;  // [num_tokens, size], rows strided
  int64_t x_stride;
  float* residual;  // or null
  int64_t residual_stride;
  float residual_scale;
  const float *weight, *bias;
  float* out;
  int64_t out_stride;
  int size;
  float eps;
};

// The sum of `value` over the block; each sum of a kernel has warp_sums of its own, so that one barrier is enough.
__device__ __forceinline__ float BlockSum(float value, float (&warp_sums)[kWarps]) {
  const int thread = static_cast<int>(threadIdx.x);
  value = WarpSum(value);
  if (thread % 32 == 0) warp_sums[thread / 32] = value;
  __syncthreads();
  float sum = 0.0f;
  for (int warp = 0; warp < kWarps; ++warp) sum += warp_sums[warp];
  return sum;
}

// A block a row. A thread reads again only the elements that it wrote itself.
__global__ void __launch_bounds__(kThreads) LayerNormKernel(LayerNormParameters p) {
  ptx::AwaitEarlierGrids();
  MOED_SHARED(float, sums, [kWarps]);
  MOED_SHARED(float, squares, [kWarps]);
  const int64_t row = blockIdx.x;
  const int thread = static_cast<int>(threadIdx.x);
  float* x = p.x + row * p.x_stride;
  if (p.residual != nullptr) {
    float* residual = p.residual + row * p.residual_stride;
    for (int i = thread; i < p.size; i += kThreads) residual[i] = fmaf(p.residual_scale, x[i], residual[i]);
    x = residual;
  }
  float sum = 0.0f;
  for (int i = thread; i < p.size; i += kThreads) sum += x[i];
  const float mean = BlockSum(sum, sums) / static_cast<float>(p.size);
  float square = 0.0f;
  for (int i = thread; i < p.size; i += kThreads) square = fmaf(x[i] - mean, x[i] - mean, square);
  const float factor = rsqrtf(BlockSum(square, squares) / static_cast<float>(p.size) + p.eps);
  float* out = p.out + row * p.out_stride;
  for (int i = thread; i < p.size; i += kThreads) out[i] = fmaf((x[i] - mean) * factor, p.weight[i], p.bias[i]);
}

}  // namespace

namespace cuda {

void LayerNorm(const ExecContext& ctx, const LayerNormArgs& args) {
  const auto num_tokens = static_cast<unsigned>(args.x.dim(0));
  if (num_tokens == 0) return;
  LayerNormParameters p = {};
  p.x = args.x.As<float>();
  p.x_stride = args.x.stride(0);
  p.residual = args.residual.As<float>();
  p.residual_stride = args.residual.empty() ? 0 : args.residual.stride(0);
  p.residual_scale = args.residual_scale;
  p.weight = args.weight.As<float>();
  p.bias = args.bias.As<float>();
  p.out = args.out.As<float>();
  p.out_stride = args.out.stride(0);
  p.size = static_cast<int>(args.x.dim(1));
  p.eps = args.eps;
  MOED_LAUNCH_DEPENDENT(LayerNormKernel, num_tokens, kThreads, 0, ctx.stream, p);
}

}  // namespace cuda
}  // namespace moed::kernels
