#include "tests/fuzz/allocation_watch.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define MOED_COUNTS_ALLOCATIONS
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define MOED_COUNTS_ALLOCATIONS
#endif

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "base/logging.h"

#ifdef MOED_COUNTS_ALLOCATIONS
// Of sanitizer/allocator_interface.h, which g++ 12 comes without, though its libasan has them.
extern "C" {
int __sanitizer_install_malloc_and_free_hooks(void (*on_malloc)(const volatile void*, size_t),
                                              void (*on_free)(const volatile void*));
size_t __sanitizer_get_allocated_size(const volatile void*);
}
#endif

namespace moed::fuzz {
namespace {

std::atomic<int64_t> in_use = 0, most = 0;

#ifdef MOED_COUNTS_ALLOCATIONS
void OnAllocation(const volatile void*, size_t size) {
  const int64_t now = in_use += static_cast<int64_t>(size);
  int64_t before = most;
  while (now > before && !most.compare_exchange_weak(before, now)) {
  }
}

void OnFree(const volatile void* pointer) {
  if (pointer != nullptr) in_use -= static_cast<int64_t>(__sanitizer_get_allocated_size(pointer));
}

bool InstallHooks() { return __sanitizer_install_malloc_and_free_hooks(OnAllocation, OnFree) != 0; }
#else
bool InstallHooks() { return false; }
#endif

}  // namespace

bool AllocationWatch::Counts() {
  static const bool counts = InstallHooks();
  return counts;
}

AllocationWatch::AllocationWatch() {
  Counts();
  in_use = 0;
  most = 0;
}

size_t AllocationWatch::peak() const { return static_cast<size_t>(std::max<int64_t>(0, most)); }

}  // namespace moed::fuzz
