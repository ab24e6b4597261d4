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
  T* pages;  // [num_blocks, num_kv_heads, block_size, head_dim]
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
Side<T> SideOf(const TensorView& rows, const TensorView& pages) {
  return {rows.As<float>(), rows.stride(0), rows.stride(1), pages.As<T>(), static_cast<int>(pages.dim(3))};
}

template <typename T>
void Write(const ExecContext& ctx, const KvWriteArgs& args) {
  const auto num_tokens = static_cast<unsigned>(args.k.dim(0));
  if (num_tokens == 0) return;
  MOED_LAUNCH(KvWriteKernel<T>, num_tokens, kThreads, 0, ctx.stream, SideOf<T>(args.k, args.k_pages),
              SideOf<T>(args.v, args.v_pages), args.slots.As<int64_t>(), static_cast<int>(args.k_pages.dim(1)),
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
    default:
      return Write<float>(ctx, args);
  }
}

}  // namespace cuda
}  // namespace moed::kernels
