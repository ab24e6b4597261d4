#include "model/bit_allocation.h"

#include <gtest/gtest.h>

#include <limits>
#include <random>

namespace moed {
namespace {

using Parts = std::vector<std::vector<FormatChoice>>;

struct Total {
  int64_t bytes = 0;
  double loss = 0;
};

Total TotalOf(const Parts& parts, const std::vector<size_t>& chosen) {
  Total total;
  for (size_t i = 0; i < parts.size(); ++i) {
    total.bytes += parts[i][chosen[i]].bytes;
    total.loss += parts[i][chosen[i]].loss;
  }
  return total;
}

// The least loss within the budget, by trying all.
double LeastLoss(const Parts& parts, int64_t budget) {
  double least = std::numeric_limits<double>::infinity();
  std::vector<size_t> chosen(parts.size());
  while (true) {
    const Total total = TotalOf(parts, chosen);
    if (total.bytes <= budget) least = std::min(least, total.loss);
    size_t at = 0;
    while (at < parts.size() && ++chosen[at] == parts[at].size()) chosen[at++] = 0;
    if (at == parts.size()) return least;
  }
}

TEST(AllocateBits, FindsTheLeastLoss) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 200; ++round) {
    Parts parts(1 + random() % 6);
    int64_t least = 0, most = 0;
    for (auto& choices : parts) {
      for (size_t i = 0; i < 1 + random() % 5; ++i) {
        choices.push_back(
            {.bytes = static_cast<int64_t>(random() % 1000) - 300, .loss = static_cast<double>(random() % 1000)});
      }
      int64_t smallest = choices[0].bytes, largest = choices[0].bytes;
      for (const FormatChoice& choice : choices) {
        smallest = std::min(smallest, choice.bytes);
        largest = std::max(largest, choice.bytes);
      }
      least += smallest, most += largest;
    }
    const int64_t budget = least + static_cast<int64_t>(random() % (most - least + 1));
    const auto chosen = AllocateBits(parts, budget);
    ASSERT_TRUE(chosen.has_value());
    const Total total = TotalOf(parts, *chosen);
    EXPECT_LE(total.bytes, budget);
    // The steps are finer than a byte here, so nothing is lost by them.
    EXPECT_EQ(total.loss, LeastLoss(parts, budget)) << "round " << round;
    EXPECT_FALSE(AllocateBits(parts, least - 1).has_value());
  }
}

TEST(AllocateBits, KeepsToTheBudgetWhereStepsAreCoarse) {
  std::mt19937_64 random(2);
  Parts parts(60);
  int64_t least = 0;
  for (auto& choices : parts) {
    const auto size = static_cast<int64_t>(random() % 1'000'000'000);
    for (const int64_t eighths : {2, 4, 5, 8}) {
      choices.push_back({.bytes = size * eighths / 8, .loss = 1.0 / static_cast<double>(eighths * eighths)});
    }
    least += choices[0].bytes;
  }
  const int64_t budget = least * 2 + 12345;
  const auto chosen = AllocateBits(parts, budget);
  ASSERT_TRUE(chosen.has_value());
  const Total total = TotalOf(parts, *chosen);
  EXPECT_LE(total.bytes, budget);
  EXPECT_GT(total.bytes, budget - budget / 200);
}

TEST(AllocateBits, TakesTheSmallerOfEquals) {
  const Parts parts = {{{.bytes = 8, .loss = 1}, {.bytes = 4, .loss = 1}, {.bytes = 5, .loss = 1}}};
  EXPECT_EQ(AllocateBits(parts, 100), std::vector<size_t>{1});
  EXPECT_EQ(AllocateBits({}, 0), std::vector<size_t>{});
}

}  // namespace
}  // namespace moed
