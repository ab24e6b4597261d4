#include <gtest/gtest.h>

#include "kernels/layer_norm/layer_norm.h"
#include "tests/support/cuda_body_testing.h"

namespace moed::kernels {
namespace {

using test::TestTensor;
using LayerNormCudaTest = test::CudaBodyTest;

TestTensor Copy(const TensorView& from) {
  TestTensor copy({from.dim(0), from.dim(1)});
  for (int64_t i = 0; i < from.num_elements(); ++i) test::SetElement(copy, i, test::GetElement(from, i));
  return copy;
}

// Strided rows far from zero, with and without a residual, in place.
TEST_F(LayerNormCudaTest, EqualsReference) {
  test::Random random;
  for (const int64_t hidden : {1, 31, 256, 700}) {
    for (const int64_t num_tokens : {0, 1, 5}) {
      const TestTensor wide({num_tokens, hidden + 3});
      for (int64_t i = 0; i < wide.view().num_elements(); ++i) wide.As<float>()[i] = 5 + random.Normal(2);
      const TensorView x = wide.view().Columns(1, 1 + hidden);
      const TestTensor weight = test::NormalTensor(random, {hidden}), bias = test::NormalTensor(random, {hidden});
      const TestTensor before = test::NormalTensor(random, {num_tokens, hidden});
      for (const bool has_residual : {false, true}) {
        const TestTensor expected_residual = Copy(before), expected({num_tokens, hidden});
        LayerNormArgs args{.x = x, .weight = weight, .bias = bias, .residual_scale = 0.5f, .out = expected};
        if (has_residual) args.residual = expected_residual;
        ASSERT_EQ(Check(args), absl::OkStatus());
        reference::LayerNorm(args);
        // Of numbers of up to about 10, from which the mean is taken off.
        const double tolerance = 20 * test::WorstSumTolerance(hidden);
        test::ForEachThreadOrder([&](const ExecContext& ctx) {
          const TestTensor residual = Copy(before), in_and_out = Copy(x);
          args.x = args.out = in_and_out;
          if (has_residual) args.residual = residual;
          cuda::LayerNorm(ctx, args);
          test::Await(ctx);
          EXPECT_TRUE(test::AllClose(in_and_out, expected, tolerance, tolerance)) << num_tokens << " x " << hidden;
          if (!has_residual) return;
          EXPECT_TRUE(test::AllClose(residual, expected_residual, test::kFloatEpsilon, 1e-6));
        });
      }
    }
  }
}

}  // namespace
}  // namespace moed::kernels
