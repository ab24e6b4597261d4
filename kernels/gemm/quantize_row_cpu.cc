#include "kernels/common/simd_quantize.h"
#include "kernels/gemm/integer_micro_kernel.h"

namespace moed::kernels::MOED_ISA {
namespace {

MOED_ALWAYS_INLINE VecI8 NarrowTo(VecI32 v, int8_t /*type*/) { return NarrowTo8(v); }
MOED_ALWAYS_INLINE VecU16 NarrowTo(VecI32 v, int16_t /*type*/) { return NarrowTo16(reinterpret_cast<VecU32>(v)); }

// Writes the integers that `to_int` makes of the floats x[0, n), with zeros up to `padded`, and returns their sum.
template <typename Int, typename ToInt>
int32_t QuantizeGroup(const float* x, int64_t n, int64_t padded, const ToInt& to_int, Int* to) {
  VecI32 sum = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const VecI32 q = to_int(Load(x + i));
    sum += q;
    const auto narrow = NarrowTo(q, Int());
    std::memcpy(to + i, &narrow, sizeof(narrow));
  }
  for (; i < padded; i += kLanes) {
    const VecI32 q = to_int(LoadFirst(x + i, n > i ? n - i : 0));
    sum += q;
    const auto narrow = NarrowTo(q, Int());
    const int64_t left = padded - i < kLanes ? padded - i : kLanes;
    std::memcpy(to + i, &narrow, static_cast<size_t>(left) * sizeof(Int));
  }
  return ReduceSum(sum);
}

template <typename Int>
void Quantize(const float* row, int64_t k, const IntegerLayout& layout, int32_t offset, bool by_row, char* to) {
  const IntegerTileLayout tile_layout(1, layout);
  const float row_scale = by_row ? LargestMagnitude(row, k) / 127.5f : 0.0f;
  for (int64_t group = 0, first = 0; first < k; ++group, first += layout.group_size) {
    const int64_t n = k - first < layout.group_size ? k - first : layout.group_size;
    const int64_t inputs = layout.GroupInputs(k, group), padded = tile_layout.Padded(inputs);
    auto* const integers = reinterpret_cast<Int*>(to);
    int32_t sum;
    float scale;
    if (by_row) {
      const float divisor = row_scale == 0.0f ? 1.0f : row_scale;
      const auto to_int = [&](VecF32 v) { return RoundToInt(v / divisor, -128.0f); };
      sum = QuantizeGroup(row + first, n, padded, to_int, integers);
      scale = row_scale * PackedWeight::kScaleUnit;
    } else {
      const float largest = LargestMagnitude(row + first, n), inverse = InverseScale(largest);
      const auto to_int = [&](VecF32 v) { return QuantizeToInt(v, inverse); };
      sum = QuantizeGroup(row + first, n, padded, to_int, integers);
      scale = largest * (PackedWeight::kScaleUnit / 127.0f);
    }
    const int32_t correction = -offset * sum;
    std::memcpy(to + tile_layout.DataBytes(inputs), &correction, sizeof(correction));
    std::memcpy(to + tile_layout.DataBytes(inputs) + sizeof(correction), &scale, sizeof(scale));
    to += tile_layout.GroupBytes(inputs);
  }
}

}  // namespace

void QuantizeRow(const float* row, int64_t k, const IntegerLayout& layout, int32_t offset, bool by_row, void* tile) {
  if (IntegerTileLayout(1, layout).activation_bytes == 1) {
    Quantize<int8_t>(row, k, layout, offset, by_row, static_cast<char*>(tile));
  } else {
    Quantize<ActivationInt>(row, k, layout, offset, by_row, static_cast<char*>(tile));
  }
}

}  // namespace moed::kernels::MOED_ISA
