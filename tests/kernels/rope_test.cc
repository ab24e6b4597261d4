#include "kernels/rope/rope.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <tuple>

#include "tests/support/tensor_testing.h"

namespace moed::kernels {
namespace {

using test::TestTensor;
using ::testing::HasSubstr;

// Cosines and sines of position / 10000^(2i / rotary_dim).
TestTensor CosSin(int64_t max_positions, int64_t rotary_dim) {
  TestTensor table({max_positions, rotary_dim});
  for (int64_t position = 0; position < max_positions; ++position) {
    for (int64_t i = 0; i < rotary_dim / 2; ++i) {
      const double angle = static_cast<double>(position) *
                           std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(rotary_dim));
      table.As<float>()[position * rotary_dim + i] = static_cast<float>(std::cos(angle));
      table.As<float>()[position * rotary_dim + rotary_dim / 2 + i] = static_cast<float>(std::sin(angle));
    }
  }
  return table;
}

// Query and key heads inside fused rows, as a model has them.
struct Problem {
  static constexpr int64_t kMaxPositions = 300;

  Problem(test::Random& random, int64_t num_tokens, int64_t head_dim, int64_t rotary_dim, bool interleaved)
      : rows(test::NormalTensor(random, {num_tokens, (kHeads + kKvHeads) * head_dim + 3})),
        positions({num_tokens}, DType::kI32),
        cos_sin(CosSin(kMaxPositions, rotary_dim)),
        args(ArgsOn(rows, head_dim, interleaved)) {
    for (int64_t i = 0; i < num_tokens; ++i) {
      positions.As<int32_t>()[i] = static_cast<int32_t>(random.Int(0, kMaxPositions - 1));
    }
  }

  RopeArgs ArgsOn(const TestTensor& fused, int64_t head_dim, bool interleaved) const {
    const int64_t q_width = kHeads * head_dim;
    return {.q = fused.view().Columns(0, q_width).SplitLast(kHeads, head_dim),
            .k = fused.view().Columns(q_width, q_width + kKvHeads * head_dim).SplitLast(kKvHeads, head_dim),
            .positions = positions,
            .cos_sin = cos_sin,
            .interleaved = interleaved};
  }

  TestTensor CopyOfRows() const {
    TestTensor copy({rows.view().dim(0), rows.view().dim(1)});
    std::memcpy(copy.As<char>(), rows.As<char>(), rows.view().num_bytes());
    return copy;
  }

  static constexpr int64_t kHeads = 3, kKvHeads = 2;
  TestTensor rows, positions, cos_sin;
  RopeArgs args;
};

// (head_dim, rotary_dim), interleaved
class RopeTest : public testing::TestWithParam<std::tuple<std::pair<int64_t, int64_t>, bool>> {};

TEST_P(RopeTest, EqualsReference) {
  const int64_t head_dim = std::get<0>(GetParam()).first, rotary_dim = std::get<0>(GetParam()).second;
  const bool interleaved = std::get<1>(GetParam());
  test::Random random;
  for (const int64_t num_tokens : {0, 1, 6, 90}) {
    const Problem problem(random, num_tokens, head_dim, rotary_dim, interleaved);
    ASSERT_TRUE(Check(problem.args).ok()) << Check(problem.args);
    const TestTensor expected = problem.CopyOfRows();
    reference::Rope(problem.ArgsOn(expected, head_dim, interleaved));
    test::ForEachCpuBody([&](const ExecContext& ctx) {
      const TestTensor rows = problem.CopyOfRows();
      Rope(ctx, problem.ArgsOn(rows, head_dim, interleaved));
      // Two products and a sum, of magnitudes up to the inputs' (normal values: 6 is already rare).
      EXPECT_TRUE(test::AllClose(rows, expected, 0, 2 * test::kFloatEpsilon * 8));
    });
  }
}

TEST_P(RopeTest, KeepsLengthsAndWhatIsNotRotated) {
  const int64_t head_dim = std::get<0>(GetParam()).first, rotary_dim = std::get<0>(GetParam()).second;
  const bool interleaved = std::get<1>(GetParam());
  test::Random random;
  const Problem problem(random, 4, head_dim, rotary_dim, interleaved);
  const TestTensor rows = problem.CopyOfRows();
  const RopeArgs args = problem.ArgsOn(rows, head_dim, interleaved);
  const test::TestContext ctx;
  Rope(ctx, args);
  for (int64_t token = 0; token < 4; ++token) {
    for (int64_t head = 0; head < Problem::kHeads; ++head) {
      const int64_t offset = token * args.q.stride(0) + head * args.q.stride(1);
      const float* after = rows.As<float>() + offset;
      const float* before = problem.rows.As<float>() + offset;
      double length_before = 0, length_after = 0;
      for (int64_t i = 0; i < rotary_dim; ++i) {
        length_before += before[i] * before[i];
        length_after += after[i] * after[i];
      }
      EXPECT_NEAR(length_before, length_after, 1e-5 * length_before);
      for (int64_t i = rotary_dim; i < head_dim; ++i) EXPECT_EQ(before[i], after[i]) << "dimension " << i;
    }
  }
}

// Into another tensor: the same numbers as in place, and the queries stay.
TEST_P(RopeTest, ElsewhereAsInPlace) {
  const int64_t head_dim = std::get<0>(GetParam()).first, rotary_dim = std::get<0>(GetParam()).second;
  const bool interleaved = std::get<1>(GetParam());
  test::Random random;
  const Problem problem(random, 6, head_dim, rotary_dim, interleaved);
  const auto rotate = [&](const auto& op) {
    const TestTensor in_place = problem.CopyOfRows(), rows = problem.CopyOfRows();
    op(problem.ArgsOn(in_place, head_dim, interleaved));
    const TestTensor wide({6, Problem::kHeads * (head_dim + 5)});
    RopeArgs args = problem.ArgsOn(rows, head_dim, interleaved);
    args.q_out = wide.view().SplitLast(Problem::kHeads, head_dim + 5).Columns(5, head_dim + 5);
    ASSERT_TRUE(Check(args).ok()) << Check(args);
    op(args);
    const RopeArgs expected = problem.ArgsOn(in_place, head_dim, interleaved);
    EXPECT_TRUE(test::BitIdentical(args.q_out, expected.q));
    EXPECT_TRUE(test::BitIdentical(args.k, expected.k));
    EXPECT_TRUE(test::BitIdentical(args.q, problem.args.q));
  };
  rotate([](const RopeArgs& args) { reference::Rope(args); });
  test::ForEachCpuBody([&](const ExecContext& ctx) { rotate([&](const RopeArgs& args) { Rope(ctx, args); }); });
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, RopeTest,
    testing::Combine(testing::Values(std::pair<int64_t, int64_t>(2, 2), std::pair<int64_t, int64_t>(64, 64),
                                     std::pair<int64_t, int64_t>(128, 128), std::pair<int64_t, int64_t>(80, 32),
                                     std::pair<int64_t, int64_t>(50, 22), std::pair<int64_t, int64_t>(7, 0)),
                     testing::Bool()));

TEST(RopeCheckTest, NamesWhatIsWrong) {
  test::Random random;
  const Problem problem(random, 3, 8, 8, false);
  EXPECT_TRUE(Check(problem.args).ok());
  problem.positions.As<int32_t>()[2] = Problem::kMaxPositions;
  EXPECT_THAT(Message(Check(problem.args)), HasSubstr("positions[2] is 300; it must be in [0, 300)"));
  problem.positions.As<int32_t>()[2] = 0;
  RopeArgs args = problem.args;
  const TestTensor odd({300, 7}), wide({300, 10});
  args.cos_sin = odd;
  EXPECT_THAT(Message(Check(args)), HasSubstr("cos_sin is fp32[300, 7]"));
  args.cos_sin = wide;
  EXPECT_THAT(Message(Check(args)), HasSubstr("must be even and at most head_dim = 8"));
  args = problem.args;
  args.q_out = args.k;
  EXPECT_THAT(Message(Check(args)), HasSubstr("q_out is fp32[3, 2, 8]; it must be fp32[3, 3, 8]"));
  args = problem.args;
  args.k = args.k.Rows(0, 2);
  EXPECT_THAT(Message(Check(args)), HasSubstr("k is fp32[2, 2, 8]; it must be fp32[3, any, 8]"));
}

}  // namespace
}  // namespace moed::kernels
