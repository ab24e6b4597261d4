#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "kernels/kv_write/kv_write.h"
#include "tests/support/cuda_body_testing.h"

namespace moed::kernels {
namespace {

using test::TestTensor;
using KvWriteCudaTest = test::CudaBodyTest;

struct Pages {
  Pages(DType dtype, int64_t k_dim, int64_t v_dim)
      : k({4, 3, 8, k_dim}, dtype), v({4, 3, 8, v_dim}, dtype), k_scales({4, 3, 8}), v_scales({4, 3, 8}) {
    for (const TestTensor* tensor : {&k, &v, &k_scales, &v_scales}) test::FillConstant(*tensor, 7);
  }
  TestTensor k, v, k_scales, v_scales;
};

TEST_F(KvWriteCudaTest, EqualsReferenceAndTouchesNothingElse) {
  const int64_t num_tokens = 20, k_dim = 40, v_dim = 33;
  test::Random random;
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16, DType::kI8}) {
    const TestTensor fused = test::NormalTensor(random, {num_tokens, 3 * (k_dim + v_dim)}, 1000);
    test::FillEdgeValues(fused.view().Rows(0, 1), random);
    if (dtype == DType::kI8) fused.As<float>()[5 * 3 * (k_dim + v_dim) + 7] = HUGE_VALF;  // its row's scale tells
    const TestTensor slots({num_tokens}, DType::kI64);
    std::vector<int64_t> order(4 * 8);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random.engine());
    for (int64_t i = 0; i < num_tokens; ++i) slots.As<int64_t>()[i] = i % 4 == 3 ? -1 : order[i];
    const auto args_for = [&](const Pages& pages) {
      KvWriteArgs args{.k = fused.view().Columns(0, 3 * k_dim).SplitLast(3, k_dim),
                       .v = fused.view().Columns(3 * k_dim, 3 * (k_dim + v_dim)).SplitLast(3, v_dim),
                       .slots = slots,
                       .k_pages = pages.k,
                       .v_pages = pages.v};
      if (dtype == DType::kI8) args.k_scales = pages.k_scales, args.v_scales = pages.v_scales;
      return args;
    };
    const Pages expected(dtype, k_dim, v_dim);
    reference::KvWrite(args_for(expected));
    test::ForEachThreadOrder([&](const ExecContext& ctx) {
      const Pages pages(dtype, k_dim, v_dim);
      cuda::KvWrite(ctx, args_for(pages));
      test::Await(ctx);
      EXPECT_TRUE(test::BitIdentical(pages.k, expected.k)) << DTypeName(dtype);
      EXPECT_TRUE(test::BitIdentical(pages.v, expected.v)) << DTypeName(dtype);
      EXPECT_TRUE(test::AllClose(pages.k_scales, expected.k_scales, 0, 0));
      EXPECT_TRUE(test::AllClose(pages.v_scales, expected.v_scales, 0, 0));
    });
  }
}

}  // namespace
}  // namespace moed::kernels
