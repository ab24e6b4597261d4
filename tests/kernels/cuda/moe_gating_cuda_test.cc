#include "kernels/moe_gating/moe_gating.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/kernels/moe_gating_testing.h"
#include "tests/support/cuda_body_testing.h"

namespace moed::kernels {
namespace {

using gating_testing::DistinctBiases;
using gating_testing::Results;
using test::NormalTensor;
using test::Random;
using test::TestTensor;
using MoeGatingCudaTest = test::CudaBodyTest;

// The same choice and order, and nearly the same weights: e^x of a few ulp, a sum of num_experts of them, divisions.
void ExpectMatchesReference(MoeGatingArgs args, int num_random = 1) {
  const int64_t num_tokens = args.logits.dim(0), num_experts = args.logits.dim(1);
  SCOPED_TRACE(fmt::format("{} tokens, {} experts, top {}", num_tokens, num_experts, args.top_k));
  const Results expected(num_tokens, num_experts, args.top_k);
  expected.AddTo(args);
  ASSERT_EQ(Check(args), absl::OkStatus());
  reference::MoeGating(args);
  const double relative = 8 * test::kFloatEpsilon + test::SumTolerance(num_experts) + test::SumTolerance(args.top_k);
  test::ForEachThreadOrder(
      [&](const ExecContext& ctx) {
        const Results results(num_tokens, num_experts, args.top_k);
        results.AddTo(args);
        cuda::MoeGating(ctx, args);
        test::Await(ctx);
        EXPECT_TRUE(test::BitIdentical(results.expert_ids, expected.expert_ids));
        EXPECT_TRUE(test::BitIdentical(results.sorted_pairs, expected.sorted_pairs));
        EXPECT_TRUE(test::BitIdentical(results.expert_offsets, expected.expert_offsets));
        EXPECT_TRUE(test::AllClose(results.weights, expected.weights, relative, 1e-37));
      },
      num_random);
}

TEST_F(MoeGatingCudaTest, MatchesReference) {
  Random random;
  struct Row {
    int64_t num_tokens, num_experts;
    int top_k;
  };
  std::vector<Row> rows = {{0, 9, 2},   {1, 1, 1},     {1, 8, 2},    {5, 64, 8},   {33, 257, 8},
                           {2, 31, 31}, {130, 128, 8}, {65, 700, 3}, {200, 40, 40}};
  for (int i = 0; i < 6; ++i) {
    const int64_t num_experts = random.Int(1, 257);
    rows.push_back(
        {random.Int(1, 90), num_experts, static_cast<int>(random.Int(1, std::min<int64_t>(12, num_experts)))});
  }
  for (const Row& row : rows) {
    const TestTensor wide = NormalTensor(random, {row.num_tokens, row.num_experts + 3}, 3);
    for (const RouterScoring scoring : {RouterScoring::kSoftmax, RouterScoring::kSigmoid}) {
      MoeGatingArgs args;
      args.logits = wide.view().Columns(2, 2 + row.num_experts);
      args.scoring = scoring;
      args.top_k = row.top_k;
      args.renormalize = scoring == RouterScoring::kSigmoid;
      args.weight_scale = args.renormalize ? 2.5f : 1.0f;
      ExpectMatchesReference(args);
    }
  }
}

TEST_F(MoeGatingCudaTest, CorrectionBiasAndGroups) {
  Random random;
  struct Row {
    int64_t num_experts;
    int num_groups, top_groups, top_k;
  };
  for (const Row& row :
       {Row{256, 8, 4, 8}, Row{64, 1, 1, 6}, Row{33, 11, 3, 9}, Row{24, 4, 1, 6}, Row{7, 7, 3, 2}, Row{72, 36, 3, 6}}) {
    for (const int64_t num_tokens : {3, 70}) {
      const TestTensor bias = DistinctBiases(random, row.num_experts, row.num_groups);
      const TestTensor logits({num_tokens, row.num_experts});
      test::FillUniform(logits, random, -0.001, 0.001);
      for (const RouterScoring scoring : {RouterScoring::kSoftmax, RouterScoring::kSigmoid}) {
        for (const bool biased : {false, true}) {
          MoeGatingArgs args;
          args.logits = logits;
          args.scoring = scoring;
          args.top_k = row.top_k;
          args.renormalize = true;
          args.weight_scale = 2.5f;
          if (biased) args.correction_bias = bias;
          args.num_groups = row.num_groups;
          args.top_groups = row.top_groups;
          ExpectMatchesReference(args, 0);
        }
      }
    }
  }
}

TEST_F(MoeGatingCudaTest, SparseMixer) {
  Random random;
  for (int i = 0; i < 8; ++i) {
    const int64_t num_tokens = random.Int(1, 9), num_experts = random.Int(2, 70);
    // Whole sixteenths: whether a logit is near is decided clearly, or exactly at the border.
    const TestTensor logits({num_tokens, num_experts});
    for (int64_t e = 0; e < logits.view().num_elements(); ++e) {
      logits.As<float>()[e] = static_cast<float>(random.Int(-40, 60)) / 16 + static_cast<float>(e % num_experts) / 4096;
    }
    MoeGatingArgs args;
    args.logits = logits;
    args.scoring = RouterScoring::kSparseMixer;
    args.jitter = static_cast<float>(random.Int(1, 30)) / 100 + 0.0017f;
    args.top_k = static_cast<int>(random.Int(1, std::min<int64_t>(4, num_experts)));
    ExpectMatchesReference(args);
  }
}

TEST_F(MoeGatingCudaTest, EdgeLogits) {
  constexpr int64_t kExperts = 39;
  const TestTensor logits({8, kExperts});
  float* const rows = logits.As<float>();
  rows[3] = 1e30f, rows[7] = -1e30f;                                           // far apart: one weight is 1
  for (int e = 0; e < kExperts; ++e) rows[kExperts + e] = -3e38f + e * 1e36f;  // a softmax must subtract the maximum
  for (int e = 0; e < kExperts; ++e) rows[2 * kExperts + e] = e * 1e-42f;      // subnormal
  rows[3 * kExperts + 5] = -HUGE_VALF;
  rows[4 * kExperts + 2] = NAN;
  for (int e = 0; e < kExperts; ++e) rows[5 * kExperts + e] = NAN;
  for (int e = 0; e < kExperts; ++e) rows[6 * kExperts + e] = e % 2 == 0 ? 0.0f : -0.0f;  // equal: by index
  for (int e = 0; e < kExperts; ++e) rows[7 * kExperts + e] = std::floor(static_cast<float>(e) / 10);
  for (const RouterScoring scoring : {RouterScoring::kSoftmax, RouterScoring::kSigmoid}) {
    MoeGatingArgs args;
    args.logits = logits;
    args.scoring = scoring;
    args.top_k = kExperts;  // all: a NaN must come last, and nothing twice
    ExpectMatchesReference(args);
  }
  // Scores of zero do not divide by zero.
  const TestTensor low({1, 8}), bias({8});
  test::FillConstant(low, -200);
  MoeGatingArgs args;
  args.logits = low;
  args.scoring = RouterScoring::kSigmoid;
  args.correction_bias = bias;
  args.top_k = 2;
  args.renormalize = true;
  ExpectMatchesReference(args);
}

// All pairs with one expert, in one block and sorted apart.
TEST_F(MoeGatingCudaTest, SkewedLoads) {
  for (const int64_t num_tokens : {50, 300}) {
    const TestTensor logits({num_tokens, 9});
    for (int64_t token = 0; token < num_tokens; ++token) logits.As<float>()[token * 9 + 4] = 10;
    MoeGatingArgs args;
    args.logits = logits;
    ExpectMatchesReference(args);
  }
}

}  // namespace
}  // namespace moed::kernels
