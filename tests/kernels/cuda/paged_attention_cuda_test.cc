#include <gtest/gtest.h>

#include "kernels/paged_attention/paged_attention.h"
#include "tests/kernels/paged_attention_testing.h"
#include "tests/support/cuda_body_testing.h"

namespace moed::kernels {
namespace {

using attention_testing::Cache;
using attention_testing::Chunk;
using attention_testing::Shape;
using attention_testing::Tolerance;

class PagedAttentionCudaTest : public test::CudaBodyTest, public testing::WithParamInterface<Shape> {};
using PagedAttentionCudaCompanyTest = test::CudaBodyTest;

// Prefill, a later chunk and decodes together, alone and with partial results.
TEST_P(PagedAttentionCudaTest, EqualsReference) {
  const Shape& shape = GetParam();
  test::Random random;
  const Cache cache(random, shape, {5, 1, 300, 131});
  const std::vector<Chunk> chunks = {{0, 5, 5}, {1, 1, 1}, {2, 1, 300}, {3, 3, 131}};
  const auto expected = cache.Step(chunks, [](const PagedAttentionArgs& args) { reference::PagedAttention(args); });
  test::ForEachThreadOrder(
      [&](const ExecContext& ctx) {
        const auto results = cache.Step(chunks, [&](const PagedAttentionArgs& args) {
          cuda::PagedAttention(ctx, args);
          test::Await(ctx);
        });
        for (size_t i = 0; i < chunks.size(); ++i) {
          const double tolerance = Tolerance(shape, chunks[i].context);
          EXPECT_TRUE(test::AllClose(results[i], expected[i], 0, tolerance)) << "chunk " << i;
        }
      },
      1);
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, PagedAttentionCudaTest,
    testing::Values(Shape{4, 2, 64, 64, 16}, Shape{2, 2, 20, 33, 8}, Shape{10, 1, 40, 40, 32, DType::kBF16},
                    Shape{4, 2, 32, 32, 16, DType::kF16, 10}, Shape{6, 1, 40, 24, 16, DType::kBF16, 0, false, true},
                    Shape{3, 1, 16, 130, 64, DType::kF32, 100, true}, Shape{4, 2, 40, 33, 16, DType::kI8, 0, true},
                    Shape{6, 1, 40, 24, 16, DType::kI8, 50, false, true}));

class FlashAttentionCudaTest : public PagedAttentionCudaTest {};

// Of tiles of rows full and not, parts of the positions seen and not, prompts and decodes in one step and alone.
TEST_P(FlashAttentionCudaTest, EqualsReference) {
  const Shape& shape = GetParam();
  test::Random random;
  const Cache cache(random, shape, {40, 1, 700, 131});
  const std::vector<std::vector<Chunk>> steps = {
      {{0, 19, 40}, {1, 1, 1}, {2, 1, 300}, {3, 3, 131}}, {{2, 1, 256}, {0, 1, 33}}, {{2, 3, 700}}};
  for (const std::vector<Chunk>& chunks : steps) {
    const auto expected = cache.Step(chunks, [](const PagedAttentionArgs& args) { reference::PagedAttention(args); });
    // Prompts by warps and by warpgroups, which there is a body for.
    const bool has_warpgroups = shape.dtype == DType::kBF16 && !shape.v_in_k;
    for (const bool wgmma : {false, true}) {
      if (wgmma && !has_warpgroups) continue;
      SCOPED_TRACE(wgmma ? "warpgroups" : "warps");
      test::ForEachThreadOrder(
          [&](const ExecContext& ctx) {
            const auto results = cache.Step(chunks, [&](const PagedAttentionArgs& args) {
              cuda::PagedAttention(ctx, args);
              test::Await(ctx);
            });
            for (size_t i = 0; i < chunks.size(); ++i) {
              const double tolerance = RoundedWeightsTolerance(shape, chunks[i].context);
              EXPECT_TRUE(test::AllClose(results[i], expected[i], 0, tolerance)) << "chunk " << i;
            }
          },
          1, wgmma);
    }
  }
}

// Where that is asked for, the same to the bit in a prompt, in a chunk of it, and as a token by itself.
TEST_P(FlashAttentionCudaTest, IgnoresChunksAndCompanyWhereThatIsAskedFor) {
  test::Random random;
  const Cache cache(random, GetParam(), {40, 300, 131});
  const test::CudaContext context;
  ExecContext ctx = context;
  ctx.batch_invariant = true;
  const auto step = [&](const std::vector<Chunk>& chunks) {
    return cache.Step(chunks, [&](const PagedAttentionArgs& args) {
      cuda::PagedAttention(ctx, args);
      test::Await(ctx);
    });
  };
  const auto together = step({{0, 19, 40}, {1, 1, 300}, {2, 3, 131}});
  const auto chunks = step({{2, 1, 131}, {0, 7, 40}});
  EXPECT_TRUE(test::BitIdentical(step({{0, 1, 40}})[0], together[0].view().Rows(18, 19)));
  EXPECT_TRUE(test::BitIdentical(step({{0, 5, 30}})[0], together[0].view().Rows(4, 9)));
  EXPECT_TRUE(test::BitIdentical(step({{1, 1, 300}})[0], together[1]));
  EXPECT_TRUE(test::BitIdentical(chunks[0], together[2].view().Rows(2, 3)));
  EXPECT_TRUE(test::BitIdentical(chunks[1], together[0].view().Rows(12, 19)));
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, FlashAttentionCudaTest,
    testing::Values(Shape{16, 2, 128, 128, 16, DType::kBF16}, Shape{3, 3, 64, 64, 16, DType::kF16, 0, true},
                    Shape{20, 1, 64, 64, 32, DType::kBF16, 0, true}, Shape{4, 2, 128, 128, 16, DType::kF16, 100},
                    Shape{4, 2, 64, 64, 16, DType::kBF16, 100}, Shape{5, 1, 576, 512, 16, DType::kBF16, 0, false, true},
                    Shape{16, 2, 128, 128, 16, DType::kI8}, Shape{5, 5, 64, 64, 32, DType::kI8, 100, true},
                    Shape{20, 1, 576, 512, 64, DType::kF16, 200, true, true}));

// The same to the bit with and without partial results, in a chunk and alone.
TEST_F(PagedAttentionCudaCompanyTest, IgnoresChunksAndCompany) {
  const Shape shape = {4, 4, 16, 16, 16};
  test::Random random;
  const Cache cache(random, shape, {280, 140});
  const test::CudaContext context;
  const auto op = [&](const PagedAttentionArgs& args) {
    cuda::PagedAttention(context, args);
    test::Await(context);
  };
  const auto alone = cache.Step({{0, 1, 280}}, op);
  // 140 tokens x 4 KV heads are enough blocks to do without partial results.
  const auto together = cache.Step({{1, 140, 140}, {0, 3, 280}}, op);
  EXPECT_TRUE(test::BitIdentical(together[1].view().Rows(2, 3), alone[0]));
}

}  // namespace
}  // namespace moed::kernels
