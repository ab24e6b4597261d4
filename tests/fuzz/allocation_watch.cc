#include "tests/fuzz/allocation_watch.h"

#include <sanitizer/allocator_interface.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "base/logging.h"

namespace moed::fuzz {
namespace {

std::atomic<int64_t> in_use = 0, most = 0;

void OnAllocation(const volatile void*, size_t size) {
  const int64_t now = in_use += static_cast<int64_t>(size);
  int64_t before = most;
  while (now > before && !most.compare_exchange_weak(before, now)) {
  }
}

void OnFree(const volatile void* pointer) {
  if (pointer != nullptr) in_use -= static_cast<int64_t>(__sanitizer_get_allocated_size(pointer));
}

}  // namespace

AllocationWatch::AllocationWatch() {
  static const bool hooked = __sanitizer_install_malloc_and_free_hooks(OnAllocation, OnFree) != 0;
  MOED_CHECK(hooked, "the allocator takes no hooks");
  in_use = 0;
  most = 0;
}

size_t AllocationWatch::peak() const { return static_cast<size_t>(std::max<int64_t>(0, most)); }

}  // namespace moed::fuzz
