#include "model/input_moments.h"

#include <gtest/gtest.h>

#include "tests/support/tensor_testing.h"

namespace moed {
namespace {

constexpr int64_t kSize = 37, kRows = 80;

TEST(InputMoments, TheFactorIsThatOfTheInverse) {
  test::Random random;
  const test::TestTensor x = test::NormalTensor(random, {kRows, kSize}, 1);
  std::vector<float> importance(kRows);
  double total = 0;
  for (int64_t i = 0; i < kRows; ++i) total += importance[i] = 0.1f + 0.01f * static_cast<float>(i);
  // Inputs that go together, and some that are large.
  for (int64_t i = 0; i < kRows; ++i) {
    float* const row = x.As<float>() + i * kSize;
    for (int64_t j = 1; j < kSize; j += 2) row[j] = 0.9f * row[j - 1] + 0.3f * row[j];
    row[5] *= 20;
  }
  std::vector<double> moments(kSize * kSize);
  for (int64_t r = 0; r < kRows; ++r) {
    const float* const row = x.As<float>() + r * kSize;
    for (int64_t i = 0; i < kSize * kSize; ++i) moments[i] += importance[r] * row[i / kSize] * row[i % kSize] / total;
  }
  double trace = 0;
  for (int64_t i = 0; i < kSize; ++i) trace += moments[i * kSize + i];

  ThreadPool threads(2);
  InputMoments sums(kSize);
  sums.Add(x.view().Rows(0, 30), importance.data(), &threads);
  sums.Add(x.view().Rows(30, kRows), importance.data() + 30, &threads);
  sums.Finish(&threads);
  const kernels::InputStatistics statistics = sums.statistics();
  for (int64_t i = 0; i < kSize; ++i) {
    EXPECT_NEAR(statistics.squares[i], moments[i * kSize + i], 1e-4 * moments[i * kSize + i]);
    moments[i * kSize + i] += InputMoments::kDamping * trace / kSize;
  }
  // U^T U M = I.
  const auto u = [&](int64_t i, int64_t j) -> double { return statistics.factor[i * kSize + j]; };
  for (int64_t i = 0; i < kSize; ++i) {
    for (int64_t j = 0; j < i; ++j) EXPECT_EQ(u(i, j), 0);
    std::vector<double> inverse_row(kSize);  // of U^T U
    for (int64_t j = 0; j < kSize; ++j) {
      for (int64_t l = 0; l <= std::min(i, j); ++l) inverse_row[j] += u(l, i) * u(l, j);
    }
    for (int64_t j = 0; j < kSize; ++j) {
      double product = 0;
      for (int64_t l = 0; l < kSize; ++l) product += inverse_row[l] * moments[l * kSize + j];
      EXPECT_NEAR(product, i == j ? 1 : 0, 2e-3) << i << " " << j;
    }
  }
}

TEST(InputMoments, AreTheSameForAnyNumberOfThreads) {
  test::Random random;
  const test::TestTensor x = test::NormalTensor(random, {kRows, kSize}, 1);
  std::vector<float> expected;
  for (const int num_threads : {1, 2, 5}) {
    ThreadPool threads(num_threads);
    InputMoments sums(kSize);
    sums.Add(x, nullptr, &threads);
    sums.Finish(&threads);
    const auto factor = sums.statistics().factor;
    if (expected.empty()) expected.assign(factor.begin(), factor.end());
    EXPECT_TRUE(std::equal(factor.begin(), factor.end(), expected.begin())) << num_threads;
  }
}

TEST(InputMoments, KnowNothingWithoutRows) {
  ThreadPool threads(1);
  InputMoments sums(kSize);
  sums.Add(test::TestTensor({0, kSize}), nullptr, &threads);
  sums.Add(test::TestTensor({3, kSize}), nullptr, &threads);  // zeros
  sums.Finish(&threads);
  EXPECT_TRUE(sums.statistics().squares.empty());
  EXPECT_TRUE(sums.statistics().factor.empty());
}

}  // namespace
}  // namespace moed
