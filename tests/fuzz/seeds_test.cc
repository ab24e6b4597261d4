// Runs every target over its seeds: inputs that fuzzing starts from, and those on which it once found a mistake.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "tests/fuzz/allocation_watch.h"
#include "tests/fuzz/targets.h"

namespace moed::fuzz {
namespace {

std::vector<std::filesystem::path> Seeds(const Target& target) {
  std::vector<std::filesystem::path> seeds;
  for (const auto& entry :
       std::filesystem::directory_iterator(std::filesystem::path("tests/fuzz/seeds") / target.name)) {
    seeds.push_back(entry.path());
  }
  std::sort(seeds.begin(), seeds.end());
  return seeds;
}

class SeedsTest : public testing::TestWithParam<Target> {};

TEST_P(SeedsTest, NoneDoesHarm) {
  const auto seeds = Seeds(GetParam());
  ASSERT_FALSE(seeds.empty());
  for (const auto& seed : seeds) {
    SCOPED_TRACE(seed);
    std::ifstream file(seed, std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(file), {}};
    RunTarget(GetParam(), bytes);
    // Cut short anywhere.
    for (size_t cut = 0; cut < bytes.size(); cut += 1 + bytes.size() / 16) RunTarget(GetParam(), bytes.substr(0, cut));
  }
}

INSTANTIATE_TEST_SUITE_P(Targets, SeedsTest, testing::ValuesIn(Targets().begin(), Targets().end()),
                         [](const auto& tested) { return std::string(tested.param.name); });

TEST(AllocationWatchTest, CountsTheMostThatIsInUse) {
  if (!AllocationWatch::Counts()) GTEST_SKIP() << "only AddressSanitizer's allocator counts";
  const AllocationWatch watch;
  EXPECT_EQ(watch.peak(), 0u);
  std::make_unique<char[]>(5000);
  const auto kept = std::make_unique<char[]>(3000);
  EXPECT_GE(watch.peak(), 5000u);
  EXPECT_LT(watch.peak(), 6000u);
  std::make_unique<char[]>(4000);
  EXPECT_GE(watch.peak(), 7000u);
}

}  // namespace
}  // namespace moed::fuzz
