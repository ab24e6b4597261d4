#include "kernels/common/cuda.h"
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

template <typename T>
__device__ __forceinline__ void CopyHeads(const Side<T>& side, int64_t token, int64_t slot, int num_kv_heads,
                                          int block_size) {
  const int64_t block = slot / block_size;
  const int64_t offset = slot % block_size;
  for (int i = static_cast<int>(threadIdx.x); i < num_kv_heads * side.head_dim; i += kThreads) {
    const int head = i / side.head_dim;
    const int d = i % side.head_dim;
    const int64_t row = (block * num_kv_heads + head) * block_size + offset;
    StoreFloat(side.pages + row * side.head_dim + d,
               side.rows[token * side.token_stride + head * side.head_stride + d]);
  }
}

// As integers: a warp takes a head at a time.
__device__ __forceinline__ void CopyHeads(const Side<int8_t>& side, int64_t token, int64_t slot, int num_kv_heads,
                                          int block_size) {
  if (side.head_dim == 0) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int head = static_cast<int>(threadIdx.x) / 32; head < num_kv_heads; head += kThreads / 32) {
    const float* from = side.rows + token * side.token_stride + head * side.head_stride;
    const int64_t row = (slot / block_size * num_kv_heads + head) * block_size + slot % block_size;
    const float largest = LargestMagnitude(from, side.head_dim);
    const bool is_finite = largest == largest;
    const float inverse = InverseScale(largest);
    for (int i = lane; i < side.head_dim; i += 32) {
      side.pages[row * side.head_dim + i] = QuantizeToInt(is_finite ? from[i] : 0.0f, inverse);
    }
    if (lane == 0) side.scales[row] = largest / 127.0f;
  }
}

// A block a token.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    KvWriteKernel(Side<T> k, Side<T> v, const int64_t* slots, int num_kv_heads, int block_size) {
  const int64_t token = blockIdx.x;
  const int64_t slot = slots[token];
  if (slot < 0) return;
  CopyHeads(k, token, slot, num_kv_heads, block_size);
  CopyHeads(v, token, slot, num_kv_heads, block_size);
}

template <typename T>
Side<T> SideOf(const TensorView& rows, const TensorView& pages, const TensorView& scales) {
  return {rows.As<float>(), rows.stride(0),     rows.stride(1),
          pages.As<T>(),    scales.As<float>(), static_cast<int>(pages.dim(3))};
}

template <typename T>
void Write(const ExecContext& ctx, const KvWriteArgs& args) {
  const auto num_tokens = static_cast<unsigned>(args.k.dim(0));
  if (num_tokens == 0) return;
  MOED_LAUNCH(KvWriteKernel<T>, num_tokens, kThreads, 0, ctx.stream, SideOf<T>(args.k, args.k_pages, args.k_scales),
              SideOf<T>(args.v, args.v_pages, args.v_scales), args.slots.As<int64_t>(),
              static_cast<int>(args.k_pages.dim(1)), static_cast<int>(args.k_pages.dim(2)));
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
