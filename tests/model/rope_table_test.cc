#include "model/rope_table.h"

#include <gtest/gtest.h>

#include <cmath>

namespace moed {
namespace {

// The angle of dimension i at `position`, from its cosine and sine.
double Angle(const RopeTable& table, int64_t position, int64_t i) {
  const int64_t dim = table.cos_sin().dim(1);
  const float* row = table.cos_sin().As<float>() + position * dim;
  return std::atan2(row[dim / 2 + i], row[i]);
}

RopeTable Create(const RopeConfig& config, int32_t positions) {
  auto table = RopeTable::Create(config, positions, {});
  EXPECT_TRUE(table.ok()) << table.status();
  return std::move(table).value();
}

TEST(RopeTableTest, AnglesArePositionsTimesFrequencies) {
  const RopeTable table = Create({.theta = 10000.0, .rotary_dim = 8, .interleaved = false, .scaling = {}}, 5);
  ASSERT_TRUE(table.cos_sin().HasShape({5, 8}));
  for (int64_t i = 0; i < 4; ++i) {
    EXPECT_NEAR(Angle(table, 3, i), 3.0 * std::pow(10000.0, -0.25 * static_cast<double>(i)), 1e-6) << i;
  }
}

// DeepSeek's numbers: dimensions that turn more than 32 times over 4096 positions stay, those that turn less than once
// are stretched 40 times, and what lies between moves evenly from the one to the other.
TEST(RopeTableTest, YarnStretchesSlowDimensions) {
  constexpr int64_t kDim = 64;
  YarnScaling yarn;
  yarn.factor = 40.0;
  yarn.original_positions = 4096;
  yarn.attention_factor = 1.25;
  const RopeTable table = Create({.theta = 10000.0, .rotary_dim = kDim, .interleaved = true, .scaling = yarn}, 2);
  const auto frequency = [](int64_t i) { return std::pow(10000.0, -2.0 * static_cast<double>(i) / kDim); };
  // 4096 * frequency(i) / 2 pi turns: 32 of them between dimensions 10 and 11, one between 22 and 23.
  for (int64_t i = 0; i < kDim / 2; ++i) {
    const double kept = 1.0 - std::clamp((static_cast<double>(i) - 10.0) / (23.0 - 10.0), 0.0, 1.0);
    const double expected = frequency(i) * (kept + (1.0 - kept) / 40.0);
    EXPECT_NEAR(Angle(table, 1, i), expected, 1e-6 * expected) << i;
  }
  EXPECT_FLOAT_EQ(table.cos_sin().As<float>()[0], 1.25f);
}

// Kimi-K2 has one number of turns for both ends of the ramp.
TEST(RopeTableTest, YarnRampOfOneStep) {
  YarnScaling yarn;
  yarn.factor = 32.0;
  yarn.original_positions = 4096;
  yarn.beta_fast = yarn.beta_slow = 1.0;
  const RopeTable table = Create({.theta = 50000.0, .rotary_dim = 64, .interleaved = true, .scaling = yarn}, 2);
  for (int64_t i = 0; i < 32; ++i) {
    const double frequency = std::pow(50000.0, -2.0 * static_cast<double>(i) / 64);
    const bool stays = 4096 * frequency > 2 * M_PI;
    const double expected = stays ? frequency : frequency / 32;
    EXPECT_NEAR(Angle(table, 1, i), expected, 1e-5 * expected) << i;
  }
}

}  // namespace
}  // namespace moed
