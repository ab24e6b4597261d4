#include <bit>

#include "tests/support/tensor_testing.h"

namespace moed::kernels {

// The bodies of simd_test_cpu.cc.
#define MOED_DECLARE_SIMD(isa)                                      \
  namespace isa {                                                   \
  void TestExp(const float* in, float* out, int64_t n);             \
  void TestSigmoid(const float* in, float* out, int64_t n);         \
  void TestSilu(const float* in, float* out, int64_t n);            \
  void TestGeluTanh(const float* in, float* out, int64_t n);        \
  void TestFromHalf(const Half* in, float* out, int64_t n);         \
  void TestFromBFloat16(const BFloat16* in, float* out, int64_t n); \
  void TestToHalf(const float* in, Half* out, int64_t n);           \
  void TestToBFloat16(const float* in, BFloat16* out, int64_t n);   \
  int TestLanes();                                                  \
  float TestReduceSum(const float* in);                             \
  float TestReduceMax(const float* in);                             \
  void TestSet(float value, float* out);                            \
  }
#define MOED_SIMD_TABLE(isa)                                                                                       \
  Simd {                                                                                                           \
    isa::TestExp, isa::TestSigmoid, isa::TestSilu, isa::TestGeluTanh, isa::TestFromHalf, isa::TestFromBFloat16,    \
        isa::TestToHalf, isa::TestToBFloat16, isa::TestLanes, isa::TestReduceSum, isa::TestReduceMax, isa::TestSet \
  }
MOED_DECLARE_SIMD(generic)
#if defined(__x86_64__)
MOED_DECLARE_SIMD(avx2)
MOED_DECLARE_SIMD(avx512)
#endif

namespace {

using test::Random;
using test::TestTensor;

struct Simd {
  void (*exp)(const float*, float*, int64_t);
  void (*sigmoid)(const float*, float*, int64_t);
  void (*silu)(const float*, float*, int64_t);
  void (*gelu_tanh)(const float*, float*, int64_t);
  void (*from_half)(const Half*, float*, int64_t);
  void (*from_bfloat16)(const BFloat16*, float*, int64_t);
  void (*to_half)(const float*, Half*, int64_t);
  void (*to_bfloat16)(const float*, BFloat16*, int64_t);
  int (*lanes)();
  float (*reduce_sum)(const float*);
  float (*reduce_max)(const float*);
  void (*set)(float, float*);
};

template <typename Check>
void ForEachSimd(const Check& check) {
  for (Isa isa : {Isa::kGeneric, Isa::kAvx2, Isa::kAvx512}) {
    if (isa > BestIsa()) continue;
    SCOPED_TRACE(IsaName(isa));
#if defined(__x86_64__)
    check(isa == Isa::kAvx512 ? MOED_SIMD_TABLE(avx512)
          : isa == Isa::kAvx2 ? MOED_SIMD_TABLE(avx2)
                              : MOED_SIMD_TABLE(generic));
#else
    check(MOED_SIMD_TABLE(generic));
#endif
  }
}

// The distance from a float near `value` to the next.
double UlpAt(double value) {
  const double magnitude = std::max(std::abs(value), 0x1p-126);
  return std::ldexp(1.0, std::ilogb(magnitude) - 23);
}

// Values that a function meets, and some that it should survive.
TestTensor Inputs(Random& random) {
  TestTensor x({20011});
  float* const values = x.As<float>();
  test::FillUniform(x, random, -110, 95);
  for (int i = 0; i < 5000; ++i) values[i] = static_cast<float>(random.Normal());
  const float edges[] = {0.0f,    -0.0f, HUGE_VALF, -HUGE_VALF, NAN,        1e-45f,
                         -1e-40f, 3e38f, -3e38f,    88.72283f,  -87.33654f, -103.97208f};
  std::copy(std::begin(edges), std::end(edges), values);
  return x;
}

// Within `ulps` of `exact(x)`, in an own tensor to see that nothing beyond the end is touched.
template <typename Exact>
void ExpectUlps(void (*function)(const float*, float*, int64_t), const TestTensor& x, double ulps, const Exact& exact) {
  const int64_t n = x.view().num_elements();
  TestTensor out({n}), expected({n}), exact_values({n});
  function(x.As<float>(), out.As<float>(), n);
  for (int64_t i = 0; i < n; ++i) expected.As<float>()[i] = static_cast<float>(exact(double{x.As<float>()[i]}));
  EXPECT_TRUE(test::AllWithin(out, expected, [&](int64_t i) {
    const double value = exact(double{x.As<float>()[i]});
    return (ulps + 0.5) * UlpAt(value);  // and half for the rounding of `expected`
  }));
}

TEST(SimdTest, Exp) {
  Random random;
  const TestTensor x = Inputs(random);
  ForEachSimd([&](const Simd& simd) { ExpectUlps(simd.exp, x, 2, [](double v) { return std::exp(v); }); });
}

TEST(SimdTest, Activations) {
  Random random;
  TestTensor x({4001});
  test::FillUniform(x, random, -30, 30);
  ForEachSimd([&](const Simd& simd) {
    ExpectUlps(simd.sigmoid, x, 4, [](double v) { return 1 / (1 + std::exp(-v)); });
    ExpectUlps(simd.silu, x, 4, [](double v) { return v / (1 + std::exp(-v)); });
  });
  // In its tail GELU is e to the power of 2 u, whose rounding counts |2 u| times.
  test::FillUniform(x, random, -3, 10);
  ForEachSimd([&](const Simd& simd) {
    ExpectUlps(simd.gelu_tanh, x, 24,
               [](double v) { return 0.5 * v * (1 + std::tanh(std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v))); });
  });
}

// All 65536 values, against the scalar conversions.
TEST(SimdTest, SixteenBitFloats) {
  constexpr int64_t kCount = 65536;
  TestTensor bits({kCount - 3}, DType::kF16);  // an odd end
  const int64_t n = bits.view().num_elements();
  for (int64_t i = 0; i < n; ++i) bits.As<Half>()[i].bits = static_cast<uint16_t>(i + 3);
  TestTensor expected({n}), out({n});
  ForEachSimd([&](const Simd& simd) {
    for (int64_t i = 0; i < n; ++i) expected.As<float>()[i] = ToFloat(bits.As<Half>()[i]);
    simd.from_half(bits.As<Half>(), out.As<float>(), n);
    EXPECT_TRUE(test::AllClose(out, expected, 0, 0));
    for (int64_t i = 0; i < n; ++i) expected.As<float>()[i] = ToFloat(bits.As<BFloat16>()[i]);
    simd.from_bfloat16(bits.As<BFloat16>(), out.As<float>(), n);
    EXPECT_TRUE(test::BitIdentical(out, expected));
  });
}

// Random bit patterns and those between two neighbours, where rounding decides.
TEST(SimdTest, RoundsToSixteenBits) {
  Random random;
  TestTensor x({30013});
  const int64_t n = x.view().num_elements();
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits = static_cast<uint32_t>(random.engine()());
    if (i % 3 == 1) bits = (bits & 0xffff0000u) | 0x8000u;  // halfway between two bf16
    if (i % 3 == 2) bits = (bits & 0x8fffe000u) | 0x1000u | (0x30000000u + (bits & 0x0f000000u));  // two halves
    x.As<float>()[i] = std::bit_cast<float>(bits);
  }
  TestTensor half({n}, DType::kF16), expected_half({n}, DType::kF16);
  TestTensor bfloat({n}, DType::kBF16), expected_bfloat({n}, DType::kBF16);
  for (int64_t i = 0; i < n; ++i) {
    expected_half.As<Half>()[i] = ToHalf(x.As<float>()[i]);
    expected_bfloat.As<BFloat16>()[i] = ToBFloat16(x.As<float>()[i]);
  }
  ForEachSimd([&](const Simd& simd) {
    simd.to_half(x.As<float>(), half.As<Half>(), n);
    EXPECT_TRUE(test::AllClose(half, expected_half, 0, 0));
    simd.to_bfloat16(x.As<float>(), bfloat.As<BFloat16>(), n);
    EXPECT_TRUE(test::BitIdentical(bfloat, expected_bfloat));
  });
}

TEST(SimdTest, ReducesEveryLaneAndSetsTheSignOfZero) {
  ForEachSimd([&](const Simd& simd) {
    const int lanes = simd.lanes();
    TestTensor x({lanes});
    float* const values = x.As<float>();
    for (int i = 0; i < lanes; ++i) values[i] = std::ldexp(1.0f, i);
    EXPECT_EQ(simd.reduce_sum(values), std::ldexp(1.0f, lanes) - 1);
    for (int i = 0; i < lanes; ++i) {
      test::FillConstant(x, -5);
      values[i] = -3;
      EXPECT_EQ(simd.reduce_max(values), -3);
    }
    simd.set(-0.0f, values);
    for (int i = 0; i < lanes; ++i) EXPECT_TRUE(std::signbit(values[i]));
  });
}

}  // namespace
}  // namespace moed::kernels
