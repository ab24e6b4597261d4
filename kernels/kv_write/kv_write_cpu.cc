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

// The same of keys in words: each row by way of `row_memory`, [k_head_dim].
template <typename T>
MOED_ALWAYS_INLINE void CopyHeadsInWords(const TensorView& rows, int64_t token, const TensorView& pages,
                                         const TensorView& scales, int64_t block, int64_t position, T* row_memory) {
  const int64_t block_size = pages.dim(2), num_words = pages.dim(3) * static_cast<int64_t>(sizeof(T)) / 4;
  for (int64_t head = 0; head < rows.dim(1); ++head) {
    float* const scale = scales.As<float>() + block * scales.stride(0) + head * scales.stride(1) + position;
    CopyRow(rows.As<float>() + token * rows.stride(0) + head * rows.stride(1), rows.dim(2), row_memory, scale);
    char* const out = pages.As<char>() + ((block * rows.dim(1) + head) * block_size * num_words + position) * 4;
    for (int64_t word = 0; word < num_words; ++word) {
      std::memcpy(out + word * block_size * 4, reinterpret_cast<const char*>(row_memory) + word * 4, 4);
    }
  }
}

template <typename T>
void Write(const ExecContext& ctx, const KvWriteArgs& args) {
  const int64_t elements = args.k.dim(1) * (args.k.dim(2) + args.v.dim(2));
  const int64_t block_size = args.k_pages.dim(2);
  const Workspace::Scope scope(ctx.workspace);
  const bool in_words = args.key_layout == KeyLayout::kWords;
  const int64_t row_elements = in_words ? (args.k.dim(2) + 63) / 64 * 64 : 0;
  T* const row_memory = static_cast<T*>(
      ctx.workspace->Allocate(static_cast<size_t>(ctx.threads->num_threads() * row_elements) * sizeof(T)));
  ctx.threads->ParallelFor(args.k.dim(0), kPieceElements / (elements + 1) + 1,
                           [&](int64_t begin, int64_t end, int worker) {
                             for (int64_t token = begin; token < end; ++token) {
                               const int64_t slot = args.slots.As<int64_t>()[token];
                               if (slot < 0) continue;
                               const int64_t block = slot / block_size, position = slot % block_size;
                               if (in_words) {
                                 CopyHeadsInWords<T>(args.k, token, args.k_pages, args.k_scales, block, position,
                                                     row_memory + worker * row_elements);
                               } else {
                                 CopyHeads<T>(args.k, token, args.k_pages, args.k_scales, block, position);
                               }
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
