#include "kernels/common/cuda.h"
#include "kernels/rms_norm/rms_norm.h"

namespace moed::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
// Rows up to this length get a warp each, longer ones a block.
constexpr int kMaxWarpRow = 512;

// [num_tokens, heads, size] with any strides of the first two dimensions.
struct Rows {
  float* data;
  int64_t token_stride, head_stride;
};

struct RmsNormParameters {
  Rows x, residual, out;  // residual.data may be null
  const float* weight;
  int64_t num_rows;
  int heads, size;
  float eps, residual_scale;
};

__device__ __forceinline__ float* RowOf(const Rows& rows, int64_t row, int heads) {
  return rows.data + row / heads * rows.token_stride + row % heads * rows.head_stride;
}

// This thread's part of the sum of squares of row x, which first takes scale * add in when there is an `add`.
__device__ __forceinline__ float AddAndSumSquares(const float* add, float scale, float* x, int size, int first,
                                                  int step) {
  float sum = 0.0f;
  for (int i = first; i < size; i += step) {
    float value = x[i];
    if (add != nullptr) {
      value += scale * add[i];
      x[i] = value;
    }
    sum += value * value;
  }
  return sum;
}

// The elements of a row are read again by the threads that wrote them, so that no barrier is needed before.
__device__ __forceinline__ void ScaleRow(const RmsNormParameters& p, const float* x, float* out, float sum, int first,
                                         int step) {
  const float factor = rsqrtf(sum / static_cast<float>(p.size) + p.eps);
  for (int i = first; i < p.size; i += step) out[i] = x[i] * factor * p.weight[i];
}

// Where row `row` is read from; *add is what it takes in first, or null.
__device__ __forceinline__ float* SourceOf(const RmsNormParameters& p, int64_t row, const float** add) {
  float* x = RowOf(p.x, row, p.heads);
  *add = nullptr;
  if (p.residual.data == nullptr) return x;
  *add = x;
  return RowOf(p.residual, row, p.heads);
}

__global__ void __launch_bounds__(kThreads) RmsNormWarpKernel(RmsNormParameters p) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (row >= p.num_rows) return;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const float* add;
  float* x = SourceOf(p, row, &add);
  const float sum = WarpSum(AddAndSumSquares(add, p.residual_scale, x, p.size, lane, 32));
  ScaleRow(p, x, RowOf(p.out, row, p.heads), sum, lane, 32);
}

__global__ void __launch_bounds__(kThreads) RmsNormBlockKernel(RmsNormParameters p) {
  MOED_SHARED(float, warp_sums, [kWarps]);
  const int64_t row = blockIdx.x;
  const int thread = static_cast<int>(threadIdx.x);
  const float* add;
  float* x = SourceOf(p, row, &add);
  const float warp_sum = WarpSum(AddAndSumSquares(add, p.residual_scale, x, p.size, thread, kThreads));
  if (thread % 32 == 0) warp_sums[thread / 32] = warp_sum;
  __syncthreads();
  float sum = 0.0f;
  for (int warp = 0; warp < kWarps; ++warp) sum += warp_sums[warp];
  ScaleRow(p, x, RowOf(p.out, row, p.heads), sum, thread, kThreads);
}

Rows RowsOf(const TensorView& tensor) {
  return {tensor.As<float>(), tensor.stride(0), tensor.rank == 3 ? tensor.stride(1) : 0};
}

}  // namespace

namespace cuda {

void RmsNorm(const ExecContext& ctx, const RmsNormArgs& args) {
  RmsNormParameters p;
  p.x = RowsOf(args.x);
  p.residual = RowsOf(args.residual);
  p.out = RowsOf(args.out);
  p.weight = args.weight.As<float>();
  p.heads = args.x.rank == 3 ? static_cast<int>(args.x.dim(1)) : 1;
  p.size = static_cast<int>(args.x.dim(args.x.rank - 1));
  p.num_rows = args.x.dim(0) * p.heads;
  p.eps = args.eps;
  p.residual_scale = args.residual_scale;
  if (p.num_rows == 0) return;
  if (p.size <= kMaxWarpRow) {
    const auto blocks = static_cast<unsigned>((p.num_rows + kWarps - 1) / kWarps);
    MOED_LAUNCH(RmsNormWarpKernel, blocks, kThreads, 0, ctx.stream, p);
  } else {
    MOED_LAUNCH(RmsNormBlockKernel, static_cast<unsigned>(p.num_rows), kThreads, 0, ctx.stream, p);
  }
}

}  // namespace cuda
}  // namespace moed::kernels
