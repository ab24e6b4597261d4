#include "checkpoint/dummy_weights.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

namespace moed {
namespace {

std::vector<float> Filled(const DummyWeights& weights, std::string_view name, int64_t count) {
  std::vector<float> values(count);
  weights.Fill(name, TensorView(values.data(), {1, count}, DType::kF32));
  return values;
}

// Moments of a million draws against the normal distribution's, within five standard errors each.
TEST(DummyWeights, AreNormal) {
  const double stddev = 0.02;
  const DummyWeights weights(7, stddev, DType::kF32);
  const int64_t n = 1'000'000;
  const std::vector<float> values = Filled(weights, "model.layers.3.mlp.experts.5.up_proj.weight", n);
  double sum = 0, squares = 0, cubes = 0, fourths = 0, lag = 0;
  int64_t beyond_two = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double x = values[i] / stddev;
    sum += x;
    squares += x * x;
    cubes += x * x * x;
    fourths += x * x * x * x;
    if (i > 0) lag += x * values[i - 1] / stddev;
    beyond_two += std::abs(x) > 2.0;
  }
  const double root = std::sqrt(static_cast<double>(n));
  EXPECT_NEAR(sum / n, 0.0, 5 / root);
  EXPECT_NEAR(squares / n, 1.0, 5 * std::sqrt(2.0) / root);
  EXPECT_NEAR(cubes / n, 0.0, 5 * std::sqrt(15.0) / root);
  EXPECT_NEAR(fourths / n, 3.0, 5 * std::sqrt(96.0) / root + 0.01);  // the table ends at 4.3 deviations
  EXPECT_NEAR(lag / n, 0.0, 5 / root);
  const double p = std::erfc(2.0 / std::sqrt(2.0));
  EXPECT_NEAR(static_cast<double>(beyond_two) / n, p, 5 * std::sqrt(p / n));
}

TEST(DummyWeights, DependOnSeedNameAndIndexAlone) {
  const DummyWeights weights(1, 0.02, DType::kF32), same(1, 0.02, DType::kF32), other(2, 0.02, DType::kF32);
  const std::vector<float> values = Filled(weights, "a", 1003);
  EXPECT_EQ(values, Filled(same, "a", 1003));
  EXPECT_NE(values, Filled(weights, "b", 1003));
  EXPECT_NE(values, Filled(other, "a", 1003));
  const std::vector<float> shorter = Filled(weights, "a", 997);
  EXPECT_TRUE(std::equal(shorter.begin(), shorter.end(), values.begin()));
}

TEST(DummyWeights, RoundTheSameValues) {
  const int64_t n = 4099;
  const std::vector<float> exact = Filled(DummyWeights(3, 0.5, DType::kF32), "w", n);
  std::vector<BFloat16> bf16(n);
  DummyWeights(3, 0.5, DType::kBF16).Fill("w", TensorView(bf16.data(), {n, 1}, DType::kBF16));
  std::vector<Half> fp16(n);
  DummyWeights(3, 0.5, DType::kF16).Fill("w", TensorView(fp16.data(), {n, 1}, DType::kF16));
  for (int64_t i = 0; i < n; ++i) {
    ASSERT_EQ(bf16[i].bits, ToBFloat16(exact[i]).bits);
    ASSERT_EQ(fp16[i].bits, ToHalf(exact[i]).bits);
  }
}

TEST(DummyWeights, NormsAreOne) {
  const DummyWeights weights(1, 0.02, DType::kF32);
  std::vector<float> values(5);
  weights.Fill("model.layers.0.self_attn.q_norm.weight", TensorView(values.data(), {5}, DType::kF32));
  EXPECT_EQ(values, std::vector<float>(5, 1.0f));
  weights.Fill("model.layers.0.self_attn.q_proj.bias", TensorView(values.data(), {5}, DType::kF32));
  for (const float value : values) EXPECT_NE(value, 1.0f);
}

}  // namespace
}  // namespace moed
