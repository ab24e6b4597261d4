// Random sequences with a paged cache, for the tests of attention bodies.
#ifndef TESTS_KERNELS_PAGED_ATTENTION_TESTING_H_
#define TESTS_KERNELS_PAGED_ATTENTION_TESTING_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <ostream>
#include <vector>

#include "kernels/paged_attention/paged_attention.h"
#include "tests/support/tensor_testing.h"

namespace moed::kernels::attention_testing {

struct Shape {
  int64_t num_heads, num_kv_heads, k_head_dim, v_head_dim, block_size;
  DType dtype = DType::kF32;
  int window = 0;
  bool sinks = false;
  bool v_in_k = false;  // values are the first v_head_dim elements of their keys
  KeyLayout key_layout = KeyLayout::kRows;
};

inline std::ostream& operator<<(std::ostream& out, const Shape& s) {
  return out << fmt::format("{}/{} heads of {}/{}{}, blocks of {} {}, keys in {}, window {}, sinks {}", s.num_heads,
                            s.num_kv_heads, s.k_head_dim, s.v_head_dim, s.v_in_k ? " in the keys" : "", s.block_size,
                            DTypeName(s.dtype), s.key_layout == KeyLayout::kWords ? "words" : "rows", s.window,
                            s.sinks);
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
    k_pages_ = test::TestTensor({pages, shape.num_kv_heads, shape.block_size, shape.k_head_dim}, shape.dtype);
    v_pages_ = test::TestTensor({pages, shape.num_kv_heads, shape.block_size, shape.v_head_dim}, shape.dtype);
    k_scales_ = test::TestTensor({pages, shape.num_kv_heads, shape.block_size});
    v_scales_ = test::TestTensor({pages, shape.num_kv_heads, shape.block_size});
    const bool integers = shape.dtype == DType::kI8;
    for (const test::TestTensor* tensor : {&k_pages_, &v_pages_, &k_scales_, &v_scales_}) {
      const bool scales = tensor == &k_scales_ || tensor == &v_scales_;
      test::FillConstant(*tensor, integers && !scales ? 100 : NAN);
    }
    for (const int64_t length : lengths) {
      blocks_.emplace_back(free_blocks.end() - BlocksOf(length), free_blocks.end());
      free_blocks.resize(free_blocks.size() - BlocksOf(length));
      queries_.push_back(RoundedQueries(random, length));
      for (int64_t position = 0; position < length; ++position) FillPosition(random, blocks_.back(), position);
    }
    sinks_ = test::NormalTensor(random, {shape.num_heads}, 2);
  }

  int64_t num_sequences() const { return static_cast<int64_t>(blocks_.size()); }

  // The result of one step: out[i] is that of chunk i, [num_tokens, num_heads * v_head_dim].
  template <typename Op>
  std::vector<test::TestTensor> Step(const std::vector<Chunk>& chunks, const Op& op) const {
    int64_t num_tokens = 0, num_blocks = 0;
    for (const Chunk& chunk : chunks) {
      num_tokens += chunk.num_tokens;
      num_blocks += BlocksOf(chunk.context);
    }
    const int64_t n = static_cast<int64_t>(chunks.size());
    const int64_t q_width = shape_.num_heads * shape_.k_head_dim;
    // Queries as a part of wider rows.
    const test::TestTensor rows({num_tokens, q_width + 3});
    const test::TestTensor query_starts({n + 1}, DType::kI32), context_lens({n}, DType::kI32);
    const test::TestTensor block_starts({n + 1}, DType::kI32), block_ids({num_blocks}, DType::kI32);
    const test::TestTensor out({num_tokens, shape_.num_heads * shape_.v_head_dim});
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
    args.key_layout = shape_.key_layout;
    args.v_pages = shape_.v_in_k ? k_pages_.view().Columns(0, shape_.v_head_dim) : v_pages_.view();
    if (shape_.dtype == DType::kI8) {
      args.k_scales = k_scales_;
      args.v_scales = shape_.v_in_k ? k_scales_.view() : v_scales_.view();
    }
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
    std::vector<test::TestTensor> results;
    for (int64_t i = 0; i < n; ++i) {
      results.emplace_back(test::TestTensor({chunks[i].num_tokens, out.view().dim(1)}));
      std::memcpy(results.back().As<char>(), out.As<float>() + query_starts.As<int32_t>()[i] * out.view().dim(1),
                  results.back().view().num_bytes());
    }
    return results;
  }

 private:
  int64_t BlocksOf(int64_t positions) const { return (positions + shape_.block_size - 1) / shape_.block_size; }

  // Numbers that the pages' type has too, or bf16 where they hold integers: a body on tensor cores rounds queries to
  // it.
  test::TestTensor RoundedQueries(test::Random& random, int64_t length) const {
    const bool integers = shape_.dtype == DType::kI8;
    test::TestTensor queries({length, shape_.num_heads, shape_.k_head_dim});
    const test::TestTensor rounded = test::NormalTensor(random, {length, shape_.num_heads, shape_.k_head_dim}, 1,
                                                        integers ? DType::kBF16 : shape_.dtype);
    for (int64_t i = 0; i < queries.view().num_elements(); ++i) {
      test::SetElement(queries, i, test::GetElement(rounded, i));
    }
    return queries;
  }

  void FillPosition(test::Random& random, const std::vector<int32_t>& blocks, int64_t position) const {
    for (const test::TestTensor* pages : {&k_pages_, &v_pages_}) {
      const int64_t dim = pages->view().dim(3);
      for (int64_t head = 0; head < shape_.num_kv_heads; ++head) {
        const int64_t first_row =
            (blocks[position / shape_.block_size] * shape_.num_kv_heads + head) * shape_.block_size;
        const int64_t in_block = position % shape_.block_size;
        const bool integers = shape_.dtype == DType::kI8;
        if (integers) {
          test::SetElement(pages == &k_pages_ ? k_scales_ : v_scales_, first_row + in_block,
                           random.Uniform(0.01, 0.03));
        }
        for (int64_t d = 0; d < dim; ++d) {
          const KeyLayout layout = pages == &k_pages_ ? shape_.key_layout : KeyLayout::kRows;
          const KeyPlace place = PlaceOfKey(pages->view(), layout, in_block, d);
          const double value = integers ? static_cast<double>(random.Int(-127, 127)) : random.Normal();
          test::SetElement(*pages, (first_row + place.position) * dim + place.i, value);
        }
      }
    }
  }

  Shape shape_;
  test::TestTensor k_pages_, v_pages_, k_scales_, v_scales_, sinks_;
  std::vector<std::vector<int32_t>> blocks_;
  std::vector<test::TestTensor> queries_;  // [length, num_heads, k_head_dim] of each sequence
};

// Whether a CPU body multiplies the pages' integers as they are.
inline bool MultipliesIntegers(const Shape& shape, Isa isa) {
  const bool has_byte_dots = isa == Isa::kAvxVnni || isa >= Isa::kAvx512Vnni;
  return has_byte_dots && shape.dtype == DType::kI8 && shape.key_layout == KeyLayout::kWords &&
         shape.v_head_dim % 4 == 0;
}

// Scores carry the error of a sum of k_head_dim products (of magnitude 1 before the scale), which the exponential turns
// into a relative error of each weight; the weighted sum of values of magnitude 1 (seldom above 5) adds its own.
inline double Tolerance(const Shape& shape, int64_t context, bool multiplies_integers = false) {
  double score_error = test::SumTolerance(shape.k_head_dim) * std::sqrt(static_cast<double>(shape.k_head_dim));
  double weight_error = test::SumTolerance(context) + 8 * test::kFloatEpsilon;
  if (multiplies_integers) {
    // Queries (up to 4) and weights are made integers of 16 bits, keys being below 4: halves of a step, which
    // add up like chance.
    score_error += 4.0 / 65278 * 4;
    weight_error += 0.5 / 65535;
  }
  return 5 * (2 * score_error + weight_error);
}

// The same for a body that rounds weights to the pages' type (or bf16) before they are multiplied with values.
inline double RoundedWeightsTolerance(const Shape& shape, int64_t context) {
  const double half_ulp = shape.dtype == DType::kF16 ? 1.0 / 4096 : 1.0 / 512;
  return Tolerance(shape, context) + 5 * half_ulp;
}

}  // namespace moed::kernels::attention_testing

#endif  // TESTS_KERNELS_PAGED_ATTENTION_TESTING_H_
