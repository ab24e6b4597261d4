#include "kernels/common/simd_quantize.h"
#include "kernels/gemm/integer_micro_kernel.h"

namespace moed::kernels::MOED_ISA {
namespace {

// Writes one row's integers of a group to their places, `step` of them apart for each four, and returns their sum.
template <typename Int>
int32_t QuantizeRow(const float* x, int64_t n, int64_t padded, float inverse, int64_t step, Int* to) {
  typedef Int Narrow __attribute__((vector_size(kLanes * sizeof(Int))));
  VecI32 sum = {};
  for (int64_t i = 0; i < padded; i += kLanes) {
    const int64_t left = n - i;
    const VecF32 v = left >= kLanes ? Load(x + i) : LoadFirst(x + i, left > 0 ? left : 0);
    const VecI32 q = QuantizeToInt(v, inverse);
    sum += q;
    const Narrow narrow = __builtin_convertvector(q, Narrow);
    for (int j = 0; j < kLanes && i + j < padded; j += 4, to += step) {
      std::memcpy(to, reinterpret_cast<const Int*>(&narrow) + j, 4 * sizeof(Int));
    }
  }
  return ReduceSum(sum);
}

template <typename Int>
void QuantizeRows(const float* const* rows, int count, int64_t k, const IntegerLayout& layout, int32_t offset,
                  char* to) {
  const IntegerTileLayout tile_layout(count, layout);
  for (int64_t group = 0, first = 0; first < k; ++group, first += layout.group_size) {
    const int64_t n = k - first < layout.group_size ? k - first : layout.group_size;
    const int64_t padded = layout.GroupInputs(k, group);
    auto* const integers = reinterpret_cast<Int*>(to);
    auto* const corrections = reinterpret_cast<int32_t*>(to + tile_layout.DataBytes(padded));
    auto* const scales = reinterpret_cast<float*>(corrections + count);
    for (int row = 0; row < count; ++row) {
      const float largest = LargestMagnitude(rows[row] + first, n);
      const int32_t sum =
          QuantizeRow(rows[row] + first, n, padded, InverseScale(largest), count * 4, integers + row * 4);
      corrections[row] = -offset * sum;
      scales[row] = largest * (PackedWeight::kScaleUnit / 127.0f);
    }
    to += tile_layout.GroupBytes(padded);
  }
}

}  // namespace

void QuantizeTile(const float* const* rows, int count, int64_t k, const IntegerLayout& layout, int32_t offset,
                  void* tile) {
  if (IntegerTileLayout(count, layout).activation_bytes == 1) {
    QuantizeRows<int8_t>(rows, count, k, layout, offset, static_cast<char*>(tile));
  } else {
    QuantizeRows<ActivationInt>(rows, count, k, layout, offset, static_cast<char*>(tile));
  }
}

}  // namespace moed::kernels::MOED_ISA
