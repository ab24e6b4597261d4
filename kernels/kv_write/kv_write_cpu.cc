#include "kernels/common/simd.h"
#include "kernels/kv_write/kv_write.h"

namespace moed::kernels::MOED_ISA {
namespace {

// Elements worth a piece of their own to a thread.
constexpr int64_t kPieceElements = 16384;

template <typename T>
MOED_ALWAYS_INLINE void CopyRow(const float* row, int64_t size, T* out) {
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) Store(out + i, Load(row + i));
  if (i < size) StoreFirst(out + i, LoadFirst(row + i, size - i), size - i);
}

// All heads of one token, to offset `position` of block `block`.
template <typename T>
MOED_ALWAYS_INLINE void CopyHeads(const TensorView& rows, int64_t token, const TensorView& pages, int64_t block,
                                  int64_t position) {
  const float* row = rows.As<float>() + token * rows.stride(0);
  T* out = pages.As<T>() + block * pages.stride(0) + position * pages.stride(2);
  for (int64_t head = 0; head < rows.dim(1); ++head, row += rows.stride(1), out += pages.stride(1)) {
    CopyRow(row, rows.dim(2), out);
  }
}

template <typename T>
void Write(const ExecContext& ctx, const KvWriteArgs& args) {
  const int64_t elements = args.k.dim(1) * (args.k.dim(2) + args.v.dim(2));
  const int64_t block_size = args.k_pages.dim(2);
  ctx.threads->ParallelFor(args.k.dim(0), kPieceElements / (elements + 1) + 1,
                           [&](int64_t begin, int64_t end, int /*worker*/) {
                             for (int64_t token = begin; token < end; ++token) {
                               const int64_t slot = args.slots.As<int64_t>()[token];
                               if (slot < 0) continue;
                               CopyHeads<T>(args.k, token, args.k_pages, slot / block_size, slot % block_size);
                               CopyHeads<T>(args.v, token, args.v_pages, slot / block_size, slot % block_size);
                             }
                           });
}

}  // namespace

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

}  // namespace moed::kernels::MOED_ISA
