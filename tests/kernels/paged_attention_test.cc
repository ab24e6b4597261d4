#include "kernels/paged_attention/paged_attention.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "tests/kernels/paged_attention_testing.h"
#include "tests/support/tensor_testing.h"

namespace moed::kernels {
namespace {

using attention_testing::Cache;
using attention_testing::Chunk;
using attention_testing::MultipliesIntegers;
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
      const double tolerance = Tolerance(shape, chunks[i].context, MultipliesIntegers(shape, ctx.isa));
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
  // Fewer cuts where instructions are emulated, which takes its time.
  const auto thread_counts = test::kIsEmulated ? std::vector{1, 3} : std::vector{1, 2, 3};
  const auto chunk_sizes = test::kIsEmulated ? std::vector<int64_t>{1, 64} : std::vector<int64_t>{1, 7, 64, length};
  for (const Isa isa : test::MachineIsas()) {
    TestTensor expected;
    for (const int num_threads : thread_counts) {
      const test::TestContext context(isa, num_threads);
      const auto op = [&](const PagedAttentionArgs& args) { PagedAttention(context, args); };
      if (num_threads == 1) expected = std::move(cache.Step({{0, length, length}}, op)[0]);
      for (const int64_t chunk_size : chunk_sizes) {
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

INSTANTIATE_TEST_SUITE_P(
    KeysInWords, PagedAttentionTest,
    testing::Values(InWords({4, 2, 64, 64, 16}), InWords({8, 4, 64, 64, 16, DType::kBF16}),
                    InWords({3, 3, 20, 33, 32, DType::kBF16, 10}),
                    InWords({8, 1, 128, 128, 64, DType::kBF16, 100, true}), InWords({6, 2, 80, 48, 16, DType::kF16}),
                    InWords({9, 3, 22, 16, 48, DType::kF16, 70}), InWords({16, 4, 64, 64, 16, DType::kI8}),
                    InWords({2, 2, 36, 64, 128, DType::kI8, 90, true}), InWords({16, 1, 32, 32, 16, DType::kI8}),
                    InWords({6, 2, 128, 128, 16, DType::kI8}), InWords({21, 3, 80, 100, 32, DType::kI8, 33}),
                    InWords({3, 1, 4, 5, 16, DType::kI8}), InWords({3, 1, 4, 8, 16, DType::kI8}),
                    InWords({4, 2, 32, 20, 48, DType::kI8}), InWords({140, 1, 8, 4, 32, DType::kI8}),
                    InWords({3, 1, 7, 5, 16})));

// A long context of one token, cut among threads.
TEST(PagedAttentionLongTest, EqualsReference) {
  for (const DType dtype : {DType::kBF16, DType::kI8}) {
    const Shape shape = InWords({4, 1, 64, 64, 16, dtype});
    test::Random random;
    const int64_t length = 5003;
    const Cache cache(random, shape, {length});
    const std::vector<Chunk> chunks = {{0, 1, length}};
    const auto expected = cache.Step(chunks, [](const PagedAttentionArgs& args) { reference::PagedAttention(args); });
    test::ForEachCpuBody([&](const ExecContext& ctx) {
      const auto results = cache.Step(chunks, [&](const PagedAttentionArgs& args) { PagedAttention(ctx, args); });
      const double tolerance = Tolerance(shape, length, MultipliesIntegers(shape, ctx.isa));
      EXPECT_TRUE(test::AllClose(results[0], expected[0], 0, tolerance));
    });
  }
}

// One sequence of `length` positions with one head, whose last `num_tokens` are asked for; its blocks in order.
struct OneSequence {
  OneSequence(int64_t num_tokens, int64_t length, int64_t head_dim, int64_t block_size, DType dtype = DType::kF32,
              KeyLayout layout = KeyLayout::kRows)
      : blocks((length + block_size - 1) / block_size),
        q({num_tokens, 1, head_dim}),
        k({blocks, 1, block_size, head_dim}, dtype),
        v({blocks, 1, block_size, head_dim}, dtype),
        k_scales({blocks, 1, block_size}),
        v_scales({blocks, 1, block_size}),
        out({num_tokens, head_dim}),
        starts({2}, DType::kI32),
        context({1}, DType::kI32),
        block_starts({2}, DType::kI32),
        ids({blocks}, DType::kI32) {
    starts.As<int32_t>()[1] = static_cast<int32_t>(num_tokens);
    context.As<int32_t>()[0] = static_cast<int32_t>(length);
    block_starts.As<int32_t>()[1] = static_cast<int32_t>(blocks);
    std::iota(ids.As<int32_t>(), ids.As<int32_t>() + blocks, 0);
    args.q = q;
    args.k_pages = k;
    args.key_layout = layout;
    args.v_pages = v;
    if (dtype == DType::kI8) {
      args.k_scales = k_scales;
      args.v_scales = v_scales;
    }
    args.query_starts = starts;
    args.context_lens = context;
    args.block_starts = block_starts;
    args.block_ids = ids;
    args.out = out;
    EXPECT_TRUE(Check(args).ok()) << Check(args);
  }

  int64_t blocks;
  TestTensor q, k, v, k_scales, v_scales, out, starts, context, block_starts, ids;
  PagedAttentionArgs args = {};
};

// Scores so far apart that all weight falls on one position, and scores that are all equal.
TEST(PagedAttentionEdgeTest, ExtremeScores) {
  const int64_t length = 200, head_dim = 16;
  OneSequence sequence(2, length, head_dim, length);
  test::FillConstant(sequence.q, 1e4);
  for (int64_t i = 0; i < length; ++i) {
    for (int64_t d = 0; d < head_dim; ++d) {
      sequence.k.As<float>()[i * head_dim + d] = i == 77 ? 1e4f : -1e4f;
      sequence.v.As<float>()[i * head_dim + d] = static_cast<float>(i);
    }
  }
  const float* const out = sequence.out.As<float>();
  test::ForEachCpuBody([&](const ExecContext& ctx) {
    sequence.args.scale = 1;
    PagedAttention(ctx, sequence.args);
    EXPECT_EQ(out[0], 77);
    EXPECT_EQ(out[head_dim], 77);
    sequence.args.scale = 0;
    PagedAttention(ctx, sequence.args);
    EXPECT_NEAR(out[0], (length - 2) / 2.0, 100 * test::SumTolerance(length));
    EXPECT_NEAR(out[head_dim], (length - 1) / 2.0, 100 * test::SumTolerance(length));
  });
}

// Beside an element that is 2^18 times as large, one of 16 bits is 0, where a float is not: so the product of integers
// is known to be made, and no other.
TEST(PagedAttentionEdgeTest, IntegersAreMultipliedWhereTheInstructionsAre) {
  const int64_t head_dim = 16;
  OneSequence sequence(1, 2, head_dim, 16, DType::kI8, KeyLayout::kWords);
  const float large = 1 << 18;
  sequence.args.scale = large;
  sequence.q.As<float>()[0] = 1;
  sequence.q.As<float>()[1] = 1 / large;
  for (const int64_t position : {0, 1}) {
    const KeyPlace place = PlaceOfKey(sequence.args.k_pages, KeyLayout::kWords, position, 1);
    sequence.k.As<int8_t>()[place.position * head_dim + place.i] = position == 0 ? 127 : -127;
    std::fill_n(sequence.v.As<int8_t>() + position * head_dim, head_dim, position == 0 ? 100 : -100);
  }
  for (const TestTensor* tensor : {&sequence.k_scales, &sequence.v_scales}) test::FillConstant(*tensor, 0.1);
  const Shape shape = InWords({1, 1, head_dim, head_dim, 16, DType::kI8});
  test::ForEachCpuBody([&](const ExecContext& ctx) {
    PagedAttention(ctx, sequence.args);
    EXPECT_NEAR(sequence.out.As<float>()[3], MultipliesIntegers(shape, ctx.isa) ? 0.0 : 10.0, 1e-3);
  });
}

// The same of integers, of which each value has a scale of its own; and queries and weights that are all zero.
TEST(PagedAttentionEdgeTest, ExtremeScoresOfIntegers) {
  const int64_t length = 200, head_dim = 16;
  OneSequence sequence(2, length, head_dim, 16, DType::kI8, KeyLayout::kWords);
  for (int64_t i = 0; i < length; ++i) {
    for (int64_t d = 0; d < head_dim; ++d) {
      const KeyPlace place = PlaceOfKey(sequence.args.k_pages, KeyLayout::kWords, i % 16, d);
      sequence.k.As<int8_t>()[(i / 16 * 16 + place.position) * head_dim + place.i] = i == 77 ? 127 : -127;
      sequence.v.As<int8_t>()[i * head_dim + d] = i % 2 == 0 ? 100 : -100;
    }
    sequence.k_scales.As<float>()[i] = 1e4f;
    sequence.v_scales.As<float>()[i] = static_cast<float>(i) / 100;
  }
  const float* const out = sequence.out.As<float>();
  test::ForEachCpuBody([&](const ExecContext& ctx) {
    for (const double query : {1e4, 0.0}) {
      test::FillConstant(sequence.q, query);
      PagedAttention(ctx, sequence.args);
      if (query != 0) {  // of the integers that weights become, the largest stands for itself
        for (const float result : {out[0], out[head_dim]}) EXPECT_NEAR(result, -77, 77 * 4 * test::kFloatEpsilon);
      } else {  // the first token sees 0 - 1 + 2 … + 198, the second - 199 too
        EXPECT_NEAR(out[0], 99.0 / 199, 200.0 / 65535);
        EXPECT_NEAR(out[head_dim], -0.5, 200.0 / 65535);
      }
    }
    test::FillConstant(sequence.v_scales, 0);
    PagedAttention(ctx, sequence.args);
    EXPECT_EQ(out[0], 0);
    for (int64_t i = 0; i < length; ++i) sequence.v_scales.As<float>()[i] = static_cast<float>(i) / 100;
  });
}

// A key or a value that is not a number makes the whole result none, also where a split sees no other, first or last.
// (Of integers, the scale tells.)
TEST(PagedAttentionEdgeTest, KeepsNaN) {
  const int64_t head_dim = 16;
  for (const auto& [dtype, layout] : {std::pair(DType::kF32, KeyLayout::kRows), {DType::kI8, KeyLayout::kWords}}) {
    for (const int64_t length : {int64_t{1}, int64_t{257}, int64_t{513}}) {
      for (const bool in_key : {true, false}) {
        OneSequence sequence(1, length, head_dim, 16, dtype, layout);
        for (const TestTensor* tensor : {&sequence.q, &sequence.k, &sequence.v}) test::FillConstant(*tensor, 0.5);
        for (const TestTensor* tensor : {&sequence.k_scales, &sequence.v_scales}) test::FillConstant(*tensor, 0.1);
        if (dtype == DType::kI8) {
          (in_key ? sequence.k_scales : sequence.v_scales).As<float>()[length - 1] = NAN;
        } else {
          float* const row = (in_key ? sequence.k : sequence.v).As<float>() + (length - 1) * head_dim;
          std::fill_n(row, in_key ? 1 : head_dim, NAN);
        }
        test::ForEachCpuBody([&](const ExecContext& ctx) {
          for (const int window : {0, 1}) {
            sequence.args.window = window;
            test::FillConstant(sequence.out, 0);
            PagedAttention(ctx, sequence.args);
            for (int64_t d = 0; d < head_dim; ++d) {
              EXPECT_TRUE(std::isnan(sequence.out.As<float>()[d])) << length << " " << window << " " << in_key;
            }
          }
        });
      }
    }
  }
}

// What a token does not see of its tile may be anything.
TEST(PagedAttentionEdgeTest, IgnoresNaNOfOthers) {
  const int64_t head_dim = 16, length = 130;
  OneSequence sequence(2, length, head_dim, 16, DType::kI8, KeyLayout::kWords);
  test::FillConstant(sequence.q, 0.5);
  for (const TestTensor* tensor : {&sequence.k, &sequence.v}) test::FillConstant(*tensor, 3);
  for (const TestTensor* tensor : {&sequence.k_scales, &sequence.v_scales}) {
    test::FillConstant(*tensor, 0.1);
    for (const int64_t position : {int64_t{100}, length - 1}) tensor->As<float>()[position] = NAN;
  }
  sequence.args.window = 20;  // the first token sees 109 to 128
  test::ForEachCpuBody([&](const ExecContext& ctx) {
    PagedAttention(ctx, sequence.args);
    for (int64_t d = 0; d < head_dim; ++d) {
      EXPECT_NEAR(sequence.out.As<float>()[d], 0.3, 1e-6);
      EXPECT_TRUE(std::isnan(sequence.out.As<float>()[head_dim + d]));
    }
  });
}

// A query that is not a number spoils its own row alone, to the bit.
TEST(PagedAttentionEdgeTest, AQueryIsNobodyElsesBusiness) {
  const int64_t head_dim = 20, length = 130, num_tokens = 7;
  for (const auto& [dtype, layout] : {std::pair(DType::kF32, KeyLayout::kRows), {DType::kI8, KeyLayout::kWords}}) {
    OneSequence sequence(num_tokens, length, head_dim, 16, dtype, layout);
    test::Random random;
    for (const TestTensor* tensor : {&sequence.q, &sequence.k, &sequence.v}) {
      for (int64_t i = 0; i < tensor->view().num_elements(); ++i) {
        const bool integer = tensor != &sequence.q && dtype == DType::kI8;
        test::SetElement(*tensor, i, integer ? static_cast<double>(random.Int(-128, 127)) : random.Normal());
      }
    }
    sequence.q.As<float>()[5 * head_dim + 2] = 1000;  // the others of its row are a few steps of its integers
    for (const TestTensor* tensor : {&sequence.k_scales, &sequence.v_scales}) test::FillConstant(*tensor, 0.01);
    test::ForEachCpuBody([&](const ExecContext& ctx) {
      PagedAttention(ctx, sequence.args);
      const TestTensor before({num_tokens, head_dim});
      std::memcpy(before.As<char>(), sequence.out.As<char>(), before.view().num_bytes());
      for (const float poison : {NAN, INFINITY}) {
        float* const element = sequence.q.As<float>() + 3 * head_dim + 19;
        const float healthy = std::exchange(*element, poison);
        PagedAttention(ctx, sequence.args);
        *element = healthy;
        for (int64_t t = 0; t < num_tokens; ++t) {
          if (t == 3) {
            for (int64_t d = 0; d < head_dim; ++d)
              EXPECT_FALSE(std::isfinite(sequence.out.As<float>()[t * head_dim + d]));
          } else {
            EXPECT_TRUE(test::BitIdentical(sequence.out.view().Rows(t, t + 1), before.view().Rows(t, t + 1))) << t;
          }
        }
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
