#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/sampling/logit_row.h"
#include "tests/support/tensor_testing.h"

namespace moed::kernels {
namespace {

using test::TestTensor;
using ::testing::HasSubstr;

constexpr int64_t kSizes[] = {1, 2, 7, 8, 31, 32, 33, 255, 256, 257, 1000, 4099};

struct MaximumResult {
  MaximumResult() : max({1}), index({1}, DType::kI32), finite({1}, DType::kI32) {}
  RowMaximumArgs Args(const TestTensor& x) const { return {.x = x, .max = max, .index = index, .finite = finite}; }
  TestTensor max, index, finite;
};

void ExpectMaximumOfReference(const TestTensor& x) {
  const MaximumResult expected;
  ASSERT_TRUE(Check(expected.Args(x)).ok()) << Check(expected.Args(x));
  reference::RowMaximum(expected.Args(x));
  test::ForEachCpuBody([&](const ExecContext& ctx) {
    const MaximumResult result;
    cpu::RowMaximum(ctx, result.Args(x));
    EXPECT_EQ(result.max.As<float>()[0], expected.max.As<float>()[0]);
    EXPECT_EQ(result.index.As<int32_t>()[0], expected.index.As<int32_t>()[0]) << x.view().ToString();
    EXPECT_EQ(result.finite.As<int32_t>()[0], expected.finite.As<int32_t>()[0]);
  });
}

TEST(RowMaximumTest, EqualsReference) {
  test::Random random;
  for (const int64_t n : kSizes) {
    ExpectMaximumOfReference(test::NormalTensor(random, {n}));
    // Few different values: the first of many equal ones.
    const TestTensor coarse({n});
    for (int64_t i = 0; i < n; ++i) coarse.As<float>()[i] = static_cast<float>(random.Int(-2, 2));
    ExpectMaximumOfReference(coarse);
  }
}

TEST(RowMaximumTest, ValuesThatAreNotFinite) {
  test::Random random;
  for (const int64_t n : kSizes) {
    for (const float value : {INFINITY, -INFINITY, NAN}) {
      const TestTensor one = test::NormalTensor(random, {n});
      one.As<float>()[random.Int(0, static_cast<int>(n) - 1)] = value;
      ExpectMaximumOfReference(one);
      const TestTensor all({n});
      test::FillConstant(all, value);
      ExpectMaximumOfReference(all);
    }
  }
}

TEST(SoftmaxWeightsTest, EqualsReference) {
  test::Random random;
  for (const int64_t n : kSizes) {
    const int64_t blocks = (n + SoftmaxWeightsArgs::kBlock - 1) / SoftmaxWeightsArgs::kBlock;
    const TestTensor x = test::NormalTensor(random, {n}, 5);
    x.As<float>()[random.Int(0, static_cast<int>(n) - 1)] = -INFINITY;  // barred
    const TestTensor weights({n}), sums({blocks});
    SoftmaxWeightsArgs args = {.x = x, .max = 20, .inverse_temperature = 0.7f, .weights = weights, .block_sums = sums};
    ASSERT_TRUE(Check(args).ok()) << Check(args);
    reference::SoftmaxWeights(args);
    test::ForEachCpuBody([&](const ExecContext& ctx) {
      const TestTensor in_place({n}), own_sums({blocks});
      std::memcpy(in_place.As<float>(), x.As<float>(), n * sizeof(float));
      SoftmaxWeightsArgs own = args;
      own.x = in_place;
      own.weights = in_place;
      own.block_sums = own_sums;
      cpu::SoftmaxWeights(ctx, own);
      // An exponent of about -40 rounded to a float, and the polynomial's 2 ulp.
      EXPECT_TRUE(test::AllClose(in_place, weights, 40 * test::kFloatEpsilon, 1e-44));
      EXPECT_TRUE(test::AllClose(own_sums, sums, 50 * test::kFloatEpsilon, 1e-44));
    });
  }
}

TEST(SamplingCheckTest, NamesWhatIsWrong) {
  const TestTensor x({300}), sums({1});
  const MaximumResult result;
  EXPECT_THAT(Message(Check(result.Args(TestTensor({0})))), HasSubstr("a row has elements"));
  EXPECT_THAT(Message(Check(SoftmaxWeightsArgs{.x = x, .weights = x, .block_sums = sums})),
              HasSubstr("block_sums is fp32[1]; it must be fp32[2]"));
}

}  // namespace
}  // namespace moed::kernels
