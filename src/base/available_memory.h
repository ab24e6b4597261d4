// How much memory this process can have before the system kills it.
#ifndef MOED_BASE_AVAILABLE_MEMORY_H_
#define MOED_BASE_AVAILABLE_MEMORY_H_

#include <cstdint>
#include <optional>
#include <string>

namespace moed {

// Bytes that can be had now without swapping: MemAvailable of the machine, or less where a control group (version 2) of
// this process, or one above it, is limited to less, as those of containers are; pages of files that were read can be
// given up and count as available. Nothing where the system does not say. `root` is the folder in which /proc and /sys
// lie, for tests.
std::optional<uint64_t> AvailableMemory(const std::string& root = "");

}  // namespace moed

#endif  // MOED_BASE_AVAILABLE_MEMORY_H_
