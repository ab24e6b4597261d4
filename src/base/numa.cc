#include "base/numa.h"

#include <linux/mempolicy.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bit>
#include <bitset>
#include <fstream>
#include <sstream>

namespace moed {
namespace {

constexpr size_t kMaxNodes = 64;
// What Linux itself can count.
constexpr size_t kMaxCpus = 8192;

// Of "0-3,8,10-11", as Linux writes sets of processors and nodes; what is not below kSize is left out.
template <size_t kSize>
std::bitset<kSize> ParseList(const std::string& text) {
  std::bitset<kSize> set;
  std::istringstream in(text);
  size_t first = 0;
  while (in >> first) {
    size_t last = first;
    if (in.peek() == '-') {
      in.ignore();
      if (!(in >> last)) break;
    }
    for (size_t i = first; i <= last && i < kSize; ++i) set.set(i);
    if (in.peek() != ',') break;
    in.ignore();
  }
  return set;
}

// What stands behind `key` in a file of lines "KEY TEXT"; empty where there is none.
std::string TextOf(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) {
    if (line.starts_with(key)) return line.substr(key.size());
  }
  return "";
}

}  // namespace

uint64_t UsableNumaNodes(const std::string& root) {
  const std::string status = root + "/proc/self/status";
  const auto cpus = ParseList<kMaxCpus>(TextOf(status, "Cpus_allowed_list:"));
  auto nodes = ParseList<kMaxNodes>(TextOf(status, "Mems_allowed_list:"));
  for (size_t node = 0; node < kMaxNodes; ++node) {
    if (!nodes[node]) continue;
    const std::string of_node = TextOf(root + "/sys/devices/system/node/node" + std::to_string(node) + "/cpulist", "");
    nodes[node] = (ParseList<kMaxCpus>(of_node) & cpus).any();
  }
  return nodes.to_ullong();
}

bool InterleavePages(void* data, size_t bytes, uint64_t nodes) {
  // Linux takes one bit less than it is told.
  return syscall(SYS_mbind, data, bytes, MPOL_INTERLEAVE, &nodes, kMaxNodes + 1, 0) == 0;
}

void SpreadOverNumaNodes(void* data, size_t bytes) {
  static const uint64_t nodes = [] {
    int policy = MPOL_DEFAULT;
    const bool is_ours = syscall(SYS_get_mempolicy, &policy, nullptr, 0, nullptr, 0) == 0 && policy == MPOL_DEFAULT;
    return is_ours ? UsableNumaNodes() : 0;
  }();
  if (std::popcount(nodes) > 1) InterleavePages(data, bytes, nodes);  // a hint: what it answers does not matter
}

}  // namespace moed
