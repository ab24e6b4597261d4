// One launch: a block has some heads of one token, all of them where a norm spans the row, and keeps them in shared
// memory from the norm over the rotation to where they are written. Integers in the cache, and norms behind the
// rotation, are left to the ops themselves.
#include <algorithm>

#include "kernels/attention_inputs/attention_inputs.h"
#include "kernels/common/cuda.h"
#include "kernels/common/ptx.h"

namespace moed::kernels {
namespace {

constexpr int kMaxThreads = 512;
constexpr int kMaxWarps = kMaxThreads / 32;
// Floats of a block's heads in shared memory at most.
constexpr int64_t kMaxSpan = 12 * 1024;

// Queries, keys or values of all tokens.
struct Side {
  float* rows;
  int64_t stride;
  const float* norm;  // of a block's span, or null
  int heads, head_dim;
  int heads_per_block;

  __device__ __forceinline__ int blocks() const { return heads / heads_per_block; }
};

template <typename T>
struct InputsParameters {
  Side q, k, v;
  T *k_pages, *v_pages;  // [num_blocks, num_kv_heads, block_size, head_dim]
  int block_size;
  const int64_t* slots;
  const int32_t* positions;
  const float* cos_sin;
  int64_t cos_sin_stride;
  int half;  // rotary_dim / 2
  bool interleaved;
  float eps;
};

// body(i, from[i]) for all i < count, by the block's threads; several loads are under way together.
template <typename Body>
__device__ __forceinline__ void ForEach(const float* from, int count, const Body& body) {
  constexpr int kAtOnce = 4;
  const int threads = static_cast<int>(blockDim.x);
  for (int first = static_cast<int>(threadIdx.x); first < count; first += kAtOnce * threads) {
    float values[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) values[i] = first + i * threads < count ? from[first + i * threads] : 0.0f;
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i * threads < count) body(first + i * threads, values[i]);
    }
  }
}

// Brings a block's heads to shared memory, normalised.
__device__ __forceinline__ void LoadHeads(const Side& side, const float* from, float eps, float* heads,
                                          float (&warp_sums)[kMaxWarps]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int span = side.heads_per_block * side.head_dim;
  float sum = 0.0f;
  ForEach(from, span, [&](int i, float value) {
    heads[i] = value;
    sum = fmaf(value, value, sum);
  });
  if (side.norm != nullptr) {
    sum = WarpSum(sum);
    if (lane == 0) warp_sums[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = WarpSum(lane < static_cast<int>(blockDim.x) / 32 ? warp_sums[lane] : 0.0f);
    const float factor = rsqrtf(sum / static_cast<float>(span) + eps);
    ForEach(side.norm, span, [&](int i, float weight) { heads[i] = heads[i] * factor * weight; });
  }
  __syncthreads();
}

// Element d of a head, rotated.
template <typename T>
__device__ __forceinline__ float Rotated(const InputsParameters<T>& p, const float* cosines, const float* head, int d) {
  if (d >= 2 * p.half) return head[d];
  const int i = p.interleaved ? d / 2 : d % p.half;
  const bool is_second = p.interleaved ? d % 2 != 0 : d >= p.half;
  const int distance = p.interleaved ? 1 : p.half;
  const float other = head[is_second ? d - distance : d + distance];
  const float sine = cosines[p.half + i];
  return head[d] * cosines[i] + (is_second ? other * sine : -(other * sine));
}

// A block's heads into the pages, element(head, d) each.
template <typename T, typename Element>
__device__ __forceinline__ void WriteHeads(const InputsParameters<T>& p, const Side& side, int64_t token,
                                           int first_head, T* pages, const Element& element) {
  const int64_t slot = p.slots[token];
  if (slot < 0) return;
  const int64_t first_row = slot / p.block_size * side.heads * p.block_size + slot % p.block_size;
  for (int i = static_cast<int>(threadIdx.x); i < side.heads_per_block * side.head_dim;
       i += static_cast<int>(blockDim.x)) {
    const int head = i / side.head_dim;
    const int d = i % side.head_dim;
    const int64_t row = first_row + static_cast<int64_t>(first_head + head) * p.block_size;
    StoreFloat(pages + row * side.head_dim + d, element(head, d));
  }
}

// Grid: tokens, pieces of their queries, keys and values.
template <typename T>
__global__ void __launch_bounds__(kMaxThreads) AttentionInputsKernel(InputsParameters<T> p) {
  ptx::AwaitEarlierGrids();
  MOED_DYNAMIC_SHARED(float, heads);
  MOED_SHARED(float, warp_sums, [kMaxWarps]);
  const int64_t token = blockIdx.x;
  int piece = static_cast<int>(blockIdx.y);
  const float* cosines = p.cos_sin + p.positions[token] * p.cos_sin_stride;
  if (piece < p.q.blocks()) {
    const int span = p.q.heads_per_block * p.q.head_dim;
    float* row = p.q.rows + token * p.q.stride + piece * span;
    LoadHeads(p.q, row, p.eps, heads, warp_sums);
    for (int i = static_cast<int>(threadIdx.x); i < span; i += static_cast<int>(blockDim.x)) {
      const int d = i % p.q.head_dim;
      row[i] = Rotated(p, cosines, heads + i - d, d);
    }
    return;
  }
  piece -= p.q.blocks();
  if (piece < p.k.blocks()) {
    const int first_head = piece * p.k.heads_per_block;
    LoadHeads(p.k, p.k.rows + token * p.k.stride + first_head * p.k.head_dim, p.eps, heads, warp_sums);
    WriteHeads(p, p.k, token, first_head, p.k_pages,
               [&](int head, int d) { return Rotated(p, cosines, heads + head * p.k.head_dim, d); });
    return;
  }
  piece -= p.k.blocks();
  const int first_head = piece * p.v.heads_per_block;
  const float* from = p.v.rows + token * p.v.stride + first_head * p.v.head_dim;
  WriteHeads(p, p.v, token, first_head, p.v_pages, [&](int head, int d) { return from[head * p.v.head_dim + d]; });
}

// How the rows are cut: as a whole where a norm spans them, else by heads.
Side SideOf(const TensorView& rows, int64_t head_dim, const TensorView& norm) {
  Side side = {};
  side.rows = rows.As<float>();
  side.stride = rows.stride(0);
  side.norm = norm.As<float>();
  side.head_dim = static_cast<int>(head_dim);
  side.heads = static_cast<int>(rows.dim(1) / head_dim);
  side.heads_per_block = !norm.empty() && norm.dim(0) == rows.dim(1) ? side.heads : 1;
  return side;
}

template <typename T>
void Run(const ExecContext& ctx, const AttentionInputsArgs& args) {
  InputsParameters<T> p = {};
  p.q = SideOf(args.q, args.k_pages.dim(3), args.q_norm);
  p.k = SideOf(args.k, args.k_pages.dim(3), args.k_norm);
  p.v = SideOf(args.v, args.v_pages.dim(3), {});
  p.k_pages = args.k_pages.As<T>();
  p.v_pages = args.v_pages.As<T>();
  p.block_size = static_cast<int>(args.k_pages.dim(2));
  p.slots = args.slots.As<int64_t>();
  p.positions = args.positions.As<int32_t>();
  p.cos_sin = args.cos_sin.As<float>();
  p.cos_sin_stride = args.cos_sin.stride(0);
  p.half = static_cast<int>(args.cos_sin.dim(1) / 2);
  p.interleaved = args.interleaved;
  p.eps = args.eps;
  const auto span = [](const Side& side) { return side.heads_per_block * side.head_dim; };
  const auto blocks = [](const Side& side) { return side.heads / side.heads_per_block; };
  const int longest = std::max(span(p.q), span(p.k));
  const int threads = std::min(CeilDiv(longest, 32) * 32, kMaxThreads);
  // Values are only copied, by as many blocks as give each thread an element.
  const int value_heads = std::max(threads / p.v.head_dim, 1);
  p.v.heads_per_block = p.v.heads % value_heads == 0 ? value_heads : 1;
  const dim3 grid(static_cast<unsigned>(args.q.dim(0)), static_cast<unsigned>(blocks(p.q) + blocks(p.k) + blocks(p.v)));
  const size_t shared_bytes = static_cast<size_t>(longest) * sizeof(float);
  MOED_LAUNCH_DEPENDENT(AttentionInputsKernel<T>, grid, static_cast<unsigned>(threads), shared_bytes, ctx.stream, p);
}

bool CanRunAtOnce(const AttentionInputsArgs& args) {
  const bool is_norm_first = args.q_norm.empty() || !args.norm_after_rope;
  const bool fits = std::max({args.q.dim(1), args.k.dim(1), args.v.dim(1)}) <= kMaxSpan;
  return is_norm_first && fits && args.k_pages.dtype != DType::kI8 && args.v.dim(1) > 0;
}

}  // namespace

namespace cuda {

void AttentionInputs(const ExecContext& ctx, const AttentionInputsArgs& args) {
  if (args.q.dim(0) == 0) return;
  if (!CanRunAtOnce(args)) {
    return ForEachPart(
        args, [&](const RmsNormArgs& part) { cuda::RmsNorm(ctx, part); },
        [&](const RopeArgs& part) { cuda::Rope(ctx, part); },
        [&](const KvWriteArgs& part) { cuda::KvWrite(ctx, part); });
  }
  switch (args.k_pages.dtype) {
    case DType::kBF16:
      return Run<BFloat16>(ctx, args);
    case DType::kF16:
      return Run<Half>(ctx, args);
    default:
      return Run<float>(ctx, args);
  }
}

}  // namespace cuda
}  // namespace moed::kernels
