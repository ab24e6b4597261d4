#include "kernels/common/simd_quantize.h"
#include "kernels/kv_write/kv_write.h"

namespace moed::kernels::MOED_ISA {
namespace {

// Elements worth a piece of their own to a thread.
constexpr int64_t kPieceElements = 16384;

template <typename T>
MOED_ALWAYS_INLINE void CopyRow(const float* row, int64_t size, T* out, float* /*scale*/) {
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) Store(out + i, Load(row + i));
  if (i < size) StoreFirst(out + i, LoadFirst(row + i, size - i), size - i);
}

MOED_ALWAYS_INLINE void CopyRow(const float* row, int64_t size, int8_t* out, float* scale) {
  const float largest = LargestMagnitude(row, size);
  // Of a row that is not finite, the scale alone tells.
  const float inverse = largest == largest ? InverseScale(largest) : 0.0f;
  for (int64_t i = 0; i < size; i += kLanes) {
    const int64_t n = size - i < kLanes ? size - i : kLanes;
    const VecF32 v = largest == largest ? LoadFirst(row + i, n) : VecF32{};
    const VecI8 q = NarrowTo8(QuantizeToInt(v, inverse));
    std::memcpy(out + i, &q, static_cast<size_t>(n));
  }
  *scale = largest == largest ? largest / 127.0f : __builtin_nanf("");
}

// All heads of one token, to offset `position` of block `block`.
template <typename T>
MOED_ALWAYS_INLINE void CopyHeads(const TensorView& rows, int64_t token, const TensorView& pages,
                                  const TensorView& scales, int64_t block, int64_t position) {
  const float* row = rows.As<float>() + token * rows.stride(0);
  T* out = pages.As<T>() + block * pages.stride(0) + position * pages.stride(2);
  float* scale = scales.As<float>() + block * scales.stride(0) + position;
  for (int64_t head = 0; head < rows.dim(1); ++head) {
    CopyRow(row, rows.dim(2), out, scale);
    row += rows.stride(1);
    out += pages.stride(1);
    scale += scales.stride(1);
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
                               const int64_t block = slot / block_size, position = slot % block_size;
                               CopyHeads<T>(args.k, token, args.k_pages, args.k_scales, block, position);
                               CopyHeads<T>(args.v, token, args.v_pages, args.v_scales, block, position);
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
    case DType::kI8:
      return Write<int8_t>(ctx, args);
    default:
      return Write<float>(ctx, args);
  }
}

}  // namespace moed::kernels::MOED_ISA
