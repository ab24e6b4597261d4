#include "kernels/paged_attention/paged_attention.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "tests/support/tensor_testing.h"

namespace moed::kernels {
namespace {

using test::TestTensor;
using ::testing::HasSubstr;

struct Shape {
  int64_t num_heads, num_kv_heads, k_head_dim, v_head_dim, block_size;
  DType dtype = DType::kF32;
  int window = 0;
  bool sinks = false;
};

std::ostream& operator<<(std::ostream& out, const Shape& s) {
  return out << fmt::format("{}/{} heads of {}/{}, blocks of {} {}, window {}, sinks {}", s.num_heads, s.num_kv_heads,
                            s.k_head_dim, s.v_head_dim, s.block_size, DTypeName(s.dtype), s.window, s.sinks);
}

// One sequence's part of a step.
struct Chunk {
  int64_t sequence, num_tokens, context;
};

// Sequences with all their queries, keys and values, the latter in pages at random places. Pages and positions that
// belong to nobody hold NaN: whoever reads them as if they counted shows.
class Cache {
 public:
  Cache(test::Random& random, const Shape& shape, const std::vector<int64_t>& lengths) : shape_(shape) {
    int64_t num_blocks = 0;
    for (const int64_t length : lengths) num_blocks += BlocksOf(length);
    std::vector<int32_t> free_blocks(num_blocks + 2);
    std::iota(free_blocks.begin(), free_blocks.end(), 0);
    std::shuffle(free_blocks.begin(), free_blocks.end(), random.engine());
    const int64_t pages = num_blocks + 2;
    k_pages_ = TestTensor({pages, shape.num_kv_heads, shape.block_size, shape.k_head_dim}, shape.dtype);
    v_pages_ = TestTensor({pages, shape.num_kv_heads, shape.block_size, shape.v_head_dim}, shape.dtype);
    test::FillConstant(k_pages_, NAN);
    test::FillConstant(v_pages_, NAN);
    for (const int64_t length : lengths) {
      blocks_.emplace_back(free_blocks.end() - BlocksOf(length), free_blocks.end());
      free_blocks.resize(free_blocks.size() - BlocksOf(length));
      queries_.push_back(test::NormalTensor(random, {length, shape.num_heads, shape.k_head_dim}));
      for (int64_t position = 0; position < length; ++position) FillPosition(random, blocks_.back(), position);
    }
    sinks_ = test::NormalTensor(random, {shape.num_heads}, 2);
  }

  int64_t num_sequences() const { return static_cast<int64_t>(blocks_.size()); }

  // The result of one step: out[i] is that of chunk i, [num_tokens, num_heads * v_head_dim].
  template <typename Op>
  std::vector<TestTensor> Step(const std::vector<Chunk>& chunks, const Op& op) const {
    int64_t num_tokens = 0, num_blocks = 0;
    for (const Chunk& chunk : chunks) {
      num_tokens += chunk.num_tokens;
      num_blocks += BlocksOf(chunk.context);
    }
    const int64_t n = static_cast<int64_t>(chunks.size());
    const int64_t q_width = shape_.num_heads * shape_.k_head_dim;
    // Queries as a part of wider rows.
    const TestTensor rows({num_tokens, q_width + 3});
    const TestTensor query_starts({n + 1}, DType::kI32), context_lens({n}, DType::kI32);
    const TestTensor block_starts({n + 1}, DType::kI32), block_ids({num_blocks}, DType::kI32);
    const TestTensor out({num_tokens, shape_.num_heads * shape_.v_head_dim});
    for (int64_t i = 0; i < n; ++i) {
      const Chunk& chunk = chunks[i];
      const int32_t first = query_starts.As<int32_t>()[i];
      for (int64_t t = 0; t < chunk.num_tokens; ++t) {
        const int64_t position = chunk.context - chunk.num_tokens + t;
        std::memcpy(rows.As<float>() + (first + t) * (q_width + 3),
                    queries_[chunk.sequence].As<float>() + position * q_width, q_width * sizeof(float));
      }
      query_starts.As<int32_t>()[i + 1] = first + static_cast<int32_t>(chunk.num_tokens);
      context_lens.As<int32_t>()[i] = static_cast<int32_t>(chunk.context);
      const int32_t first_block = block_starts.As<int32_t>()[i];
      std::copy_n(blocks_[chunk.sequence].begin(), BlocksOf(chunk.context), block_ids.As<int32_t>() + first_block);
      // What lies before every token's window may have been given back: no valid id.
      const int64_t gone = chunk.context - chunk.num_tokens + 1 - shape_.window;
      if (shape_.window > 0 && gone >= shape_.block_size) {
        std::fill_n(block_ids.As<int32_t>() + first_block, gone / shape_.block_size, -1);
      }
      block_starts.As<int32_t>()[i + 1] = first_block + static_cast<int32_t>(BlocksOf(chunk.context));
    }
    PagedAttentionArgs args = {};
    args.q = rows.view().Columns(0, q_width).SplitLast(shape_.num_heads, shape_.k_head_dim);
    args.k_pages = k_pages_;
    args.v_pages = v_pages_;
    args.query_starts = query_starts;
    args.context_lens = context_lens;
    args.block_starts = block_starts;
    args.block_ids = block_ids;
    args.scale = 1 / std::sqrt(static_cast<float>(shape_.k_head_dim));
    args.window = shape_.window;
    if (shape_.sinks) args.sinks = sinks_;
    args.out = out;
    EXPECT_TRUE(Check(args).ok()) << Check(args);
    op(args);
    std::vector<TestTensor> results;
    for (int64_t i = 0; i < n; ++i) {
      results.emplace_back(TestTensor({chunks[i].num_tokens, out.view().dim(1)}));
      std::memcpy(results.back().As<char>(), out.As<float>() + query_starts.As<int32_t>()[i] * out.view().dim(1),
                  results.back().view().num_bytes());
    }
    return results;
  }

 private:
  int64_t BlocksOf(int64_t positions) const { return (positions + shape_.block_size - 1) / shape_.block_size; }

  void FillPosition(test::Random& random, const std::vector<int32_t>& blocks, int64_t position) const {
    for (const TestTensor* pages : {&k_pages_, &v_pages_}) {
      const int64_t dim = pages->view().dim(3);
      for (int64_t head = 0; head < shape_.num_kv_heads; ++head) {
        const int64_t row = (blocks[position / shape_.block_size] * shape_.num_kv_heads + head) * shape_.block_size +
                            position % shape_.block_size;
        for (int64_t d = 0; d < dim; ++d) test::SetElement(*pages, row * dim + d, random.Normal());
      }
    }
  }

  Shape shape_;
  TestTensor k_pages_, v_pages_, sinks_;
  std::vector<std::vector<int32_t>> blocks_;
  std::vector<TestTensor> queries_;  // [length, num_heads, k_head_dim] of each sequence
};

// Scores carry the error of a sum of k_head_dim products (of magnitude 1 before the scale), which the exponential turns
// into a relative error of each weight; the weighted sum of values of magnitude 1 (seldom above 5) adds its own.
double Tolerance(const Shape& shape, int64_t context) {
  const double score_error = test::SumTolerance(shape.k_head_dim) * std::sqrt(static_cast<double>(shape.k_head_dim));
  return 5 * (2 * score_error + test::SumTolerance(context) + 8 * test::kFloatEpsilon);
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

INSTANTIATE_TEST_SUITE_P(Shapes, PagedAttentionTest,
                         testing::Values(Shape{4, 2, 64, 64, 16}, Shape{3, 3, 20, 33, 8},
                                         Shape{8, 1, 64, 128, 32, DType::kBF16}, Shape{6, 2, 80, 80, 1, DType::kF16},
                                         Shape{2, 1, 7, 5, 64}, Shape{4, 4, 32, 32, 16, DType::kBF16, 10},
                                         Shape{6, 2, 32, 48, 16, DType::kF32, 100, true},
                                         Shape{3, 1, 192, 128, 16, DType::kF32, 0, true},
                                         Shape{1, 1, 16, 16, 16, DType::kF32, 64},
                                         Shape{140, 1, 8, 4, 32, DType::kF32, 1}));

// A long context of one token, cut among threads.
TEST(PagedAttentionLongTest, EqualsReference) {
  const Shape shape = {4, 1, 64, 64, 16, DType::kBF16};
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
              HasSubstr("k_pages is fp32[5, 2, 4, 8]; it must be fp32 or bf16 or fp16[any, any, any, 7]"));
  args = good;
  args.q.shape[1] = 3;
  EXPECT_THAT(Message(Check(args)), HasSubstr("q has 3 heads; they must be a multiple of the 2 of k_pages"));
  args = good;
  args.sinks = out;
  EXPECT_THAT(Message(Check(args)), HasSubstr("sinks is fp32[3, 24]; it must be fp32[4]"));
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
  args.window = 1;  // that block lies before the window
  EXPECT_TRUE(Check(args).ok()) << Check(args);
}

}  // namespace
}  // namespace moed::kernels
