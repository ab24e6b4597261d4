#include "kernels/common/simd_quantize.h"
#include "kernels/gemm/integer_micro_kernel.h"

namespace moed::kernels::MOED_ISA {
namespace {

// Writes one row's integers of a group, as `to_int` makes them of floats, to their places, `step` of them apart for
// each four, and returns their sum.
template <typename Int, typename ToInt>
int32_t QuantizeRow(const float* x, int64_t n, int64_t padded, const ToInt& to_int, int64_t step, Int* to) {
  typedef Int Narrow __attribute__((vector_size(kLanes * sizeof(Int))));
  VecI32 sum = {};
  for (int64_t i = 0; i < padded; i += kLanes) {
    const int64_t left = n - i;
    const VecF32 v = left >= kLanes ? Load(x + i) : LoadFirst(x + i, left > 0 ? left : 0);
    const VecI32 q = to_int(v);
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
                  bool by_row, char* to) {
  const IntegerTileLayout tile_layout(count, layout);
  float row_scales[kMaxIntegerTileRows] = {};
  for (int row = 0; by_row && row < count; ++row) row_scales[row] = LargestMagnitude(rows[row], k) / 127.5f;
  for (int64_t group = 0, first = 0; first < k; ++group, first += layout.group_size) {
    const int64_t n = k - first < layout.group_size ? k - first : layout.group_size;
    const int64_t padded = layout.GroupInputs(k, group);
    auto* const integers = reinterpret_cast<Int*>(to);
    auto* const corrections = reinterpret_cast<int32_t*>(to + tile_layout.DataBytes(padded));
    auto* const scales = reinterpret_cast<float*>(corrections + count);
    for (int row = 0; row < count; ++row) {
      const float* const x = rows[row] + first;
      Int* const places = integers + row * 4;
      if (by_row) {
        const float scale = row_scales[row], divisor = scale == 0.0f ? 1.0f : scale;
        const auto to_int = [&](VecF32 v) { return RoundToInt(v / divisor, -128.0f); };
        corrections[row] = -offset * QuantizeRow(x, n, padded, to_int, count * 4, places);
        scales[row] = scale * PackedWeight::kScaleUnit;
      } else {
        const float largest = LargestMagnitude(x, n), inverse = InverseScale(largest);
        const auto to_int = [&](VecF32 v) { return QuantizeToInt(v, inverse); };
        corrections[row] = -offset * QuantizeRow(x, n, padded, to_int, count * 4, places);
        scales[row] = largest * (PackedWeight::kScaleUnit / 127.0f);
      }
    }
    to += tile_layout.GroupBytes(padded);
  }
}

}  // namespace

void QuantizeTile(const float* const* rows, int count, int64_t k, const IntegerLayout& layout, int32_t offset,
                  bool by_row, void* tile) {
  if (IntegerTileLayout(count, layout).activation_bytes == 1) {
    QuantizeRows<int8_t>(rows, count, k, layout, offset, by_row, static_cast<char*>(tile));
  } else {
    QuantizeRows<ActivationInt>(rows, count, k, layout, offset, by_row, static_cast<char*>(tile));
  }
}

}  // namespace moed::kernels::MOED_ISA
