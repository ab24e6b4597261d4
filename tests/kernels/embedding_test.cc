#include "kernels/embedding/embedding.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <tuple>

#include "tests/kernels/packed_weight_testing.h"
#include "tests/support/tensor_testing.h"

namespace moed::kernels {
namespace {

using ::testing::HasSubstr;

struct Problem {
  Problem(test::Random& random, DType dtype, int64_t num_tokens, int64_t vocab, int64_t hidden, float scale)
      : ids({num_tokens}, DType::kI32),
        table(test::NormalTensor(random, {vocab, hidden}, 1, dtype)),
        out({num_tokens, hidden}) {
    for (int64_t i = 0; i < num_tokens; ++i) ids.As<int32_t>()[i] = static_cast<int32_t>(random.Int(0, vocab - 1));
    args.ids = ids;
    args.table = table;
    args.scale = scale;
    args.out = out;
  }

  test::TestTensor ids, table, out;
  EmbeddingArgs args;
};

class EmbeddingTest : public testing::TestWithParam<std::tuple<DType, int64_t>> {};

TEST_P(EmbeddingTest, EqualsReference) {
  const DType dtype = std::get<0>(GetParam());
  const int64_t hidden = std::get<1>(GetParam());
  test::Random random;
  for (const int64_t num_tokens : {0, 1, 7, 200}) {
    for (const float scale : {1.0f, 45.25f}) {
      Problem problem(random, dtype, num_tokens, 33, hidden, scale);
      ASSERT_TRUE(Check(problem.args).ok()) << Check(problem.args);
      reference::Embedding(problem.args);
      const test::TestTensor expected = std::move(problem.out);
      test::ForEachCpuBody([&](const ExecContext& ctx) {
        const test::TestTensor out({num_tokens, hidden});
        problem.args.out = out;
        Embedding(ctx, problem.args);
        // One rounding, the same in both.
        EXPECT_TRUE(test::BitIdentical(out, expected)) << num_tokens << " tokens, scale " << scale;
      });
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, EmbeddingTest,
                         testing::Combine(testing::Values(DType::kF32, DType::kBF16, DType::kF16),
                                          testing::Values(1, 3, 16, 65, 1000)));

class PackedEmbeddingTest : public testing::TestWithParam<std::tuple<WeightFormat, int64_t>> {};

TEST_P(PackedEmbeddingTest, EqualsReference) {
  const WeightFormat format = std::get<0>(GetParam());
  const int64_t hidden = std::get<1>(GetParam());
  test::Random random;
  const packed_weight_testing::Weights weights(random, 1, 70, hidden, format);
  for (const int64_t num_tokens : {0, 1, 7, 200}) {
    for (const float scale : {1.0f, 45.25f}) {
      Problem problem(random, DType::kF32, num_tokens, 70, hidden, scale);
      problem.args.table = {};
      problem.args.packed = weights[0];
      ASSERT_TRUE(Check(problem.args).ok()) << Check(problem.args);
      reference::Embedding(problem.args);
      const test::TestTensor expected = std::move(problem.out);
      test::ForEachCpuBody([&](const ExecContext& ctx) {
        const test::TestTensor out({num_tokens, hidden});
        problem.args.out = out;
        Embedding(ctx, problem.args);
        EXPECT_TRUE(test::BitIdentical(out, expected)) << num_tokens << " tokens, scale " << scale;
      });
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, PackedEmbeddingTest,
                         testing::Combine(testing::ValuesIn(packed_weight_testing::kFormats),
                                          testing::Values(1, 3, 16, 65, 1000)));

TEST(EmbeddingCheckTest, NamesWhatIsWrong) {
  test::Random random;
  Problem problem(random, DType::kBF16, 3, 10, 8, 1.0f);
  problem.ids.As<int32_t>()[1] = 10;
  EXPECT_THAT(Message(Check(problem.args)), HasSubstr("ids[1] is 10; it must be in [0, 10)"));
  problem.ids.As<int32_t>()[1] = -1;
  EXPECT_THAT(Message(Check(problem.args)), HasSubstr("ids[1] is -1"));
  problem.ids.As<int32_t>()[1] = 0;

  EmbeddingArgs args = problem.args;
  args.out = problem.out.view().Rows(0, 2);
  EXPECT_THAT(Message(Check(args)), HasSubstr("out is fp32[2, 8]; it must be fp32[3, 8]"));
  args = problem.args;
  args.table.dtype = DType::kI8;
  EXPECT_THAT(Message(Check(args)), HasSubstr("table is int8[10, 8]; it must be fp32 or bf16 or fp16[any, any]"));

  const packed_weight_testing::Weights weights(random, 1, 10, 8, WeightFormat::Int8());
  args = problem.args;
  args.packed = weights[0];
  EXPECT_THAT(Message(Check(args)), HasSubstr("table and packed are both given"));
  args.table = {};
  EXPECT_TRUE(Check(args).ok());
  problem.ids.As<int32_t>()[2] = 10;
  EXPECT_THAT(Message(Check(args)), HasSubstr("ids[2] is 10; it must be in [0, 10)"));
}

}  // namespace
}  // namespace moed::kernels
