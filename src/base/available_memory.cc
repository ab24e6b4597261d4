#include "base/available_memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string_view>

namespace moed {
namespace {

// The number behind `key` in a file of lines "KEY NUMBER ...".
std::optional<uint64_t> NumberOf(const std::string& path, std::string_view key) {
  std::ifstream file(path);
  std::string word;
  uint64_t number = 0;
  while (file >> word >> number) {
    if (word == key) return number;
    file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return std::nullopt;
}

// A file of one number; "max" is none.
std::optional<uint64_t> NumberIn(const std::string& path) {
  std::ifstream file(path);
  uint64_t number = 0;
  return file >> number ? std::optional(number) : std::nullopt;
}

// The path of this process's control group below /sys/fs/cgroup, of the line "0::PATH"; empty where there is none.
std::string ControlGroup(const std::string& root) {
  std::ifstream file(root + "/proc/self/cgroup");
  std::string line;
  while (std::getline(file, line)) {
    if (line.starts_with("0::")) return line.substr(3);
  }
  return "";
}

// What is left in a control group with a limit.
std::optional<uint64_t> LeftIn(const std::string& folder) {
  // Over the second limit it is not killed, but slowed down beyond use.
  const std::optional<uint64_t> hard = NumberIn(folder + "/memory.max"), soft = NumberIn(folder + "/memory.high");
  const std::optional<uint64_t> used = NumberIn(folder + "/memory.current");
  if (!(hard || soft) || !used) return std::nullopt;
  constexpr uint64_t kNone = std::numeric_limits<uint64_t>::max();
  const uint64_t most = std::min(hard.value_or(kNone), soft.value_or(kNone));
  const std::string statistics = folder + "/memory.stat";
  const uint64_t pages_of_files =
      NumberOf(statistics, "active_file").value_or(0) + NumberOf(statistics, "inactive_file").value_or(0);
  const uint64_t kept = *used - std::min(*used, pages_of_files);
  return most - std::min(most, kept);
}

}  // namespace

std::optional<uint64_t> AvailableMemory(const std::string& root) {
  std::optional<uint64_t> available = NumberOf(root + "/proc/meminfo", "MemAvailable:");
  if (available) *available *= 1024;  // from kB
  const std::string top = root + "/sys/fs/cgroup";
  for (std::string group = ControlGroup(root);; group.resize(group.rfind('/'))) {
    while (group.ends_with('/')) group.pop_back();
    if (const std::optional<uint64_t> left = LeftIn(top + group)) {
      available = std::min(*left, available.value_or(*left));
    }
    if (group.empty() || group.front() != '/') return available;
  }
}

}  // namespace moed
