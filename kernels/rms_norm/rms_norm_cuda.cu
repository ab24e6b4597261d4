#include "kernels/common/cuda.h"
#include "kernels/common/ptx.h"
#include "kernels/rms_norm/rms_norm.h"

namespace moed::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
// Rows up to this length get a warp each, longer ones a block.
constexpr int kMaxWarpRow = 512;
constexpr int kMaxWarps = 32;

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
  ptx::AwaitEarlierGrids();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (row >= p.num_rows) return;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const float* add;
  float* x = SourceOf(p, row, &add);
  const float sum = WarpSum(AddAndSumSquares(add, p.residual_scale, x, p.size, lane, 32));
  ScaleRow(p, x, RowOf(p.out, row, p.heads), sum, lane, 32);
}

__global__ void __launch_bounds__(kThreads) RmsNormBlockKernel(RmsNormParameters p) {
  ptx::AwaitEarlierGrids();
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

// The sum over the block of what each warp has in every lane, in the order of the warps.
__device__ __forceinline__ float SumOfWarps(float warp_sum, float (&warp_sums)[kMaxWarps]) {
  const int thread = static_cast<int>(threadIdx.x);
  if (thread % 32 == 0) warp_sums[thread / 32] = warp_sum;
  __syncthreads();
  const int lane = thread % 32;
  return WarpSum(lane < static_cast<int>(blockDim.x) / 32 ? warp_sums[lane] : 0.0f);
}

// A block a row, which stays in the registers: every thread has up to kQuads quads of it, blockDim.x apart.
template <int kQuads>
__global__ void __launch_bounds__(kMaxWarps * 32) RmsNormQuadsKernel(RmsNormParameters p) {
  ptx::AwaitEarlierGrids();
  MOED_SHARED(float, warp_sums, [kMaxWarps]);
  const int64_t row = blockIdx.x;
  const int step = static_cast<int>(blockDim.x) * 4;
  const int first = static_cast<int>(threadIdx.x) * 4;
  const float* add;
  float* x = SourceOf(p, row, &add);
  float4 values[kQuads];
  float4 weights[kQuads];
  float4 added[kQuads];
#pragma unroll
  for (int i = 0; i < kQuads; ++i) {
    const int at = first + i * step;
    const bool valid = at < p.size;
    values[i] = valid ? LoadFour(x + at) : make_float4(0, 0, 0, 0);
    added[i] = valid && add != nullptr ? LoadFour(add + at) : make_float4(0, 0, 0, 0);
    weights[i] = valid ? LoadFour(p.weight + at) : make_float4(0, 0, 0, 0);
  }
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kQuads; ++i) {
    float4& v = values[i];
    if (add != nullptr) {
      const float scale = p.residual_scale;
      v = make_float4(v.x + scale * added[i].x, v.y + scale * added[i].y, v.z + scale * added[i].z,
                      v.w + scale * added[i].w);
      if (first + i * step < p.size) StoreFour(x + first + i * step, v);
    }
    sum += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
  }
  sum = SumOfWarps(WarpSum(sum), warp_sums);
  const float factor = rsqrtf(sum / static_cast<float>(p.size) + p.eps);
  float* out = RowOf(p.out, row, p.heads);
#pragma unroll
  for (int i = 0; i < kQuads; ++i) {
    const float4& v = values[i];
    const float4& w = weights[i];
    if (first + i * step >= p.size) continue;
    StoreFour(out + first + i * step,
              make_float4(v.x * factor * w.x, v.y * factor * w.y, v.z * factor * w.z, v.w * factor * w.w));
  }
}

Rows RowsOf(const TensorView& tensor) {
  return {tensor.As<float>(), tensor.stride(0), tensor.rank == 3 ? tensor.stride(1) : 0};
}

// Whether the rows can be read in fours.
bool AreInFours(const RmsNormParameters& p) {
  const auto rows_are = [](const Rows& rows) { return InFours(rows.data, rows.token_stride, rows.head_stride); };
  return InFours(p.weight, p.size) && rows_are(p.x) && rows_are(p.residual) && rows_are(p.out);
}

void LaunchBlocks(const ExecContext& ctx, const RmsNormParameters& p) {
  const auto rows = static_cast<unsigned>(p.num_rows);
  const int quads = CeilDiv(p.size, 4);
  const int per_thread = CeilDiv(quads, kMaxWarps * 32);
  if (!AreInFours(p) || per_thread > 4)
    return MOED_LAUNCH_DEPENDENT(RmsNormBlockKernel, rows, kThreads, 0, ctx.stream, p);
  const auto threads = static_cast<unsigned>(CeilDiv(CeilDiv(quads, per_thread), 32) * 32);
  if (per_thread == 1) return MOED_LAUNCH_DEPENDENT(RmsNormQuadsKernel<1>, rows, threads, 0, ctx.stream, p);
  if (per_thread == 2) return MOED_LAUNCH_DEPENDENT(RmsNormQuadsKernel<2>, rows, threads, 0, ctx.stream, p);
  MOED_LAUNCH_DEPENDENT(RmsNormQuadsKernel<4>, rows, threads, 0, ctx.stream, p);
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
    MOED_LAUNCH_DEPENDENT(RmsNormWarpKernel, blocks, kThreads, 0, ctx.stream, p);
  } else {
    LaunchBlocks(ctx, p);
  }
}

}  // namespace cuda
}  // namespace moed::kernels
