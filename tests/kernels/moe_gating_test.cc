#include "kernels/moe_gating/moe_gating.h"

#include <gmock/gmock.h>

#include <cmath>

#include "tests/kernels/moe_gating_testing.h"

namespace moed::kernels {
namespace {

using gating_testing::DistinctBiases;
using gating_testing::Results;
using test::FillConstant;
using test::ForEachCpuBody;
using test::NormalTensor;
using test::Random;
using test::TestTensor;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

Results RunReference(MoeGatingArgs args) {
  Results results(args.logits.dim(0), args.logits.dim(1), args.top_k);
  results.AddTo(args);
  EXPECT_EQ(Check(args), absl::OkStatus());
  reference::MoeGating(args);
  return results;
}

Results RunBody(const ExecContext& ctx, MoeGatingArgs args) {
  Results results(args.logits.dim(0), args.logits.dim(1), args.top_k);
  results.AddTo(args);
  MoeGating(ctx, args);
  return results;
}

// The same choice and order, and weights within `relative` and a rounding at the bottom of the floats' range.
void ExpectSame(const Results& actual, const Results& expected, double relative) {
  EXPECT_TRUE(test::BitIdentical(actual.expert_ids, expected.expert_ids));
  EXPECT_TRUE(test::BitIdentical(actual.sorted_pairs, expected.sorted_pairs));
  EXPECT_TRUE(test::BitIdentical(actual.expert_offsets, expected.expert_offsets));
  EXPECT_TRUE(test::AllClose(actual.weights, expected.weights, relative, 1e-37));
}

// A weight is e^x (2 ulp), a sum of num_experts of them, two divisions, a sum of top_k and a product.
double WeightTolerance(int64_t num_experts, int top_k) {
  return (2 + 2 + 4) * test::kFloatEpsilon + test::SumTolerance(num_experts) + test::SumTolerance(top_k);
}

TEST(MoeGatingTest, MatchesReference) {
  Random random;
  struct Row {
    int64_t num_tokens, num_experts;
    int top_k;
  };
  std::vector<Row> rows = {{1, 1, 1}, {1, 8, 2}, {5, 64, 8}, {33, 257, 8}, {2, 31, 31}, {130, 128, 8}};
  for (int i = 0; i < 20; ++i) {
    const int64_t num_experts = random.Int(1, 257);
    rows.push_back(
        {random.Int(1, 33), num_experts, static_cast<int>(random.Int(1, std::min<int64_t>(12, num_experts)))});
  }
  for (const Row& row : rows) {
    const TestTensor logits = NormalTensor(random, {row.num_tokens, row.num_experts}, 3);
    for (RouterScoring scoring : {RouterScoring::kSoftmax, RouterScoring::kSigmoid}) {
      for (bool renormalize : {false, true}) {
        MoeGatingArgs args;
        args.logits = logits;
        args.scoring = scoring;
        args.top_k = row.top_k;
        args.renormalize = renormalize;
        args.weight_scale = renormalize ? 2.5f : 1.0f;
        const Results expected = RunReference(args);
        ForEachCpuBody([&](const ExecContext& ctx) {
          SCOPED_TRACE(fmt::format("{} tokens, {} experts, top {}", row.num_tokens, row.num_experts, row.top_k));
          ExpectSame(RunBody(ctx, args), expected, WeightTolerance(row.num_experts, row.top_k));
        });
      }
    }
  }
}

TEST(MoeGatingTest, CorrectionBiasAndGroups) {
  Random random;
  struct Row {
    int64_t num_experts;
    int num_groups, top_groups, top_k;
  };
  for (const Row& row :
       {Row{256, 8, 4, 8}, Row{64, 1, 1, 6}, Row{33, 11, 3, 9}, Row{24, 4, 1, 6}, Row{7, 7, 3, 2}, Row{160, 8, 3, 6}}) {
    const int64_t num_tokens = random.Int(1, 33);
    const TestTensor bias = DistinctBiases(random, row.num_experts, row.num_groups);
    TestTensor logits({num_tokens, row.num_experts});
    test::FillUniform(logits, random, -0.005, 0.005);
    for (RouterScoring scoring : {RouterScoring::kSoftmax, RouterScoring::kSigmoid}) {
      for (bool biased : {false, true}) {
        MoeGatingArgs args;
        args.logits = logits;
        args.scoring = scoring;
        args.top_k = row.top_k;
        args.renormalize = true;
        args.weight_scale = 2.5f;
        if (biased) args.correction_bias = bias;
        args.num_groups = row.num_groups;
        args.top_groups = row.top_groups;
        const Results expected = RunReference(args);
        ForEachCpuBody([&](const ExecContext& ctx) {
          SCOPED_TRACE(fmt::format("{} experts, {} of {} groups, top {}, biased {}", row.num_experts, row.top_groups,
                                   row.num_groups, row.top_k, biased));
          ExpectSame(RunBody(ctx, args), expected, WeightTolerance(row.num_experts, row.top_k));
        });
      }
    }
  }
}

TEST(MoeGatingTest, SparseMixer) {
  Random random;
  for (int i = 0; i < 30; ++i) {
    const int64_t num_tokens = random.Int(1, 9), num_experts = random.Int(2, 40);
    MoeGatingArgs args;
    // Whole sixteenths: whether a logit is near is decided clearly, but for a few that lie exactly at the border, on
    // whose side double and float agree.
    TestTensor logits({num_tokens, num_experts});
    for (int64_t e = 0; e < logits.view().num_elements(); ++e) {
      logits.As<float>()[e] = static_cast<float>(random.Int(-40, 60)) / 16 + static_cast<float>(e % num_experts) / 4096;
    }
    args.logits = logits;
    args.scoring = RouterScoring::kSparseMixer;
    args.jitter = static_cast<float>(random.Int(1, 30)) / 100 + 0.0017f;
    args.top_k = static_cast<int>(random.Int(1, std::min<int64_t>(4, num_experts)));
    const Results expected = RunReference(args);
    ForEachCpuBody([&](const ExecContext& ctx) {
      SCOPED_TRACE(fmt::format("{} tokens, {} experts, top {}", num_tokens, num_experts, args.top_k));
      ExpectSame(RunBody(ctx, args), expected, WeightTolerance(num_experts, args.top_k));
    });
  }
}

// By hand: of {3, 2.9, 2, -1} with jitter 0.05, 2.9 is near 3 and nothing is near 2.9.
TEST(MoeGatingTest, SparseMixerMasksEachChoiceAnew) {
  TestTensor logits({1, 4});
  const float values[] = {2.0f, 3.0f, -1.0f, 2.9f};
  std::copy(values, values + 4, logits.As<float>());
  MoeGatingArgs args;
  args.logits = logits;
  args.scoring = RouterScoring::kSparseMixer;
  args.jitter = 0.05f;
  args.top_k = 2;
  ForEachCpuBody([&](const ExecContext& ctx) {
    const Results results = RunBody(ctx, args);
    EXPECT_THAT(std::vector<int>(results.expert_ids.As<int>(), results.expert_ids.As<int>() + 2), ElementsAre(1, 3));
    EXPECT_NEAR(results.weights.As<float>()[0], 1 / (1 + std::exp(-0.1)), 1e-6);
    EXPECT_EQ(results.weights.As<float>()[1], 1.0f);
  });
}

TEST(MoeGatingTest, EqualScoresGoToTheLowerIndex) {
  TestTensor logits({3, 40});
  for (int64_t e = 0; e < 40; ++e) {
    logits.As<float>()[e] = 1;                                            // all equal
    logits.As<float>()[40 + e] = e % 2 == 0 ? 0.f : -0.f;                 // zeros of both signs are equal
    logits.As<float>()[80 + e] = std::floor(static_cast<float>(e) / 10);  // ties within the best
  }
  MoeGatingArgs args;
  args.logits = logits;
  args.top_k = 4;
  ForEachCpuBody([&](const ExecContext& ctx) {
    const Results results = RunBody(ctx, args);
    EXPECT_THAT(std::vector<int>(results.expert_ids.As<int>(), results.expert_ids.As<int>() + 12),
                ElementsAre(0, 1, 2, 3, 0, 1, 2, 3, 30, 31, 32, 33));
  });
}

TEST(MoeGatingTest, EdgeLogits) {
  constexpr int64_t kExperts = 19;
  TestTensor logits({6, kExperts});
  float* const rows = logits.As<float>();
  rows[3] = 1e30f, rows[7] = -1e30f;                                           // far apart: one weight is 1
  for (int e = 0; e < kExperts; ++e) rows[kExperts + e] = -3e38f + e * 1e37f;  // a softmax must subtract the maximum
  for (int e = 0; e < kExperts; ++e) rows[2 * kExperts + e] = e * 1e-42f;      // subnormal
  rows[3 * kExperts + 5] = -HUGE_VALF;
  rows[4 * kExperts + 2] = NAN;
  for (int e = 0; e < kExperts; ++e) rows[5 * kExperts + e] = NAN;
  for (RouterScoring scoring : {RouterScoring::kSoftmax, RouterScoring::kSigmoid}) {
    MoeGatingArgs args;
    args.logits = logits;
    args.scoring = scoring;
    args.top_k = kExperts;  // all: a NaN must come last, and nothing twice
    const Results expected = RunReference(args);
    ForEachCpuBody(
        [&](const ExecContext& ctx) { ExpectSame(RunBody(ctx, args), expected, WeightTolerance(kExperts, kExperts)); });
  }
}

TEST(MoeGatingTest, ScoresOfZeroDoNotDivideByZero) {
  TestTensor logits({1, 8}), bias({8});
  FillConstant(logits, -200);  // sigmoid underflows
  MoeGatingArgs args;
  args.logits = logits;
  args.scoring = RouterScoring::kSigmoid;
  args.correction_bias = bias;
  args.top_k = 2;
  args.renormalize = true;
  ForEachCpuBody([&](const ExecContext& ctx) {
    const Results results = RunBody(ctx, args);
    EXPECT_EQ(results.weights.As<float>()[0], 0);
    EXPECT_EQ(results.weights.As<float>()[1], 0);
  });
}

TEST(MoeGatingTest, SkewedLoadsAndNoTokens) {
  Random random;
  // All tokens to one expert; experts without any.
  TestTensor logits({50, 9});
  for (int64_t token = 0; token < 50; ++token) logits.As<float>()[token * 9 + 4] = 10;
  MoeGatingArgs args;
  args.logits = logits;
  const Results expected = RunReference(args);
  EXPECT_EQ(expected.expert_offsets.As<int>()[4], 0);
  EXPECT_EQ(expected.expert_offsets.As<int>()[5], 50);
  const TestTensor no_logits({0, 9});
  ForEachCpuBody([&](const ExecContext& ctx) {
    ExpectSame(RunBody(ctx, args), expected, WeightTolerance(9, 1));
    MoeGatingArgs none = args;
    none.logits = no_logits;
    const Results results = RunBody(ctx, none);
    EXPECT_THAT(std::vector<int>(results.expert_offsets.As<int>(), results.expert_offsets.As<int>() + 10),
                ::testing::Each(0));
  });
}

TEST(MoeGatingTest, ResultsDoNotDependOnCompany) {
  Random random;
  const TestTensor logits = NormalTensor(random, {200, 96});
  MoeGatingArgs args;
  args.logits = logits;
  args.top_k = 6;
  args.renormalize = true;
  for (Isa isa : test::MachineIsas()) {
    const Results together = RunBody(test::TestContext(isa, 3), args);
    for (int64_t token = 0; token < 200; token += 7) {
      MoeGatingArgs one = args;
      one.logits = logits.view().Rows(token, token + 1);
      const Results alone = RunBody(test::TestContext(isa, 1), one);
      EXPECT_TRUE(test::BitIdentical(together.weights.view().Rows(token, token + 1), alone.weights));
      EXPECT_TRUE(test::BitIdentical(together.expert_ids.view().Rows(token, token + 1), alone.expert_ids));
    }
  }
}

TEST(MoeGatingCheckTest, NamesWhatIsWrong) {
  const TestTensor logits({3, 12}), bias({12}), short_bias({11});
  const Results results(3, 12, 4), other(3, 11, 4);
  MoeGatingArgs good;
  good.logits = logits;
  good.correction_bias = bias;
  good.top_k = 4;
  good.num_groups = 3;
  good.top_groups = 2;
  results.AddTo(good);
  EXPECT_EQ(Check(good), absl::OkStatus());
  const auto expect_error = [&](const auto& spoil, std::string_view text) {
    MoeGatingArgs bad = good;
    spoil(bad);
    const absl::Status status = Check(bad);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(Message(status), HasSubstr(text));
  };
  expect_error([](MoeGatingArgs& args) { args.top_k = 0; }, "top_k is 0");
  expect_error([](MoeGatingArgs& args) { args.top_k = 13; }, "top_k is 13");
  expect_error([](MoeGatingArgs& args) { args.num_groups = 5; }, "num_groups is 5");
  expect_error([](MoeGatingArgs& args) { args.top_groups = 4; }, "top_groups is 4");
  expect_error([](MoeGatingArgs& args) { args.num_groups = 6, args.top_groups = 1; }, "hold only 2 experts");
  expect_error([&](MoeGatingArgs& args) { args.correction_bias = short_bias; }, "correction_bias is fp32[11]");
  expect_error([](MoeGatingArgs& args) { args.scoring = RouterScoring::kSparseMixer; }, "neither a correction_bias");
  expect_error([](MoeGatingArgs& args) { args.logits.dtype = DType::kBF16; }, "logits is bf16[3, 12]");
  expect_error([](MoeGatingArgs& args) { args.weights.dtype = DType::kI32; }, "weights is int32[3, 4]");
  expect_error([&](MoeGatingArgs& args) { args.expert_offsets = other.expert_offsets; }, "expert_offsets is int32[12]");
  expect_error([](MoeGatingArgs& args) { args.sorted_pairs.shape[0] = 11; }, "sorted_pairs is int32[11]");
}

}  // namespace
}  // namespace moed::kernels
