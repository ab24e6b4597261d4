#include "kernels/common/simd.h"
#include "kernels/embedding/embedding.h"

namespace moed::kernels::MOED_ISA {
namespace {

// Elements worth a piece of their own to a thread.
constexpr int64_t kPieceElements = 16384;

template <typename T>
MOED_ALWAYS_INLINE void ScaleRow(const T* row, float scale, int64_t size, float* out) {
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) Store(out + i, Load(row + i) * scale);
  if (i < size) StoreFirst(out + i, LoadFirst(row + i, size - i) * scale, size - i);
}

template <typename T>
void Gather(const ExecContext& ctx, const EmbeddingArgs& args) {
  const int64_t hidden = args.table.dim(1);
  const int32_t* ids = args.ids.As<int32_t>();
  ctx.threads->ParallelFor(args.ids.dim(0), kPieceElements / (hidden + 1) + 1,
                           [&](int64_t begin, int64_t end, int /*worker*/) {
                             for (int64_t token = begin; token < end; ++token) {
                               ScaleRow(args.table.As<T>() + ids[token] * args.table.stride(0), args.scale, hidden,
                                        args.out.As<float>() + token * args.out.stride(0));
                             }
                           });
}

}  // namespace

void Embedding(const ExecContext& ctx, const EmbeddingArgs& args) {
  switch (args.table.dtype) {
    case DType::kBF16:
      return Gather<BFloat16>(ctx, args);
    case DType::kF16:
      return Gather<Half>(ctx, args);
    default:
      return Gather<float>(ctx, args);
  }
}

}  // namespace moed::kernels::MOED_ISA
