#include <algorithm>
#include <type_traits>

#include "kernels/common/cuda.h"
#include "kernels/common/ptx.h"
#include "kernels/kv_write/kv_write.h"

namespace moed::kernels {
namespace {

constexpr int kThreads = 128;

// New rows [num_tokens, num_kv_heads, head_dim], the first two dimensions strided, and the pages that take them.
template <typename T>
struct Side {
  const float* rows;
  int64_t token_stride, head_stride;
  T* pages;       // [num_blocks, num_kv_heads, block_size, head_dim]
  float* scales;  // [num_blocks, num_kv_heads, block_size], of integers
  int head_dim;
};

// Where a token's rows go: those of head h lie block_size rows after those of head h - 1.
struct Place {
  int64_t first_row, head_rows;

  __device__ __forceinline__ int64_t Row(int head) const { return first_row + head * head_rows; }
};

// A thread an element; `index` counts threads of all of the token's blocks.
template <typename T>
__device__ __forceinline__ void CopyPart(const Side<T>& side, int64_t token, const Place& place, int num_kv_heads,
                                         int index) {
  if (index >= num_kv_heads * side.head_dim) return;
  const int head = index / side.head_dim;
  const int d = index % side.head_dim;
  StoreFloat(side.pages + place.Row(head) * side.head_dim + d,
             side.rows[token * side.token_stride + head * side.head_stride + d]);
}

// As integers: a warp a head.
__device__ __forceinline__ void CopyPart(const Side<int8_t>& side, int64_t token, const Place& place, int num_kv_heads,
                                         int index) {
  const int head = index / 32;
  if (head >= num_kv_heads || side.head_dim == 0) return;
  const int lane = index % 32;
  const float* from = side.rows + token * side.token_stride + head * side.head_stride;
  const int64_t row = place.Row(head);
  const float largest = LargestMagnitude(from, side.head_dim);
  const bool is_finite = largest == largest;
  const float inverse = InverseScale(largest);
  for (int i = lane; i < side.head_dim; i += 32) {
    side.pages[row * side.head_dim + i] = QuantizeToInt(is_finite ? from[i] : 0.0f, inverse);
  }
  if (lane == 0) side.scales[row] = largest / 127.0f;
}

// Grid: tokens, pieces of their rows, keys and values.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    KvWriteKernel(Side<T> k, Side<T> v, const int64_t* slots, int num_kv_heads, int block_size) {
  ptx::AwaitEarlierGrids();
  const int64_t token = blockIdx.x;
  const int64_t slot = slots[token];
  if (slot < 0) return;
  const Place place = {slot / block_size * num_kv_heads * block_size + slot % block_size, block_size};
  const int index = static_cast<int>(blockIdx.y) * kThreads + static_cast<int>(threadIdx.x);
  if (blockIdx.z == 0) {
    CopyPart(k, token, place, num_kv_heads, index);
  } else {
    CopyPart(v, token, place, num_kv_heads, index);
  }
}

template <typename T>
Side<T> SideOf(const TensorView& rows, const TensorView& pages, const TensorView& scales) {
  return {rows.As<float>(), rows.stride(0),     rows.stride(1),
          pages.As<T>(),    scales.As<float>(), static_cast<int>(pages.dim(3))};
}

template <typename T>
void Write(const ExecContext& ctx, const KvWriteArgs& args) {
  const auto k = SideOf<T>(args.k, args.k_pages, args.k_scales);
  const auto v = SideOf<T>(args.v, args.v_pages, args.v_scales);
  const int num_kv_heads = static_cast<int>(args.k_pages.dim(1));
  constexpr bool kIsInteger = std::is_same_v<T, int8_t>;
  const int threads = num_kv_heads * (kIsInteger ? 32 : std::max(k.head_dim, v.head_dim));
  if (args.k.dim(0) == 0 || threads == 0) return;
  const dim3 grid(static_cast<unsigned>(args.k.dim(0)), static_cast<unsigned>(CeilDiv(threads, kThreads)),
                  v.head_dim == 0 ? 1 : 2);
  MOED_LAUNCH_DEPENDENT(KvWriteKernel<T>, grid, kThreads, 0, ctx.stream, k, v, args.slots.As<int64_t>(), num_kv_heads,
                        static_cast<int>(args.k_pages.dim(2)));
}

}  // namespace

namespace cuda {

void KvWrite(const ExecContext& ctx, const KvWriteArgs& args) {
  switch (args.k_pages.dtype) {
    case DType::kBF16:
      return Write<BFloat16>(ctx, args);
    case DType::kF16:
      return Write<Half>(ctx, args);
    case DType::kI8:
      return Write<int8_t>(ctx, args);
    default:
      return Write<float>(ctx, args);
  }
}

}  // namespace cuda
}  // namespace moed::kernels
