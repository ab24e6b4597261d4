// What AddressSanitizer and ThreadSanitizer must be told about fibers; nothing in builds without them.
#ifndef TESTS_SUPPORT_SIMT_SANITIZERS_H_
#define TESTS_SUPPORT_SIMT_SANITIZERS_H_

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#define MOED_SIMT_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define MOED_SIMT_ASAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define MOED_SIMT_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define MOED_SIMT_TSAN 1
#endif
#endif

#if defined(MOED_SIMT_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(MOED_SIMT_TSAN)
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

namespace moed::simt {

// While it lives, ThreadSanitizer looks away: the scheduler's own bookkeeping is no business of the kernel.
class HideFromRaceDetector {
 public:
#if defined(MOED_SIMT_TSAN)
  HideFromRaceDetector() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~HideFromRaceDetector() {
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
  }
#else
  HideFromRaceDetector() {}
#endif
  HideFromRaceDetector(const HideFromRaceDetector&) = delete;
  HideFromRaceDetector& operator=(const HideFromRaceDetector&) = delete;
};

// What happened before a release of `address` is seen after the next acquire of it.
inline void RaceDetectorRelease([[maybe_unused]] void* address) {
#if defined(MOED_SIMT_TSAN)
  __tsan_release(address);
#endif
}
inline void RaceDetectorAcquire([[maybe_unused]] void* address) {
#if defined(MOED_SIMT_TSAN)
  __tsan_acquire(address);
#endif
}

// A stack as the sanitizers know it: AddressSanitizer's fake stack and bounds, ThreadSanitizer's fiber.
struct SanitizerStack {
  void* fake = nullptr;
  const void* bottom = nullptr;
  size_t size = 0;
  void* fiber = nullptr;
};

// Right before the jump from `from` to `to`; nothing of ours may be touched between this and the jump.
inline void BeforeSwitch([[maybe_unused]] SanitizerStack* from, [[maybe_unused]] const SanitizerStack& to) {
#if defined(MOED_SIMT_ASAN)
  __sanitizer_start_switch_fiber(&from->fake, to.bottom, to.size);
#endif
#if defined(MOED_SIMT_TSAN)
  __tsan_switch_to_fiber(to.fiber, __tsan_switch_to_fiber_no_sync);
#endif
}

// Right after the jump, on the stack `on`; `came_from`, when given, learns the bounds of the stack before.
inline void AfterSwitch([[maybe_unused]] const SanitizerStack& on, [[maybe_unused]] SanitizerStack* came_from) {
#if defined(MOED_SIMT_ASAN)
  const void* bottom = nullptr;
  size_t size = 0;
  __sanitizer_finish_switch_fiber(on.fake, &bottom, &size);
  if (came_from != nullptr) {
    came_from->bottom = bottom;
    came_from->size = size;
  }
#endif
}

// A stack that a new fiber is about to use, perhaps after an abandoned one.
inline void PrepareStack([[maybe_unused]] SanitizerStack* stack) {
#if defined(MOED_SIMT_ASAN)
  __asan_unpoison_memory_region(stack->bottom, stack->size);
  stack->fake = nullptr;
#endif
#if defined(MOED_SIMT_TSAN)
  stack->fiber = __tsan_create_fiber(0);
#endif
}

}  // namespace moed::simt

#endif  // TESTS_SUPPORT_SIMT_SANITIZERS_H_
