// The functions of simd.h over arrays, for each instruction set; simd_test.cc calls them.
#include "kernels/common/simd.h"

namespace moed::kernels::MOED_ISA {

#define MOED_ELEMENTWISE(Name, function)                              \
  void Name(const float* in, float* out, int64_t n) {                 \
    for (int64_t i = 0; i < n; i += kLanes) {                         \
      const int64_t count = n - i < kLanes ? n - i : kLanes;          \
      StoreFirst(out + i, function(LoadFirst(in + i, count)), count); \
    }                                                                 \
  }
MOED_ELEMENTWISE(TestExp, Exp)
MOED_ELEMENTWISE(TestSigmoid, Sigmoid)
MOED_ELEMENTWISE(TestSilu, Silu)
MOED_ELEMENTWISE(TestGeluTanh, GeluTanh)

// In whole vectors, then a partial one.
template <typename From, typename To>
void Convert(const From* in, To* out, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) Store(out + i, Load(in + i));
  StoreFirst(out + i, LoadFirst(in + i, n - i), n - i);
}
void TestFromHalf(const Half* in, float* out, int64_t n) { Convert(in, out, n); }
void TestFromBFloat16(const BFloat16* in, float* out, int64_t n) { Convert(in, out, n); }
void TestToHalf(const float* in, Half* out, int64_t n) { Convert(in, out, n); }
void TestToBFloat16(const float* in, BFloat16* out, int64_t n) { Convert(in, out, n); }

int TestLanes() { return kLanes; }
float TestReduceSum(const float* in) { return ReduceSum(Load(in)); }
float TestReduceMax(const float* in) { return ReduceMax(Load(in)); }
void TestSet(float value, float* out) { Store(out, Set(value)); }

}  // namespace moed::kernels::MOED_ISA
