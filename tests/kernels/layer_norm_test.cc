#include "kernels/layer_norm/layer_norm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/tensor_testing.h"

namespace moed::kernels {
namespace {

using test::TestTensor;
using ::testing::HasSubstr;

TestTensor CopyOf(const TestTensor& tensor) {
  TestTensor copy({tensor.view().dim(0), tensor.view().dim(1)});
  std::memcpy(copy.As<char>(), tensor.As<char>(), tensor.view().num_bytes());
  return copy;
}

class LayerNormTest : public testing::TestWithParam<int64_t> {};

TEST_P(LayerNormTest, EqualsReference) {
  const int64_t hidden = GetParam();
  test::Random random;
  for (const int64_t num_tokens : {0, 1, 5, 70}) {
    TestTensor x = test::NormalTensor(random, {num_tokens, hidden}, 3);
    for (int64_t i = 0; i < x.view().num_elements(); ++i) x.As<float>()[i] += 2;  // the mean matters
    const TestTensor weight = test::NormalTensor(random, {hidden}), bias = test::NormalTensor(random, {hidden});
    const TestTensor expected({num_tokens, hidden});
    reference::LayerNorm({.x = x, .weight = weight, .bias = bias, .out = expected});
    test::ForEachCpuBody([&](const ExecContext& ctx) {
      const TestTensor out({num_tokens, hidden});
      const LayerNormArgs args = {.x = x, .weight = weight, .bias = bias, .out = out};
      ASSERT_TRUE(Check(args).ok()) << Check(args);
      LayerNorm(ctx, args);
      // An element's error is that of the mean and of the factor, both of sums of `hidden` terms of size 3, and of a
      // few roundings of numbers not above 10 times the weight.
      EXPECT_TRUE(test::AllClose(out, expected, test::WorstSumTolerance(hidden), 20 * test::WorstSumTolerance(hidden)));
    });
  }
}

TEST_P(LayerNormTest, AddsToTheResidualInPlace) {
  const int64_t hidden = GetParam(), num_tokens = 6;
  test::Random random;
  const TestTensor x = test::NormalTensor(random, {num_tokens, hidden}, 0.5);
  const TestTensor weight = test::NormalTensor(random, {hidden}), bias = test::NormalTensor(random, {hidden});
  const TestTensor before = test::NormalTensor(random, {num_tokens, hidden}, 2);
  const TestTensor expected_residual = CopyOf(before), expected({num_tokens, hidden});
  reference::LayerNorm(
      {.x = x, .weight = weight, .bias = bias, .residual = expected_residual, .residual_scale = 0.3f, .out = expected});
  test::ForEachCpuBody([&](const ExecContext& ctx) {
    const TestTensor residual = CopyOf(before), in_and_out = CopyOf(x);
    const LayerNormArgs args = {.x = in_and_out,
                                .weight = weight,
                                .bias = bias,
                                .residual = residual,
                                .residual_scale = 0.3f,
                                .out = in_and_out};
    ASSERT_TRUE(Check(args).ok()) << Check(args);
    LayerNorm(ctx, args);
    EXPECT_TRUE(test::AllClose(residual, expected_residual, 0, 8 * test::kFloatEpsilon));
    EXPECT_TRUE(test::AllClose(in_and_out, expected, 2 * test::WorstSumTolerance(hidden),
                               40 * test::WorstSumTolerance(hidden)));
  });
}

TEST_P(LayerNormTest, IgnoresCompany) {
  const int64_t hidden = GetParam();
  test::Random random;
  const TestTensor x = test::NormalTensor(random, {50, hidden});
  const TestTensor weight = test::NormalTensor(random, {hidden}), bias = test::NormalTensor(random, {hidden});
  test::ForEachCpuBody([&](const ExecContext& ctx) {
    const TestTensor together({50, hidden}), alone({50, hidden});
    LayerNorm(ctx, {.x = x, .weight = weight, .bias = bias, .out = together});
    for (int64_t i = 0; i < 50; ++i) {
      LayerNorm(ctx,
                {.x = x.view().Rows(i, i + 1), .weight = weight, .bias = bias, .out = alone.view().Rows(i, i + 1)});
    }
    EXPECT_TRUE(test::BitIdentical(alone, together));
  });
}

// From 15 on: the variance of one or two elements is lost in its own rounding.
INSTANTIATE_TEST_SUITE_P(Sizes, LayerNormTest, testing::Values(15, 16, 64, 127, 1000, 4096));

TEST(LayerNormEdgeTest, ConstantsBecomeTheBias) {
  const TestTensor x({2, 100}), weight({100}), bias({100}), out({2, 100});
  test::FillConstant(weight, 3);
  test::FillConstant(bias, -2);
  test::FillConstant(x.view().Rows(1, 2), 8);
  test::ForEachCpuBody([&](const ExecContext& ctx) {
    LayerNorm(ctx, {.x = x, .weight = weight, .bias = bias, .out = out});
    EXPECT_EQ(out.As<float>()[0], -2);
    EXPECT_EQ(out.As<float>()[100], -2);
  });
}

TEST(LayerNormCheckTest, NamesWhatIsWrong) {
  const TestTensor x({3, 8}), weight({8}), bias({8}), out({3, 8}), other({3, 9});
  const LayerNormArgs good = {.x = x, .weight = weight, .bias = bias, .out = out};
  EXPECT_TRUE(Check(good).ok());
  LayerNormArgs args = good;
  args.bias = {};
  EXPECT_THAT(Message(Check(args)), HasSubstr("bias"));
  args = good;
  args.residual = other;
  EXPECT_THAT(Message(Check(args)), HasSubstr("residual is fp32[3, 9]"));
  args = good;
  args.eps = NAN;
  EXPECT_THAT(Message(Check(args)), HasSubstr("eps is nan"));
}

}  // namespace
}  // namespace moed::kernels
