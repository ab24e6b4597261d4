#include <gtest/gtest.h>

#include "kernels/rope/rope.h"
#include "tests/support/cuda_body_testing.h"

namespace moed::kernels {
namespace {

using test::TestTensor;
using RopeCudaTest = test::CudaBodyTest;

// Query and key heads inside fused rows, as a model has them.
TEST_F(RopeCudaTest, EqualsReference) {
  const int64_t num_tokens = 5, num_heads = 3, num_kv_heads = 2, max_positions = 40;
  test::Random random;
  for (const auto& dims : {std::pair<int64_t, int64_t>(64, 64), {50, 22}, {6, 0}}) {
    const int64_t head_dim = dims.first, rotary_dim = dims.second;
    for (const bool interleaved : {false, true}) {
      const int64_t q_width = num_heads * head_dim, k_width = num_kv_heads * head_dim;
      const TestTensor cos_sin = test::NormalTensor(random, {max_positions, rotary_dim});
      const TestTensor positions({num_tokens}, DType::kI32);
      for (int64_t i = 0; i < num_tokens; ++i) {
        positions.As<int32_t>()[i] = static_cast<int32_t>(random.Int(0, max_positions - 1));
      }
      const TestTensor before = test::NormalTensor(random, {num_tokens, q_width + k_width + 1});
      const TestTensor q_out({num_tokens, num_heads, head_dim});
      const auto rotate = [&](const auto& op, const TensorView& elsewhere = {}) {
        TestTensor rows({num_tokens, q_width + k_width + 1});
        std::memcpy(rows.As<char>(), before.As<char>(), before.view().num_bytes());
        op({.q = rows.view().Columns(0, q_width).SplitLast(num_heads, head_dim),
            .k = rows.view().Columns(q_width, q_width + k_width).SplitLast(num_kv_heads, head_dim),
            .positions = positions,
            .cos_sin = cos_sin,
            .interleaved = interleaved,
            .q_out = elsewhere});
        return rows;
      };
      const TestTensor expected = rotate([](const RopeArgs& args) { reference::Rope(args); });
      test::ForEachThreadOrder([&](const ExecContext& ctx) {
        const auto op = [&](const RopeArgs& args) {
          cuda::Rope(ctx, args);
          test::Await(ctx);
        };
        const TestTensor rows = rotate(op);
        // Two products and a sum of normal values, here with normal "cosines" too.
        EXPECT_TRUE(test::AllClose(rows, expected, 0, 2 * test::kFloatEpsilon * 32)) << head_dim << " " << interleaved;
        const TestTensor others = rotate(op, q_out);
        EXPECT_TRUE(test::BitIdentical(q_out, rows.view().Columns(0, q_width).SplitLast(num_heads, head_dim)));
        EXPECT_TRUE(test::BitIdentical(others.view().Columns(q_width, q_width + k_width),
                                       rows.view().Columns(q_width, q_width + k_width)));
        EXPECT_TRUE(test::BitIdentical(others.view().Columns(0, q_width), before.view().Columns(0, q_width)));
      });
    }
  }
}

}  // namespace
}  // namespace moed::kernels
