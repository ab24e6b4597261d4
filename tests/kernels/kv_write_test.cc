#include "kernels/kv_write/kv_write.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <tuple>

#include "tests/support/tensor_testing.h"

namespace moed::kernels {
namespace {

using test::TestTensor;
using ::testing::HasSubstr;

struct Problem {
  static constexpr int64_t kBlocks = 6, kKvHeads = 3;

  Problem(test::Random& random, int64_t num_tokens, int64_t k_dim, int64_t v_dim, int64_t block_size)
      : fused(test::NormalTensor(random, {num_tokens, kKvHeads * (k_dim + v_dim)}, 100)),
        slots({num_tokens}, DType::kI64) {
    args.k = fused.view().Columns(0, kKvHeads * k_dim).SplitLast(kKvHeads, k_dim);
    args.v = fused.view().Columns(kKvHeads * k_dim, kKvHeads * (k_dim + v_dim)).SplitLast(kKvHeads, v_dim);
    std::vector<int64_t> order(kBlocks * block_size);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random.engine());
    for (int64_t i = 0; i < num_tokens; ++i) slots.As<int64_t>()[i] = i % 5 == 4 ? -1 - i : order[i];
    args.slots = slots;
  }

  TestTensor fused, slots;
  KvWriteArgs args;
};

struct Pages {
  Pages(DType dtype, int64_t k_dim, int64_t v_dim, int64_t block_size)
      : k({Problem::kBlocks, Problem::kKvHeads, block_size, k_dim}, dtype),
        v({Problem::kBlocks, Problem::kKvHeads, block_size, v_dim}, dtype),
        k_scales({Problem::kBlocks, Problem::kKvHeads, block_size}),
        v_scales({Problem::kBlocks, Problem::kKvHeads, block_size}) {
    for (const TestTensor* tensor : {&k, &v, &k_scales, &v_scales}) test::FillConstant(*tensor, 7);
  }
  void SetOn(KvWriteArgs* args) const {
    args->k_pages = k;
    args->v_pages = v;
    if (k.view().dtype != DType::kI8) return;
    args->k_scales = k_scales;
    args->v_scales = v_scales;
  }
  void ExpectIdentical(const Pages& expected) const {
    EXPECT_TRUE(test::BitIdentical(k, expected.k));
    EXPECT_TRUE(test::BitIdentical(v, expected.v));
    EXPECT_TRUE(test::BitIdentical(k_scales, expected.k_scales));
    EXPECT_TRUE(test::BitIdentical(v_scales, expected.v_scales));
  }
  TestTensor k, v, k_scales, v_scales;
};

// dtype of the pages, (k_head_dim, v_head_dim), block_size
class KvWriteTest : public testing::TestWithParam<std::tuple<DType, std::pair<int64_t, int64_t>, int64_t>> {};

TEST_P(KvWriteTest, EqualsReferenceAndTouchesNothingElse) {
  const DType dtype = std::get<0>(GetParam());
  const int64_t k_dim = std::get<1>(GetParam()).first, v_dim = std::get<1>(GetParam()).second;
  const int64_t block_size = std::get<2>(GetParam());
  test::Random random;
  for (const int64_t num_tokens : {int64_t{0}, int64_t{1}, Problem::kBlocks * block_size}) {
    Problem problem(random, num_tokens, k_dim, v_dim, block_size);
    // Values whose rounding is a tie or leaves the range.
    if (num_tokens > 0) test::FillEdgeValues(problem.args.k.Rows(0, 1).Columns(0, k_dim), random);
    const Pages expected(dtype, k_dim, v_dim, block_size);
    expected.SetOn(&problem.args);
    ASSERT_TRUE(Check(problem.args).ok()) << Check(problem.args);
    reference::KvWrite(problem.args);
    test::ForEachCpuBody([&](const ExecContext& ctx) {
      const Pages pages(dtype, k_dim, v_dim, block_size);
      pages.SetOn(&problem.args);
      KvWrite(ctx, problem.args);
      pages.ExpectIdentical(expected);
    });
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, KvWriteTest,
                         testing::Combine(testing::Values(DType::kF32, DType::kBF16, DType::kF16, DType::kI8),
                                          testing::Values(std::pair<int64_t, int64_t>(64, 64),
                                                          std::pair<int64_t, int64_t>(24, 17),
                                                          std::pair<int64_t, int64_t>(1, 130)),
                                          testing::Values(1, 8, 16)));

// dtype of the pages, k_head_dim, block_size
class KvWriteWordsTest : public testing::TestWithParam<std::tuple<DType, int64_t, int64_t>> {};

TEST_P(KvWriteWordsTest, EqualsReferenceAndTouchesNothingElse) {
  const DType dtype = std::get<0>(GetParam());
  const int64_t k_dim = std::get<1>(GetParam()), block_size = std::get<2>(GetParam());
  test::Random random;
  for (const int64_t num_tokens : {int64_t{1}, int64_t{5}, Problem::kBlocks * block_size}) {
    Problem problem(random, num_tokens, k_dim, 17, block_size);
    problem.args.key_layout = KeyLayout::kWords;
    test::FillEdgeValues(problem.args.k.Rows(0, 1).Columns(0, k_dim), random);
    const Pages expected(dtype, k_dim, 17, block_size);
    expected.SetOn(&problem.args);
    ASSERT_TRUE(Check(problem.args).ok()) << Check(problem.args);
    reference::KvWrite(problem.args);
    test::ForEachCpuBody([&](const ExecContext& ctx) {
      const Pages pages(dtype, k_dim, 17, block_size);
      pages.SetOn(&problem.args);
      KvWrite(ctx, problem.args);
      pages.ExpectIdentical(expected);
    });
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, KvWriteWordsTest,
                         testing::Combine(testing::Values(DType::kF32, DType::kBF16, DType::kF16, DType::kI8),
                                          testing::Values(64, 24, 132), testing::Values(16, 48)));

// The words of neighbouring positions lie side by side.
TEST(KvWriteKeyWordsTest, LiesByWords) {
  const TestTensor k({2, 1, 4}), slots({2}, DType::kI64), pages({1, 1, 16, 4}, DType::kBF16);
  for (int i = 0; i < 8; ++i) k.As<float>()[i] = static_cast<float>(i);
  slots.As<int64_t>()[0] = 3;
  slots.As<int64_t>()[1] = 4;
  const KvWriteArgs args = {
      .k = k, .v = {}, .slots = slots, .k_pages = pages, .v_pages = {}, .key_layout = KeyLayout::kWords};
  ASSERT_TRUE(Check(args).ok()) << Check(args);
  test::ForEachCpuBody([&](const ExecContext& ctx) {
    KvWrite(ctx, args);
    // Positions 3 and 4 of the first word, then of the second.
    for (const auto& [place, value] : {std::pair(6, 0), {7, 1}, {8, 4}, {9, 5}, {38, 2}, {39, 3}, {40, 6}, {41, 7}}) {
      EXPECT_EQ(test::GetElement(pages, place), value) << place;
    }
  });
}

TEST(KvWriteKeyWordsTest, ErrorsNameWhatDoesNotFit) {
  const TestTensor k({1, 2, 6}), slots({1}, DType::kI64);
  KvWriteArgs args = {.k = k, .v = {}, .slots = slots, .key_layout = KeyLayout::kWords};
  const TestTensor small({4, 2, 8, 6}, DType::kBF16), integers({4, 2, 16, 6}, DType::kI8), scales({4, 2, 16});
  args.k_pages = small;
  EXPECT_THAT(Message(Check(args)),
              HasSubstr("k_pages bf16[4, 2, 8, 6] has keys in words; blocks must be a multiple of "
                        "16 and rows of 2 elements, on the CPU"));
  args.k_pages = integers;
  args.k_scales = scales;
  EXPECT_THAT(Message(Check(args)), HasSubstr("rows of 4 elements"));
  const TestTensor pages({4, 2, 16, 6}, DType::kBF16);
  args.k_scales = {};
  args.k_pages = pages;
  EXPECT_TRUE(Check(args).ok()) << Check(args);
  args.v = k;
  args.v_pages = pages;
  EXPECT_THAT(Message(Check(args)), HasSubstr("v_pages is a part of k_pages, whose keys are in words"));
}

// Values that are a part of their keys are written with them.
TEST(KvWriteKeysTest, NeedNoValues) {
  test::Random random;
  Problem problem(random, 7, 24, 17, 2);
  problem.args.v = {};
  const Pages expected(DType::kBF16, 24, 17, 2);
  problem.args.k_pages = expected.k;
  ASSERT_TRUE(Check(problem.args).ok()) << Check(problem.args);
  reference::KvWrite(problem.args);
  test::ForEachCpuBody([&](const ExecContext& ctx) {
    const Pages pages(DType::kBF16, 24, 17, 2);
    problem.args.k_pages = pages.k;
    KvWrite(ctx, problem.args);
    EXPECT_TRUE(test::BitIdentical(pages.k, expected.k));
  });
  problem.args.v_pages = expected.v;
  EXPECT_THAT(Message(Check(problem.args)), HasSubstr("v is fp32[]; it must be fp32[7, 3, 17]"));
}

// Rounding is to nearest even, ties and both signs, overflow to infinity, NaN kept.
TEST(KvWriteRoundingTest, ToNearestEven) {
  struct Case {
    float value;
    uint16_t bf16, f16;
  };
  const Case cases[] = {
      {1.0f, 0x3f80, 0x3c00},        {0x1.01p0f, 0x3f80, 0x3c04},  // a tie in bf16, down to even
      {0x1.03p0f, 0x3f82, 0x3c0c},                                 // a tie in bf16, up to even
      {0x1.002p0f, 0x3f80, 0x3c00},                                // a tie in f16, down to even
      {0x1.006p0f, 0x3f80, 0x3c02},                                // a tie in f16, up to even
      {-0x1.03p0f, 0xbf82, 0xbc0c},  {65519.0f, 0x4780, 0x7bff},
      {65520.0f, 0x4780, 0x7c00},     // a tie with infinity in f16
      {0x1.ffp127f, 0x7f80, 0x7c00},  // a tie with infinity in bf16
      {0x1p-24f, 0x3380, 0x0001},     // the smallest f16
      {0x1p-25f, 0x3300, 0x0000},     // a tie with zero
      {0x1.8p-24f, 0x33c0, 0x0002},  {-0.0f, 0x8000, 0x8000},
  };
  const int64_t n = std::size(cases);
  const TestTensor k({1, 1, n}), slots({1}, DType::kI64);
  for (int64_t i = 0; i < n; ++i) k.As<float>()[i] = cases[i].value;
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    test::ForEachCpuBody([&](const ExecContext& ctx) {
      const TestTensor k_pages({1, 1, 1, n}, dtype), v_pages({1, 1, 1, n}, dtype);
      KvWrite(ctx, {.k = k, .v = k, .slots = slots, .k_pages = k_pages, .v_pages = v_pages});
      for (int64_t i = 0; i < n; ++i) {
        const uint16_t expected = dtype == DType::kBF16 ? cases[i].bf16 : cases[i].f16;
        EXPECT_EQ(k_pages.As<uint16_t>()[i], expected) << cases[i].value << " as " << DTypeName(dtype);
      }
    });
  }
}

// The largest magnitude becomes 127; a row of zeros stays one; what is not finite shows in the scale.
TEST(KvWriteRoundingTest, ToIntegersWithAScale) {
  const TestTensor k({4, 1, 4}), slots({4}, DType::kI64);
  const float rows[4][4] = {{1.0f, -2.54f, 0.03f, 0.0101f}, {0, 0, -0.0f, 0}, {1, NAN, 3, 4}, {-INFINITY, 2, 3, 4}};
  std::memcpy(k.As<float>(), rows, sizeof(rows));
  for (int64_t i = 0; i < 4; ++i) slots.As<int64_t>()[i] = i;
  test::ForEachCpuBody([&](const ExecContext& ctx) {
    const TestTensor pages({1, 1, 4, 4}, DType::kI8), scales({1, 1, 4});
    const KvWriteArgs args = {
        .k = k, .v = k, .slots = slots, .k_pages = pages, .v_pages = pages, .k_scales = scales, .v_scales = scales};
    ASSERT_TRUE(Check(args).ok()) << Check(args);
    KvWrite(ctx, args);
    EXPECT_THAT(std::vector<int>(pages.As<int8_t>(), pages.As<int8_t>() + 8),
                testing::ElementsAre(50, -127, 2, 1, 0, 0, 0, 0));
    EXPECT_FLOAT_EQ(scales.As<float>()[0], 0.02f);
    EXPECT_EQ(scales.As<float>()[1], 0.0f);
    EXPECT_TRUE(std::isnan(scales.As<float>()[2]));
    EXPECT_TRUE(std::isnan(scales.As<float>()[3]));
  });
}

TEST(KvWriteCheckTest, NamesWhatIsWrong) {
  test::Random random;
  Problem problem(random, 3, 8, 4, 2);
  const Pages pages(DType::kBF16, 8, 4, 2), other(DType::kF16, 8, 4, 2);
  pages.SetOn(&problem.args);
  EXPECT_TRUE(Check(problem.args).ok());
  problem.slots.As<int64_t>()[0] = 12;
  EXPECT_THAT(Message(Check(problem.args)), HasSubstr("slots[0] is 12; it must be below 6 blocks of 2"));
  problem.slots.As<int64_t>()[0] = 0;
  KvWriteArgs args = problem.args;
  args.v_pages = other.v;
  EXPECT_THAT(Message(Check(args)), HasSubstr("v_pages is fp16[6, 3, 2, 4]; it must be bf16[6, 3, 2, any]"));
  args = problem.args;
  args.v = args.k;
  EXPECT_THAT(Message(Check(args)), HasSubstr("v is fp32[3, 3, 8]; it must be fp32[3, 3, 4]"));
  args = problem.args;
  args.k_pages = args.k_pages.Columns(0, 8);
  args.k_pages.strides[0] += 1;
  EXPECT_THAT(Message(Check(args)), HasSubstr("k_pages bf16[6, 3, 2, 8] has gaps"));
}

}  // namespace
}  // namespace moed::kernels
