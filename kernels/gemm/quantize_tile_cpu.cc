#include "kernels/gemm/integer_micro_kernel.h"

namespace moed::kernels::MOED_ISA {
namespace {

// To the nearest integer, to even where two are as near; |x| < 2^22.
MOED_ALWAYS_INLINE VecI32 RoundToInt(VecF32 x) { return reinterpret_cast<VecI32>(x + 12582912.0f) - 0x4b400000; }

// The largest magnitude of x[0, n); NaN where there is an infinity or a NaN.
float LargestMagnitude(const float* x, int64_t n) {
  VecF32 largest = {}, poison = {};
  for (int64_t i = 0; i < n; i += kLanes) {
    const VecF32 v = n - i < kLanes ? LoadFirst(x + i, n - i) : Load(x + i);
    largest = Max(v < 0.0f ? -v : v, largest);
    poison += v * 0.0f;
  }
  return ReduceMax(largest) + ReduceSum(poison);
}

// Writes one row's integers of a group to their places, `step` of them apart for each four, and returns their sum.
int32_t QuantizeRow(const float* x, int64_t n, int64_t padded, float inverse, int64_t step, ActivationInt* to) {
  typedef ActivationInt Narrow __attribute__((vector_size(kLanes * sizeof(ActivationInt))));
  VecI32 sum = {};
  for (int64_t i = 0; i < padded; i += kLanes) {
    const int64_t left = n - i;
    const VecF32 v = left >= kLanes ? Load(x + i) : LoadFirst(x + i, left > 0 ? left : 0);
    // The bounds also make an integer of NaN.
    const VecI32 q = RoundToInt(Min(Max(v * inverse, Set(-127.0f)), Set(127.0f)));
    sum += q;
    const Narrow narrow = __builtin_convertvector(q, Narrow);
    for (int j = 0; j < kLanes && i + j < padded; j += 4, to += step) {
      std::memcpy(to, reinterpret_cast<const ActivationInt*>(&narrow) + j, 4 * sizeof(ActivationInt));
    }
  }
  return ReduceSum(sum);
}

}  // namespace

void QuantizeTile(const float* const* rows, int count, int64_t k, const IntegerLayout& layout, int32_t offset,
                  void* tile) {
  const IntegerTileLayout tile_layout{count};
  char* to = static_cast<char*>(tile);
  for (int64_t group = 0, first = 0; first < k; ++group, first += layout.group_size) {
    const int64_t n = k - first < layout.group_size ? k - first : layout.group_size;
    const int64_t padded = layout.GroupInputs(k, group);
    auto* const integers = reinterpret_cast<ActivationInt*>(to);
    auto* const corrections = reinterpret_cast<int32_t*>(to + tile_layout.DataBytes(padded));
    auto* const scales = reinterpret_cast<float*>(corrections + count);
    for (int row = 0; row < count; ++row) {
      const float largest = LargestMagnitude(rows[row] + first, n);
      // Where 127 / largest is beyond the floats, the values are as good as zero.
      const float inverse = largest < 1e-30f ? 0.0f : 127.0f / largest;
      const int32_t sum = QuantizeRow(rows[row] + first, n, padded, inverse, count * 4, integers + row * 4);
      corrections[row] = -offset * sum;
      scales[row] = largest * (PackedWeight::kScaleUnit / 127.0f);
    }
    to += tile_layout.GroupBytes(padded);
  }
}

}  // namespace moed::kernels::MOED_ISA
