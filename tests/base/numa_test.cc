#include "base/numa.h"

#include <gtest/gtest.h>
#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <string>

#include "tests/support/temp_dir.h"

namespace moed {
namespace {

class NumaNodesTest : public ::testing::Test {
 protected:
  void WriteStatus(const std::string& cpus, const std::string& nodes) const {
    root_.Write("proc/self/status", "Name:\tmoed\nCpus_allowed:\tff\nCpus_allowed_list:\t" + cpus +
                                        "\nMems_allowed:\t3\nMems_allowed_list:\t" + nodes + "\n");
  }
  void WriteNode(int node, const std::string& cpus) const {
    root_.Write("sys/devices/system/node/node" + std::to_string(node) + "/cpulist", cpus + "\n");
  }
  uint64_t Nodes() const { return UsableNumaNodes(root_.path()); }

  testing::TempDir root_;
};

TEST_F(NumaNodesTest, AreThoseWithMemoryAndProcessorsForThisProcess) {
  WriteNode(0, "0-15,32-47");
  WriteNode(1, "16-31,48-63");
  WriteNode(2, "");  // memory alone, such as that of an accelerator
  WriteStatus("0-63", "0-2");
  EXPECT_EQ(Nodes(), 0b11u);
  WriteStatus("0-3,48", "0-2");
  EXPECT_EQ(Nodes(), 0b11u);
  WriteStatus("0-15", "0-2");
  EXPECT_EQ(Nodes(), 0b01u);
  WriteStatus("0-63", "1");
  EXPECT_EQ(Nodes(), 0b10u);
}

TEST_F(NumaNodesTest, AreNoneWhereLinuxDoesNotSay) {
  EXPECT_EQ(Nodes(), 0u);
  WriteStatus("0-63", "0-1");
  EXPECT_EQ(Nodes(), 0u);
  WriteNode(0, "all of them");
  WriteNode(1, "5-");
  WriteStatus("0-63", "0-1,999999999999999999999");
  EXPECT_EQ(Nodes(), 0u);
}

TEST(NumaTest, InterleavesPagesOverThisMachinesNodes) {
  const uint64_t nodes = UsableNumaNodes();
  if (nodes == 0) GTEST_SKIP() << "Linux does not name its nodes here";
  constexpr size_t kBytes = 1 << 20;
  void* const data = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(data, MAP_FAILED);
  SpreadOverNumaNodes(data, kBytes);
  if (!InterleavePages(data, kBytes, nodes)) {
    munmap(data, kBytes);
    GTEST_SKIP() << "mbind(2) is not allowed here";
  }
  int policy = -1;
  uint64_t set = 0;
  EXPECT_EQ(syscall(SYS_get_mempolicy, &policy, &set, sizeof(set) * 8 + 1, data, MPOL_F_ADDR), 0);
  EXPECT_EQ(policy, MPOL_INTERLEAVE);
  EXPECT_EQ(set, nodes);
  static_cast<char*>(data)[kBytes - 1] = 1;
  munmap(data, kBytes);
}

}  // namespace
}  // namespace moed
