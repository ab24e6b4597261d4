#include "kernels/rms_norm/rms_norm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/tensor_testing.h"

namespace moed::kernels {
namespace {

using test::TestTensor;
using ::testing::HasSubstr;

// The factor 1 / rms carries half the error of the sum; then come its own roundings and those of two products.
double Tolerance(int64_t size) { return test::WorstSumTolerance(size) / 2 + 3 * test::kFloatEpsilon; }

class RmsNormTest : public testing::TestWithParam<int64_t> {};

TEST_P(RmsNormTest, EqualsReference) {
  const int64_t hidden = GetParam();
  test::Random random;
  for (const int64_t num_tokens : {0, 1, 5, 70}) {
    const TestTensor x = test::NormalTensor(random, {num_tokens, hidden}, 3);
    const TestTensor weight = test::NormalTensor(random, {hidden});
    const TestTensor expected({num_tokens, hidden});
    reference::RmsNorm({.x = x, .weight = weight, .out = expected});
    test::ForEachCpuBody([&](const ExecContext& ctx) {
      const TestTensor out({num_tokens, hidden});
      const RmsNormArgs args = {.x = x, .weight = weight, .out = out};
      ASSERT_TRUE(Check(args).ok()) << Check(args);
      RmsNorm(ctx, args);
      EXPECT_TRUE(test::AllClose(out, expected, Tolerance(hidden), 0));
    });
  }
}

TEST_P(RmsNormTest, AddsToTheResidual) {
  const int64_t hidden = GetParam();
  const int64_t num_tokens = 6;
  test::Random random;
  const TestTensor x = test::NormalTensor(random, {num_tokens, hidden}, 0.5);
  const TestTensor weight = test::NormalTensor(random, {hidden});
  const TestTensor before = test::NormalTensor(random, {num_tokens, hidden}, 2);
  const auto copy_of = [&](const TestTensor& tensor) {
    TestTensor copy({num_tokens, hidden});
    std::memcpy(copy.As<char>(), tensor.As<char>(), tensor.view().num_bytes());
    return copy;
  };
  const TestTensor expected_residual = copy_of(before);
  const TestTensor expected({num_tokens, hidden});
  reference::RmsNorm({.x = x, .weight = weight, .residual = expected_residual, .eps = 1e-5f, .out = expected});
  test::ForEachCpuBody([&](const ExecContext& ctx) {
    const TestTensor residual = copy_of(before);
    const TestTensor in_and_out = copy_of(x);
    const RmsNormArgs args = {.x = in_and_out, .weight = weight, .residual = residual, .eps = 1e-5f, .out = in_and_out};
    ASSERT_TRUE(Check(args).ok()) << Check(args);
    RmsNorm(ctx, args);
    EXPECT_TRUE(test::BitIdentical(residual, expected_residual));
    EXPECT_TRUE(test::AllClose(in_and_out, expected, Tolerance(hidden), 0));
  });
}

// The query heads of a fused [q | k | v] row: rows with a stride, each head by itself, in place.
TEST_P(RmsNormTest, NormalisesStridedHeads) {
  const int64_t head_dim = GetParam();
  const int64_t num_tokens = 9, num_heads = 3, width = num_heads * head_dim + 5;
  test::Random random;
  const TestTensor weight = test::NormalTensor(random, {head_dim});
  const TestTensor before = test::NormalTensor(random, {num_tokens, width});
  const auto heads_of = [&](const TestTensor& rows) {
    return rows.view().Columns(2, 2 + num_heads * head_dim).SplitLast(num_heads, head_dim);
  };
  const auto copy = [&](const TestTensor& from) {
    TestTensor to({num_tokens, width});
    std::memcpy(to.As<char>(), from.As<char>(), from.view().num_bytes());
    return to;
  };
  const TestTensor expected = copy(before);
  reference::RmsNorm({.x = heads_of(expected), .weight = weight, .out = heads_of(expected)});
  test::ForEachCpuBody([&](const ExecContext& ctx) {
    const TestTensor rows = copy(before);
    const RmsNormArgs args = {.x = heads_of(rows), .weight = weight, .out = heads_of(rows)};
    ASSERT_TRUE(Check(args).ok()) << Check(args);
    RmsNorm(ctx, args);
    EXPECT_TRUE(test::AllClose(rows, expected, Tolerance(head_dim), 0));
  });
}

// A row's result is the same to the bit in any company.
TEST_P(RmsNormTest, IgnoresCompany) {
  const int64_t hidden = GetParam();
  test::Random random;
  const TestTensor x = test::NormalTensor(random, {50, hidden});
  const TestTensor weight = test::NormalTensor(random, {hidden});
  test::ForEachCpuBody([&](const ExecContext& ctx) {
    const TestTensor together({50, hidden}), alone({50, hidden});
    RmsNorm(ctx, {.x = x, .weight = weight, .out = together});
    for (int64_t i = 0; i < 50; ++i) {
      RmsNorm(ctx, {.x = x.view().Rows(i, i + 1), .weight = weight, .out = alone.view().Rows(i, i + 1)});
    }
    EXPECT_TRUE(test::BitIdentical(alone, together));
  });
}

TEST_P(RmsNormTest, ScalesWhatItAddsToTheResidual) {
  const int64_t hidden = GetParam(), num_tokens = 4;
  test::Random random;
  const TestTensor x = test::NormalTensor(random, {num_tokens, hidden}), weight = test::NormalTensor(random, {hidden});
  const TestTensor before = test::NormalTensor(random, {num_tokens, hidden}, 2);
  const auto run = [&](const TestTensor& residual, const TestTensor& out) {
    std::memcpy(residual.As<char>(), before.As<char>(), before.view().num_bytes());
    return RmsNormArgs{.x = x, .weight = weight, .residual = residual, .residual_scale = 0.22f, .out = out};
  };
  const TestTensor expected_residual({num_tokens, hidden}), expected({num_tokens, hidden});
  reference::RmsNorm(run(expected_residual, expected));
  test::ForEachCpuBody([&](const ExecContext& ctx) {
    const TestTensor residual({num_tokens, hidden}), out({num_tokens, hidden});
    RmsNorm(ctx, run(residual, out));
    // A sum that cancels keeps the rounding of the product; the row's largest elements are above 0.1 by far.
    EXPECT_TRUE(test::AllClose(residual, expected_residual, test::kFloatEpsilon, test::kFloatEpsilon));
    EXPECT_TRUE(test::AllClose(out, expected, 4 * Tolerance(hidden), 1e-4));
  });
}

INSTANTIATE_TEST_SUITE_P(Sizes, RmsNormTest, testing::Values(1, 2, 15, 16, 64, 127, 1000, 4096));

TEST(RmsNormEdgeTest, ZerosStayZeroAndConstantsBecomeOne) {
  const TestTensor x({2, 100}), weight({100}), out({2, 100});
  test::FillConstant(weight, 1);
  test::FillConstant(x.view().Rows(1, 2), 1e-3);
  test::ForEachCpuBody([&](const ExecContext& ctx) {
    RmsNorm(ctx, {.x = x, .weight = weight, .eps = 0, .out = out});
    EXPECT_TRUE(std::isnan(out.As<float>()[0])) << "0 / 0 without eps";
    EXPECT_NEAR(out.As<float>()[100], 1, Tolerance(100));
    RmsNorm(ctx, {.x = x, .weight = weight, .eps = 1e-6f, .out = out});
    EXPECT_EQ(out.As<float>()[0], 0);
    EXPECT_NEAR(out.As<float>()[100], 1 / std::sqrt(2.0), Tolerance(100));
  });
}

TEST(RmsNormCheckTest, NamesWhatIsWrong) {
  const TestTensor x({3, 8}), weight({8}), out({3, 8}), other({3, 9});
  const RmsNormArgs good = {.x = x, .weight = weight, .out = out};
  EXPECT_TRUE(Check(good).ok());
  RmsNormArgs args = good;
  args.x = weight;
  EXPECT_THAT(Message(Check(args)), HasSubstr("x is fp32[8]; it must be [num_tokens, hidden]"));
  args = good;
  args.out = other;
  EXPECT_THAT(Message(Check(args)), HasSubstr("out is fp32[3, 9]; it must be fp32[3, 8]"));
  args = good;
  args.residual = other;
  EXPECT_THAT(Message(Check(args)), HasSubstr("residual is fp32[3, 9]"));
  args = good;
  args.weight = TensorView(nullptr, {8}, DType::kF32);
  EXPECT_THAT(Message(Check(args)), HasSubstr("weight is fp32[8] without memory"));
  args = good;
  args.x.strides[1] = 2;
  EXPECT_THAT(Message(Check(args)), HasSubstr("x has a last stride of 2"));
  args = good;
  args.eps = NAN;
  EXPECT_THAT(Message(Check(args)), HasSubstr("eps is nan"));
}

}  // namespace
}  // namespace moed::kernels
