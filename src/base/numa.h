// Machines whose processors have each their own part of the memory, near to them (NUMA).
#ifndef MOED_BASE_NUMA_H_
#define MOED_BASE_NUMA_H_

#include <cstddef>
#include <cstdint>
#include <string>

namespace moed {

// The nodes that this process may take memory from and that have processors which it may run on, bit n for node n (of
// the first 64); 0 where Linux does not say. `root`: of the file system; tests have their own.
uint64_t UsableNumaNodes(const std::string& root = "");

// Has the pages of [data, data + bytes), which starts on a page and of which nothing was touched yet, come from these
// nodes in turn. What all threads read, a step after the other and each whatever piece is next, then flows from all
// memories at once, and none of it lies where only the thread that loaded it is near. False where Linux does not do
// that, as in containers that may not call mbind(2).
bool InterleavePages(void* data, size_t bytes, uint64_t nodes);

// The same over all usable nodes where there are several and nobody has decided already where this process's memory
// comes from, as numactl(8) does. Any thread may call it.
void SpreadOverNumaNodes(void* data, size_t bytes);

}  // namespace moed

#endif  // MOED_BASE_NUMA_H_
