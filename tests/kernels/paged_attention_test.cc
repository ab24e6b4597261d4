#include "kernels/paged_attention/paged_attention.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "tests/kernels/paged_attention_testing.h"
#include "tests/support/tensor_testing.h"

namespace moed::kernels {
namespace {

using attention_testing::Cache;
using attention_testing::Chunk;
using attention_testing::Shape;
using attention_testing::Tolerance;
using test::TestTensor;
using ::testing::HasSubstr;

Shape InWords(Shape shape) {
  shape.key_layout = KeyLayout::kWords;
  return shape;
}

class PagedAttentionTest : public testing::TestWithParam<Shape> {};

// Prefill, a later chunk, decodes and a sequence without tokens, together.
TEST_P(PagedAttentionTest, EqualsReference) {
  const Shape& shape = GetParam();
  test::Random random;
  const Cache cache(random, shape, {70, 1, 300, 131, 20});
  const std::vector<Chunk> chunks = {{0, 70, 70}, {1, 1, 1}, {2, 1, 300}, {3, 37, 131}, {4, 0, 20}, {4, 2, 20}};
  const auto expected = cache.Step(chunks, [](const PagedAttentionArgs& args) { reference::PagedAttention(args); });
  test::ForEachCpuBody([&](const ExecContext& ctx) {
    const auto results = cache.Step(chunks, [&](const PagedAttentionArgs& args) { PagedAttention(ctx, args); });
    for (size_t i = 0; i < chunks.size(); ++i) {
      const double tolerance = Tolerance(shape, chunks[i].context);
      EXPECT_TRUE(test::AllClose(results[i], expected[i], 0, tolerance)) << "chunk " << i;
    }
  });
}

// The same to the bit however the sequence is cut, whoever else is there, and however many threads share the work.
TEST_P(PagedAttentionTest, IgnoresChunksCompanyAndThreads) {
  const Shape& shape = GetParam();
  const int64_t length = 270;
  test::Random random;
  const Cache cache(random, shape, {length, 150, 265, 64});
  for (const Isa isa : {Isa::kGeneric, Isa::kAvx2, Isa::kAvx512}) {
    if (isa > BestIsa()) break;
    TestTensor expected;
    for (const int num_threads : {1, 2, 3}) {
      const test::TestContext context(isa, num_threads);
      const auto op = [&](const PagedAttentionArgs& args) { PagedAttention(context, args); };
      if (num_threads == 1) expected = std::move(cache.Step({{0, length, length}}, op)[0]);
      for (const int64_t chunk_size : {int64_t{1}, int64_t{7}, int64_t{64}, length}) {
        for (int64_t end = std::min(chunk_size, length), begin = 0; begin < length;
             begin = end, end = std::min(end + chunk_size, length)) {
          // Not every token of a long row of steps: enough to meet each border between tiles and splits.
          if (chunk_size == 1 && end % 64 > 1 && end % 64 < 63 && end % 29 != 0) continue;
          std::vector<Chunk> chunks = {{0, end - begin, end}};
          const bool company = random.Int(0, 1) == 1;
          if (company) {
            const int64_t length_of_other = random.Int(1, 150);
            chunks.insert(chunks.begin(), {1, random.Int(1, length_of_other), length_of_other});
            chunks.push_back({2, 1, random.Int(1, 265)});
            chunks.push_back({3, 1, 64});
          }
          const auto results = cache.Step(chunks, op);
          ASSERT_TRUE(test::BitIdentical(results[company ? 1 : 0], expected.view().Rows(begin, end))) << fmt::format(
              "isa {}, {} threads, tokens [{}, {}), company {}", IsaName(isa), num_threads, begin, end, company);
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, PagedAttentionTest,
    testing::Values(Shape{4, 2, 64, 64, 16}, Shape{3, 3, 20, 33, 8}, Shape{8, 1, 64, 128, 32, DType::kBF16},
                    Shape{6, 2, 80, 80, 1, DType::kF16}, Shape{2, 1, 7, 5, 64},
                    Shape{4, 4, 32, 32, 16, DType::kBF16, 10}, Shape{6, 2, 32, 48, 16, DType::kF32, 100, true},
                    Shape{3, 1, 192, 128, 16, DType::kF32, 0, true}, Shape{1, 1, 16, 16, 16, DType::kF32, 64},
                    Shape{16, 1, 576, 512, 16, DType::kBF16, 0, false, true},
                    Shape{5, 1, 43, 33, 8, DType::kF16, 0, false, true}, Shape{8, 2, 64, 64, 16, DType::kI8},
                    Shape{3, 3, 20, 33, 8, DType::kI8, 100, true}, Shape{5, 1, 43, 33, 16, DType::kI8, 0, false, true},
                    Shape{4, 2, 21, 20, 16, DType::kF32, 90, true, true}, Shape{140, 1, 8, 4, 32, DType::kF32, 1}));

INSTANTIATE_TEST_SUITE_P(KeysInWords, PagedAttentionTest,
                         testing::Values(InWords({4, 2, 64, 64, 16}), InWords({8, 4, 64, 64, 16, DType::kBF16}),
                                         InWords({3, 3, 20, 33, 32, DType::kBF16, 10}),
                                         InWords({8, 1, 128, 128, 64, DType::kBF16, 100, true}),
                                         InWords({6, 2, 80, 48, 16, DType::kF16}),
                                         InWords({9, 3, 22, 16, 48, DType::kF16, 70}),
                                         InWords({16, 4, 64, 64, 16, DType::kI8}),
                                         InWords({2, 2, 36, 64, 128, DType::kI8, 90, true}),
                                         InWords({16, 1, 32, 32, 16, DType::kI8}), InWords({3, 1, 7, 5, 16})));

// A long context of one token, cut among threads.
TEST(PagedAttentionLongTest, EqualsReference) {
  const Shape shape = InWords({4, 1, 64, 64, 16, DType::kBF16});
  test::Random random;
  const Cache cache(random, shape, {5000});
  const std::vector<Chunk> chunks = {{0, 1, 5000}};
  const auto expected = cache.Step(chunks, [](const PagedAttentionArgs& args) { reference::PagedAttention(args); });
  test::ForEachCpuBody([&](const ExecContext& ctx) {
    const auto results = cache.Step(chunks, [&](const PagedAttentionArgs& args) { PagedAttention(ctx, args); });
    EXPECT_TRUE(test::AllClose(results[0], expected[0], 0, Tolerance(shape, 5000)));
  });
}

// Scores so far apart that all weight falls on one position, and scores that are all equal.
TEST(PagedAttentionEdgeTest, ExtremeScores) {
  const int64_t length = 200, head_dim = 16;
  const TestTensor q({2, 1, head_dim}), k({1, 1, length, head_dim}), v({1, 1, length, head_dim}), out({2, head_dim});
  const TestTensor starts({2}, DType::kI32), context({1}, DType::kI32), block({1}, DType::kI32),
      blocks({2}, DType::kI32);
  starts.As<int32_t>()[1] = 2;
  context.As<int32_t>()[0] = length;
  blocks.As<int32_t>()[1] = 1;
  test::FillConstant(q, 1e4);
  for (int64_t i = 0; i < length; ++i) {
    for (int64_t d = 0; d < head_dim; ++d) {
      k.As<float>()[i * head_dim + d] = i == 77 ? 1e4f : -1e4f;
      v.As<float>()[i * head_dim + d] = static_cast<float>(i);
    }
  }
  PagedAttentionArgs args = {};
  args.q = q;
  args.k_pages = k;
  args.v_pages = v;
  args.query_starts = starts;
  args.context_lens = context;
  args.block_starts = blocks;
  args.block_ids = block;
  args.out = out;
  test::ForEachCpuBody([&](const ExecContext& ctx) {
    args.scale = 1;
    PagedAttention(ctx, args);
    EXPECT_EQ(out.As<float>()[0], 77);
    EXPECT_EQ(out.As<float>()[head_dim], 77);
    args.scale = 0;
    PagedAttention(ctx, args);
    EXPECT_NEAR(out.As<float>()[0], (length - 2) / 2.0, 100 * test::SumTolerance(length));
    EXPECT_NEAR(out.As<float>()[head_dim], (length - 1) / 2.0, 100 * test::SumTolerance(length));
  });
}

// A key that is not a number makes the whole result none, also where a split sees no other, first or last.
TEST(PagedAttentionEdgeTest, KeepsNaN) {
  const int64_t head_dim = 16;
  for (const int64_t length : {int64_t{1}, int64_t{257}, int64_t{513}}) {
    const int64_t pages = (length + 15) / 16;
    const TestTensor q({1, 1, head_dim}), k({pages, 1, 16, head_dim}), v({pages, 1, 16, head_dim}), out({1, head_dim});
    const TestTensor starts({2}, DType::kI32), context({1}, DType::kI32), blocks({2}, DType::kI32),
        ids({pages}, DType::kI32);
    starts.As<int32_t>()[1] = 1;
    context.As<int32_t>()[0] = static_cast<int32_t>(length);
    blocks.As<int32_t>()[1] = static_cast<int32_t>(pages);
    std::iota(ids.As<int32_t>(), ids.As<int32_t>() + pages, 0);
    for (const TestTensor* tensor : {&q, &k, &v}) test::FillConstant(*tensor, 0.5);
    k.As<float>()[(length - 1) * head_dim] = NAN;
    PagedAttentionArgs args = {};
    args.q = q;
    args.k_pages = k;
    args.v_pages = v;
    args.query_starts = starts;
    args.context_lens = context;
    args.block_starts = blocks;
    args.block_ids = ids;
    args.out = out;
    ASSERT_TRUE(Check(args).ok()) << Check(args);
    test::ForEachCpuBody([&](const ExecContext& ctx) {
      for (const int window : {0, 1}) {
        args.window = window;
        test::FillConstant(out, 0);
        PagedAttention(ctx, args);
        for (int64_t d = 0; d < head_dim; ++d) EXPECT_TRUE(std::isnan(out.As<float>()[d])) << length << " " << window;
      }
    });
  }
}

TEST(PagedAttentionCheckTest, NamesWhatIsWrong) {
  const TestTensor q({3, 4, 8}), k({5, 2, 4, 8}), v({5, 2, 4, 6}), out({3, 24}), sinks({4});
  const TestTensor query_starts({3}, DType::kI32), context_lens({2}, DType::kI32);
  const TestTensor block_starts({3}, DType::kI32), block_ids({4}, DType::kI32);
  const auto set = [](const TestTensor& tensor, std::initializer_list<int32_t> values) {
    std::copy(values.begin(), values.end(), tensor.As<int32_t>());
  };
  const auto reset = [&] {
    set(query_starts, {0, 2, 3});
    set(context_lens, {2, 9});
    set(block_starts, {0, 1, 4});
    set(block_ids, {4, 0, 1, 2});
  };
  reset();
  PagedAttentionArgs good = {};
  good.q = q;
  good.k_pages = k;
  good.v_pages = v;
  good.query_starts = query_starts;
  good.context_lens = context_lens;
  good.block_starts = block_starts;
  good.block_ids = block_ids;
  good.sinks = sinks;
  good.out = out;
  ASSERT_TRUE(Check(good).ok()) << Check(good);

  PagedAttentionArgs args = good;
  args.q = q.view().Columns(0, 7);
  EXPECT_THAT(Message(Check(args)),
              HasSubstr("k_pages is fp32[5, 2, 4, 8]; it must be fp32 or bf16 or fp16 or int8[any, any, any, 7]"));
  args = good;
  args.q.shape[1] = 3;
  EXPECT_THAT(Message(Check(args)), HasSubstr("q has 3 heads; they must be a multiple of the 2 of k_pages"));
  args.q.shape[1] = 0;
  EXPECT_THAT(Message(Check(args)), HasSubstr("q is fp32[3, 0, 8]; it must have heads of one element or more"));
  args = good;
  args.sinks = out;
  EXPECT_THAT(Message(Check(args)), HasSubstr("sinks is fp32[3, 24]; it must be fp32[4]"));
  args = good;
  args.v_pages = args.k_pages.Columns(0, 6);
  EXPECT_TRUE(Check(args).ok()) << Check(args);
  args.v_pages.strides[1] += 1;
  EXPECT_THAT(Message(Check(args)), HasSubstr("v_pages fp32[5, 2, 4, 6] has strides of 64, 33 and 8"));
  args = good;
  args.window = -1;
  EXPECT_THAT(Message(Check(args)), HasSubstr("window is -1"));

  set(query_starts, {0, 2, 4});
  EXPECT_THAT(Message(Check(good)), HasSubstr("query_starts run from 0 to 4; q has 3 tokens"));
  reset();
  set(context_lens, {1, 9});
  EXPECT_THAT(Message(Check(good)), HasSubstr("context_lens[0] is 1; it must count the sequence's 2 tokens"));
  set(context_lens, {2, 13});
  EXPECT_THAT(Message(Check(good)), HasSubstr("sequence 1 has 3 blocks of 4; they must hold its 13 positions"));
  reset();
  set(block_ids, {4, 0, 5, 2});
  EXPECT_THAT(Message(Check(good)), HasSubstr("block 1 of sequence 1 is 5; it must be in [0, 5)"));
  args = good;
  args.max_context = 8;
  reset();
  EXPECT_THAT(Message(Check(args)), HasSubstr("context_lens[1] is 9; max_context = 8 must not be below it"));
  set(block_ids, {4, 0, 5, 2});
  args = good;
  args.window = 1;  // that block lies before the window
  EXPECT_TRUE(Check(args).ok()) << Check(args);
}

}  // namespace
}  // namespace moed::kernels
