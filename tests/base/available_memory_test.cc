#include "base/available_memory.h"

#include <gtest/gtest.h>

#include <optional>
#include <string>

#include "tests/support/temp_dir.h"

namespace moed {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

class AvailableMemoryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    root_.Write("proc/meminfo", "MemTotal: 8388608 kB\nMemFree: 1 kB\nMemAvailable: 4194304 kB\n");
  }

  void WriteGroup(const std::string& path, const std::string& most, uint64_t used, uint64_t pages_of_files) const {
    const std::string folder = "sys/fs/cgroup" + path;
    root_.Write(folder + "/memory.max", most + "\n");
    root_.Write(folder + "/memory.current", std::to_string(used) + "\n");
    root_.Write(folder + "/memory.stat", "anon 5\nactive_file " + std::to_string(pages_of_files / 2) +
                                             "\ninactive_file " + std::to_string(pages_of_files / 2) + "\n");
  }

  std::optional<uint64_t> Available() const { return AvailableMemory(root_.path()); }

  testing::TempDir root_;
};

TEST_F(AvailableMemoryTest, IsThatOfTheMachine) { EXPECT_EQ(Available(), 4096 * kMiB); }

TEST_F(AvailableMemoryTest, OfAContainerIsWhatItsLimitLeaves) {
  // In a namespace of control groups the container's own is the root.
  root_.Write("proc/self/cgroup", "0::/\n");
  WriteGroup("", std::to_string(1000 * kMiB), 300 * kMiB, 100 * kMiB);
  EXPECT_EQ(Available(), 800 * kMiB);
}

TEST_F(AvailableMemoryTest, GroupsAboveCountToo) {
  root_.Write("proc/self/cgroup", "1:name=systemd:/x\n0::/tenants/one/task\n");
  WriteGroup("/tenants/one/task", "max", 10 * kMiB, 0);
  WriteGroup("/tenants/one", std::to_string(900 * kMiB), 100 * kMiB, 0);
  WriteGroup("/tenants", std::to_string(2000 * kMiB), 1500 * kMiB, 0);
  EXPECT_EQ(Available(), 500 * kMiB);
}

TEST_F(AvailableMemoryTest, LimitsAboveTheMachineDoNotCount) {
  root_.Write("proc/self/cgroup", "0::/a\n");
  WriteGroup("/a", std::to_string(100'000 * kMiB), 0, 0);
  EXPECT_EQ(Available(), 4096 * kMiB);
}

TEST_F(AvailableMemoryTest, TheLimitThatSlowsDownCounts) {
  root_.Write("proc/self/cgroup", "0::/a\n");
  WriteGroup("/a", "max", 100 * kMiB, 0);
  root_.Write("sys/fs/cgroup/a/memory.high", std::to_string(500 * kMiB) + "\n");
  EXPECT_EQ(Available(), 400 * kMiB);
}

TEST_F(AvailableMemoryTest, NothingIsLeftOfAGroupThatIsFull) {
  root_.Write("proc/self/cgroup", "0::/a\n");
  WriteGroup("/a", std::to_string(100 * kMiB), 120 * kMiB, 0);
  EXPECT_EQ(Available(), 0);
}

TEST(AvailableMemory, IsNothingWhereTheSystemDoesNotSay) {
  const testing::TempDir root;
  EXPECT_EQ(AvailableMemory(root.path()), std::nullopt);
}

TEST(AvailableMemory, OfThisMachine) {
  const std::optional<uint64_t> available = AvailableMemory();
  ASSERT_TRUE(available);
  EXPECT_GT(*available, kMiB);
}

}  // namespace
}  // namespace moed
