// How much memory a piece of code takes.
#ifndef MOED_TESTS_FUZZ_ALLOCATION_WATCH_H_
#define MOED_TESTS_FUZZ_ALLOCATION_WATCH_H_

#include <cstddef>

namespace moed::fuzz {

// Counts what is allocated, in all threads, from its construction on. AddressSanitizer's allocator tells, so that it
// counts in its builds alone. One at a time.
class AllocationWatch {
 public:
  static bool Counts();

  AllocationWatch();

  // The most bytes in use at any time beyond those at the beginning.
  size_t peak() const;
};

}  // namespace moed::fuzz

#endif  // MOED_TESTS_FUZZ_ALLOCATION_WATCH_H_
