#include "base/thread_pool.h"

#include <algorithm>
#include <mutex>

#include "base/logging.h"

namespace moed {
namespace {

// About 20 microseconds: longer than the gap between two ops of a step, far shorter than anyone would notice as load.
constexpr int kSpins = 2000;

inline void CpuRelax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

}  // namespace

// The loop under way. Everything but the atomics is written by the caller before `generation` moves on, and is read by
// the workers after they saw it move.
struct ThreadPool::Loop {
  Function function = nullptr;
  const void* body = nullptr;
  int64_t count = 0;
  int64_t grain = 1;
  alignas(64) std::atomic<int64_t> next{0};
  alignas(64) std::atomic<uint32_t> generation{0};
  alignas(64) std::atomic<int> working{0};
  std::atomic<bool> stop{false};

  void Work(int worker) {
    for (;;) {
      const int64_t begin = next.fetch_add(grain, std::memory_order_relaxed);
      if (begin >= count) return;
      function(body, begin, std::min(begin + grain, count), worker);
    }
  }
};

ThreadPool::ThreadPool(int num_threads) : loop_(std::make_unique<Loop>()) {
  MOED_CHECK(num_threads >= 1, "num_threads is {}", num_threads);
  workers_.reserve(num_threads - 1);
  for (int worker = 1; worker < num_threads; ++worker) {
    workers_.emplace_back([this, worker] { WorkerMain(worker); });
  }
}

ThreadPool::~ThreadPool() {
  loop_->stop.store(true, std::memory_order_relaxed);
  loop_->generation.fetch_add(1, std::memory_order_release);
  loop_->generation.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::Run(int64_t count, int64_t grain, Function function, const void* body) {
  if (count <= 0) return;
  grain = std::max<int64_t>(grain, 1);
  if (workers_.empty() || count <= grain) {
    function(body, 0, count, 0);
    return;
  }
  Loop& loop = *loop_;
  loop.function = function;
  loop.body = body;
  loop.count = count;
  loop.grain = grain;
  loop.next.store(0, std::memory_order_relaxed);
  loop.working.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  loop.generation.fetch_add(1, std::memory_order_release);
  loop.generation.notify_all();
  loop.Work(0);
  // The workers are at the last pieces: waiting for them is short, unless the machine is crowded.
  for (int spin = 0; loop.working.load(std::memory_order_acquire) != 0; ++spin) {
    if (spin < kSpins) {
      CpuRelax();
    } else {
      const int left = loop.working.load(std::memory_order_acquire);
      if (left != 0) loop.working.wait(left, std::memory_order_acquire);
    }
  }
}

void ThreadPool::WorkerMain(int worker) {
  Loop& loop = *loop_;
  uint32_t seen = 0;
  for (;;) {
    uint32_t generation = loop.generation.load(std::memory_order_acquire);
    for (int spin = 0; generation == seen; ++spin) {
      if (spin < kSpins) {
        CpuRelax();
      } else {
        loop.generation.wait(seen, std::memory_order_acquire);
      }
      generation = loop.generation.load(std::memory_order_acquire);
    }
    seen = generation;
    if (loop.stop.load(std::memory_order_relaxed)) return;
    loop.Work(worker);
    loop.working.fetch_sub(1, std::memory_order_acq_rel);
    loop.working.notify_one();
  }
}

}  // namespace moed
