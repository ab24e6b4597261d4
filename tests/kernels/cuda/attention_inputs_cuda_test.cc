#include "kernels/attention_inputs/attention_inputs.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "tests/support/cuda_body_testing.h"

namespace moed::kernels {
namespace {

using test::TestTensor;

enum class Norms { kNone, kHeads, kRows, kHeadsAfterRope };

struct Shape {
  int64_t heads, kv_heads, head_dim, v_head_dim, rotary_dim;
};

constexpr int64_t kTokens = 6, kPositions = 40, kPages = 3, kPageSize = 4;

// What a step has, and the results of one body.
struct Case {
  Case(test::Random& random, const Shape& shape, Norms norms)
      : shape(shape),
        norms(norms),
        qkv(test::NormalTensor(random, {kTokens, q_width() + k_width() + v_width() + 3})),
        q_norm(test::NormalTensor(random, {norms == Norms::kRows ? q_width() : shape.head_dim})),
        k_norm(test::NormalTensor(random, {norms == Norms::kRows ? k_width() : shape.head_dim})),
        positions({kTokens}, DType::kI32),
        cos_sin(test::NormalTensor(random, {kPositions, shape.rotary_dim})),
        slots({kTokens}, DType::kI64) {
    std::vector<int64_t> order(kPages * kPageSize);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random.engine());
    for (int64_t i = 0; i < kTokens; ++i) {
      positions.As<int32_t>()[i] = static_cast<int32_t>(random.Int(0, kPositions - 1));
      slots.As<int64_t>()[i] = i == 2 ? -1 : order[i];
    }
  }
  int64_t q_width() const { return shape.heads * shape.head_dim; }
  int64_t k_width() const { return shape.kv_heads * shape.head_dim; }
  int64_t v_width() const { return shape.kv_heads * shape.v_head_dim; }

  Shape shape;
  Norms norms;
  TestTensor qkv, q_norm, k_norm, positions, cos_sin, slots;
};

struct Result {
  Result(const Case& c, DType dtype)
      : qkv({kTokens, c.qkv.view().dim(1)}),
        k_pages({kPages, c.shape.kv_heads, kPageSize, c.shape.head_dim}, dtype),
        v_pages({kPages, c.shape.kv_heads, kPageSize, c.shape.v_head_dim}, dtype),
        k_scales({kPages, c.shape.kv_heads, kPageSize}),
        v_scales({kPages, c.shape.kv_heads, kPageSize}) {
    std::memcpy(qkv.As<char>(), c.qkv.As<char>(), qkv.view().num_bytes());
    for (const TestTensor* tensor : {&k_pages, &v_pages, &k_scales, &v_scales}) test::FillConstant(*tensor, 7);
  }

  AttentionInputsArgs Args(const Case& c, bool interleaved) const {
    const int64_t k_begin = 1 + c.q_width(), v_begin = k_begin + c.k_width();
    AttentionInputsArgs args;
    args.q = qkv.view().Columns(1, k_begin);
    args.k = qkv.view().Columns(k_begin, v_begin);
    args.v = qkv.view().Columns(v_begin, v_begin + c.v_width());
    if (c.norms != Norms::kNone) args.q_norm = c.q_norm, args.k_norm = c.k_norm;
    args.norm_after_rope = c.norms == Norms::kHeadsAfterRope;
    args.positions = c.positions;
    args.cos_sin = c.cos_sin;
    args.interleaved = interleaved;
    args.slots = c.slots;
    args.k_pages = k_pages;
    args.v_pages = v_pages;
    if (k_pages.view().dtype == DType::kI8) args.k_scales = k_scales, args.v_scales = v_scales;
    return args;
  }

  TestTensor qkv, k_pages, v_pages, k_scales, v_scales;
};

// Elements of the pages may round to the neighbour of what the reference rounds to: a step of `dtype`.
double PageTolerance(DType dtype) {
  return dtype == DType::kF32 ? 1e-5 : dtype == DType::kBF16 ? 1.0 / 128 : dtype == DType::kF16 ? 1.0 / 1024 : 0;
}

void ExpectMatchesReference(const Case& c, DType dtype, bool interleaved) {
  const Result expected(c, dtype);
  ASSERT_EQ(Check(expected.Args(c, interleaved)), absl::OkStatus());
  reference::AttentionInputs(expected.Args(c, interleaved));
  const auto expect_equal = [&](const Result& actual) {
    const TensorView q = actual.Args(c, interleaved).q, expected_q = expected.Args(c, interleaved).q;
    EXPECT_TRUE(test::AllClose(q, expected_q, 1e-5, 1e-5));
    const double integers = dtype == DType::kI8 ? 1 : 1e-5;
    EXPECT_TRUE(test::AllClose(actual.k_pages, expected.k_pages, PageTolerance(dtype), integers));
    EXPECT_TRUE(test::BitIdentical(actual.v_pages, expected.v_pages));
    EXPECT_TRUE(test::AllClose(actual.k_scales, expected.k_scales, 1e-5, 0));
    EXPECT_TRUE(test::AllClose(actual.v_scales, expected.v_scales, 0, 0));
  };
  {
    SCOPED_TRACE("cpu");
    const test::TestContext ctx;
    const Result actual(c, dtype);
    cpu::AttentionInputs(ctx, actual.Args(c, interleaved));
    expect_equal(actual);
  }
  test::ForEachThreadOrder([&](const ExecContext& ctx) {
    const Result actual(c, dtype);
    cuda::AttentionInputs(ctx, actual.Args(c, interleaved));
    test::Await(ctx);
    expect_equal(actual);
  });
}

using AttentionInputsCudaTest = test::CudaBodyTest;

TEST_F(AttentionInputsCudaTest, EqualsReference) {
  test::Random random;
  for (const Shape& shape : {Shape{4, 4, 32, 32, 32}, {6, 2, 40, 33, 22}, {2, 1, 600, 8, 0}, {9, 3, 64, 64, 64}}) {
    for (const Norms norms : {Norms::kNone, Norms::kHeads, Norms::kRows, Norms::kHeadsAfterRope}) {
      const Case c(random, shape, norms);
      for (const bool interleaved : {false, true}) {
        SCOPED_TRACE(fmt::format("heads {} of {}, norms {}, interleaved {}", shape.heads, shape.head_dim,
                                 static_cast<int>(norms), interleaved));
        ExpectMatchesReference(c, DType::kBF16, interleaved);
      }
    }
  }
}

TEST_F(AttentionInputsCudaTest, EveryTypeOfPages) {
  test::Random random;
  const Case c(random, {3, 3, 48, 48, 48}, Norms::kRows);
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16, DType::kI8}) {
    SCOPED_TRACE(DTypeName(dtype));
    ExpectMatchesReference(c, dtype, false);
  }
}

}  // namespace
}  // namespace moed::kernels
