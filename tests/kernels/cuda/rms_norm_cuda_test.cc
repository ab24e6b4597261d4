#include <gtest/gtest.h>

#include "kernels/rms_norm/rms_norm.h"
#include "tests/support/cuda_body_testing.h"

namespace moed::kernels {
namespace {

using test::TestTensor;
using RmsNormCudaTest = test::CudaBodyTest;

double Tolerance(int64_t size) { return test::WorstSumTolerance(size) / 2 + 3 * test::kFloatEpsilon; }

TestTensor Copy(const TestTensor& tensor) {
  TestTensor copy({tensor.view().dim(0), tensor.view().dim(1)});
  std::memcpy(copy.As<char>(), tensor.As<char>(), tensor.view().num_bytes());
  return copy;
}

TEST_F(RmsNormCudaTest, EqualsReference) {
  test::Random random;
  for (const int64_t hidden : {1, 31, 512, 513, 1024, 4100, 9000}) {
    for (const int64_t num_tokens : {0, 1, 9}) {
      const TestTensor x = test::NormalTensor(random, {num_tokens, hidden}, 3);
      const TestTensor weight = test::NormalTensor(random, {hidden});
      const TestTensor expected({num_tokens, hidden});
      reference::RmsNorm({.x = x, .weight = weight, .out = expected});
      test::ForEachThreadOrder([&](const ExecContext& ctx) {
        const TestTensor out({num_tokens, hidden});
        cuda::RmsNorm(ctx, {.x = x, .weight = weight, .out = out});
        test::Await(ctx);
        EXPECT_TRUE(test::AllClose(out, expected, Tolerance(hidden), 0)) << num_tokens << " rows of " << hidden;
      });
    }
  }
}

TEST_F(RmsNormCudaTest, AddsToTheResidualInPlace) {
  test::Random random;
  for (const int64_t hidden : {100, 700, 701, 5000}) {
    const TestTensor x = test::NormalTensor(random, {5, hidden});
    const TestTensor before = test::NormalTensor(random, {5, hidden}, 2);
    const TestTensor weight = test::NormalTensor(random, {hidden});
    const TestTensor expected_residual = Copy(before), expected({5, hidden});
    reference::RmsNorm({.x = x, .weight = weight, .residual = expected_residual, .out = expected});
    test::ForEachThreadOrder([&](const ExecContext& ctx) {
      const TestTensor residual = Copy(before), in_and_out = Copy(x);
      cuda::RmsNorm(ctx, {.x = in_and_out, .weight = weight, .residual = residual, .out = in_and_out});
      test::Await(ctx);
      EXPECT_TRUE(test::BitIdentical(residual, expected_residual));
      EXPECT_TRUE(test::AllClose(in_and_out, expected, Tolerance(hidden), 0));
    });
  }
}

TEST_F(RmsNormCudaTest, NormalisesStridedHeads) {
  const int64_t num_tokens = 4, num_heads = 3, head_dim = 48, width = num_heads * head_dim + 7;
  test::Random random;
  const TestTensor weight = test::NormalTensor(random, {head_dim});
  const TestTensor before = test::NormalTensor(random, {num_tokens, width});
  const auto heads_of = [&](const TestTensor& rows) {
    return rows.view().Columns(3, 3 + num_heads * head_dim).SplitLast(num_heads, head_dim);
  };
  const TestTensor expected = Copy(before);
  reference::RmsNorm({.x = heads_of(expected), .weight = weight, .out = heads_of(expected)});
  test::ForEachThreadOrder([&](const ExecContext& ctx) {
    const TestTensor rows = Copy(before);
    cuda::RmsNorm(ctx, {.x = heads_of(rows), .weight = weight, .out = heads_of(rows)});
    test::Await(ctx);
    EXPECT_TRUE(test::AllClose(rows, expected, Tolerance(head_dim), 0));
  });
}

}  // namespace
}  // namespace moed::kernels
