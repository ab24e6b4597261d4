#include "kernels/gemm/gemm.h"

#include <gtest/gtest.h>

#include "kernels/gemm/reference_product.h"
#include "tests/kernels/packed_weight_testing.h"
#include "tests/support/cuda_body_testing.h"

namespace moed::kernels {
namespace {

using packed_weight_testing::AsMetByWeight;
using packed_weight_testing::Weights;
using test::GetElement;
using test::NormalTensor;
using test::Random;
using test::TestTensor;

class GemmCudaTest : public test::CudaBodyTest, public testing::WithParamInterface<WeightFormat> {};

TestTensor Copy(const TensorView& from) {
  TestTensor copy({from.dim(0), from.dim(1)});
  for (int64_t i = 0; i < from.num_elements(); ++i) test::SetElement(copy, i, GetElement(from, i));
  return copy;
}

// The sum of magnitudes of which an output's error is a fraction.
std::vector<double> Magnitudes(const GemmArgs& args, const TensorView& old_out) {
  std::vector<double> magnitudes;
  std::vector<float> x(args.weight.k);
  for (int64_t row = 0; row < args.x.dim(0); ++row) {
    for (int64_t i = 0; i < args.weight.k; ++i) x[i] = args.x.As<float>()[row * args.x.stride(0) + i];
    const std::vector<double> multiplied = reference::AsMultiplied(x, args.weight);
    for (int64_t output = 0; output < args.weight.n; ++output) {
      double sum = args.bias.empty() ? 0 : std::abs(GetElement(args.bias, output));
      if (args.accumulate) sum += std::abs(GetElement(old_out, row * args.weight.n + output));
      for (int64_t i = 0; i < args.weight.k; ++i) {
        sum += std::abs(multiplied[i] * PackedElement(args.weight, output, i));
      }
      magnitudes.push_back(sum);
    }
  }
  return magnitudes;
}

// Calls check(whether products of many rows run by warpgroups) for the bodies that m rows have.
template <typename Check>
void ForEachBody(WeightFormat format, int64_t m, const Check& check) {
  check(false);
  const bool has_wgmma = m > 32 && format.type != WeightFormat::Type::kF32 && format.group_size % 128 == 0;
  if (has_wgmma) check(true);
}

void ExpectMatchesReference(GemmArgs args, const TensorView& old_out, double relative, int num_random) {
  const TestTensor expected = Copy(old_out), rounded = AsMetByWeight(args.x, args.weight.format);
  GemmArgs exact = args;
  exact.x = rounded;
  exact.out = expected;
  ASSERT_EQ(Check(exact), absl::OkStatus());
  reference::Gemm(exact);
  const std::vector<double> magnitudes = Magnitudes(exact, old_out);
  ForEachBody(args.weight.format, args.x.dim(0), [&](bool wgmma) {
    test::ForEachThreadOrder(
        [&](const ExecContext& ctx) {
          const TestTensor out = Copy(old_out);
          args.out = out;
          cuda::Gemm(ctx, args);
          test::Await(ctx);
          EXPECT_TRUE(test::AllWithin(out, expected, [&](int64_t i) { return relative * magnitudes[i] + 1e-44; }))
              << args.x.ToString() << " times [" << args.weight.n << ", " << args.weight.k << "] in "
              << args.weight.format.ToString() << (args.accumulate ? ", accumulating" : "");
        },
        num_random, wgmma);
  });
}

// Both bodies, and shapes around the sizes of their tiles.
TEST_P(GemmCudaTest, MatchesReference) {
  struct Shape {
    int64_t m, n, k;
  };
  Random random;
  std::vector<Shape> shapes = {{0, 5, 8},     {1, 1, 1},     {1, 33, 200},  {8, 32, 64},
                               {9, 70, 65},   {17, 31, 130}, {33, 129, 90}, {130, 40, random.Int(1, 200)},
                               {65, 300, 700}};
  for (int i = 0; i < 4; ++i) shapes.push_back({random.Int(1, 70), random.Int(1, 150), random.Int(1, 400)});
  for (const Shape& shape : shapes) {
    const TestTensor x = NormalTensor(random, {shape.m, shape.k});
    const TestTensor bias = NormalTensor(random, {shape.n});
    const TestTensor old_out = NormalTensor(random, {shape.m, shape.n});
    const Weights weight(random, 1, shape.n, shape.k, GetParam());
    GemmArgs args{.x = x, .weight = weight[0], .bias = {}, .accumulate = false, .out = {}};
    const double tolerance = test::SumTolerance(shape.k + 2);
    ExpectMatchesReference(args, old_out, tolerance, 1);
    args.bias = bias;
    args.accumulate = true;
    ExpectMatchesReference(args, old_out, tolerance, 0);
  }
}

TEST_P(GemmCudaTest, EdgeValues) {
  Random random;
  for (const int64_t m : {14, 37}) {
    const int64_t n = 40, k = 75;
    const TestTensor zeros({m, n});
    TestTensor x({m, k}), source({n, k});
    test::FillEdgeValues(x, random);
    test::FillEdgeValues(source, random);
    if (GetParam().is_integer()) {  // which hold no such large numbers
      for (int64_t i = 0; i < n * k; ++i) source.As<float>()[i] = std::clamp(source.As<float>()[i], -300.0f, 300.0f);
    }
    const Weights weight(source, GetParam());
    GemmArgs args{.x = x, .weight = weight[0], .bias = {}, .accumulate = false, .out = {}};
    ExpectMatchesReference(args, zeros, test::WorstSumTolerance(k), 0);
    // An infinity or a NaN stays in its row, and padding does not spread it.
    test::FillConstant(source, 1);
    const Weights ones(source, GetParam());
    args.weight = ones[0];
    test::FillConstant(x, 1);
    x.As<float>()[2 * k + k - 1] = HUGE_VALF;
    x.As<float>()[5 * k] = NAN;
    ExpectMatchesReference(args, zeros, test::WorstSumTolerance(k), 0);
  }
}

// Rows inside wider ones; nothing beside the output is written.
TEST_P(GemmCudaTest, StridedRows) {
  Random random;
  const int64_t n = 45, k = 50;
  for (const int64_t m : {7, 40}) {
    const TestTensor wide_x = NormalTensor(random, {m, k + 9});
    const Weights weight(random, 1, n, k, GetParam());
    const TensorView x = wide_x.view().Columns(4, 4 + k);
    const TestTensor expected({m, n}), rounded = AsMetByWeight(x, GetParam());
    reference::Gemm({.x = rounded, .weight = weight[0], .bias = {}, .accumulate = false, .out = expected});
    const auto check = [&](const ExecContext& ctx) {
      TestTensor wide_out({m, n + 6});
      test::FillConstant(wide_out, 42);
      const TensorView out = wide_out.view().Columns(3, 3 + n);
      cuda::Gemm(ctx, {.x = x, .weight = weight[0], .bias = {}, .accumulate = false, .out = out});
      test::Await(ctx);
      EXPECT_TRUE(test::AllClose(out, expected, 1e-5, 1e-5 * std::sqrt(k)));
      for (int64_t row = 0; row < m; ++row) {
        for (const int64_t column : {int64_t{0}, int64_t{2}, n + 3, n + 5}) {
          EXPECT_EQ(wide_out.As<float>()[row * (n + 6) + column], 42) << "written beside the output";
        }
      }
    };
    ForEachBody(GetParam(), m, [&](bool wgmma) { test::ForEachThreadOrder(check, 1, wgmma); });
  }
}

// A row has the same bits whoever comes along, as long as the body is the same: up to 32 rows, and beyond.
TEST_P(GemmCudaTest, ResultsDoNotDependOnCompany) {
  Random random;
  const int64_t n = 70, k = 203;
  const Weights weight(random, 1, n, k, GetParam());
  const TestTensor x = NormalTensor(random, {90, k});
  ForEachBody(GetParam(), 90, [&](bool wgmma) {
    test::CudaContext context;
    context.SetWgmma(wgmma);
    const auto multiply = [&](int64_t begin, int64_t end) {
      TestTensor out({end - begin, n});
      const TensorView rows = x.view().Rows(begin, end);
      cuda::Gemm(context, {.x = rows, .weight = weight[0], .bias = {}, .accumulate = false, .out = out});
      test::Await(context);
      return out;
    };
    const TestTensor few = multiply(0, 20), many = multiply(0, 90);
    EXPECT_TRUE(test::BitIdentical(multiply(3, 4), few.view().Rows(3, 4)));
    EXPECT_TRUE(test::BitIdentical(multiply(11, 20), few.view().Rows(11, 20)));
    EXPECT_TRUE(test::BitIdentical(multiply(40, 90), many.view().Rows(40, 90)));
  });
}

// Where that is asked for, whatever body other numbers of rows have.
TEST_P(GemmCudaTest, ResultsDoNotDependOnCompanyOfAnySize) {
  Random random;
  const int64_t n = 70, k = 403;
  const Weights weight(random, 1, n, k, GetParam());
  const TestTensor x = NormalTensor(random, {90, k}), old_out = NormalTensor(random, {90, n});
  const TestTensor bias = NormalTensor(random, {n});
  const test::CudaContext context;
  ExecContext ctx = context;
  ctx.batch_invariant = true;
  const auto multiply = [&](int64_t begin, int64_t end) {
    TestTensor out = Copy(old_out.view().Rows(begin, end));
    const TensorView rows = x.view().Rows(begin, end);
    cuda::Gemm(ctx, {.x = rows, .weight = weight[0], .bias = bias, .accumulate = true, .out = out});
    test::Await(ctx);
    return out;
  };
  const TestTensor all = multiply(0, 90);
  for (const auto& [begin, end] : {std::pair{7, 8}, {80, 88}, {3, 15}, {40, 57}, {20, 60}}) {
    EXPECT_TRUE(test::BitIdentical(multiply(begin, end), all.view().Rows(begin, end))) << begin << " to " << end;
  }
}

// Heads inside wider rows, read and written in place; each head is the product of its own rows alone.
TEST_P(GemmCudaTest, BatchedIsOneProductAHead) {
  Random random;
  struct Batch {
    int64_t m, heads, n, k;
  };
  for (const Batch& b : {Batch{1, 5, 64, 24}, Batch{5, 3, 33, 50}, Batch{34, 2, 20, 131}, Batch{0, 2, 33, 20}}) {
    const Weights weights(random, b.heads, b.n, b.k, GetParam());
    const TestTensor rows = NormalTensor(random, {b.m, b.heads * (b.k + 3)});
    const TestTensor wide({b.m, b.heads * (b.n + 2)}), alone({b.m, b.n});
    BatchedGemmArgs args;
    args.x = rows.view().SplitLast(b.heads, b.k + 3).Columns(2, b.k + 2);
    args.weights = weights.data();
    args.out = wide.view().SplitLast(b.heads, b.n + 2).Columns(1, b.n + 1);
    ASSERT_EQ(Check(args), absl::OkStatus());
    const auto check = [&](const ExecContext& ctx) {
      test::FillConstant(wide, 42);
      cuda::BatchedGemm(ctx, args);
      test::Await(ctx);
      for (int64_t head = 0; head < b.heads && b.m > 0; ++head) {
        const int64_t x_column = head * (b.k + 3) + 2, out_column = head * (b.n + 2);
        const TensorView x = rows.view().Columns(x_column, x_column + b.k);
        cuda::Gemm(ctx, {.x = x, .weight = weights[head], .bias = {}, .accumulate = false, .out = alone});
        test::Await(ctx);
        EXPECT_TRUE(test::BitIdentical(wide.view().Columns(out_column + 1, out_column + b.n + 1), alone));
        EXPECT_EQ(wide.As<float>()[out_column], 42) << "written beside the output";
        EXPECT_EQ(wide.As<float>()[out_column + b.n + 1], 42) << "written beside the output";
      }
    };
    ForEachBody(GetParam(), b.m, [&](bool wgmma) { test::ForEachThreadOrder(check, 1, wgmma); });
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, GemmCudaTest, testing::ValuesIn(packed_weight_testing::kFormats),
                         [](const auto& format) { return packed_weight_testing::FormatName(format.param); });

}  // namespace
}  // namespace moed::kernels
