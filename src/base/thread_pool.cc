#include "base/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

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

// What describes the loop under way is written by the caller before `generation` moves on, and read by the workers
// after they saw it move.
struct ThreadPool::Team {
  Function function = nullptr;
  const void* body = nullptr;
  int64_t count = 0;
  int64_t grain = 1;
  alignas(64) std::atomic<int64_t> next{0};
  alignas(64) std::atomic<uint32_t> generation{0};
  alignas(64) std::atomic<int> working{0};
  std::atomic<bool> stop{false};
  std::vector<std::thread> workers;

  void Work(int worker) {
    for (;;) {
      const int64_t begin = next.fetch_add(grain, std::memory_order_relaxed);
      if (begin >= count) return;
      function(body, begin, std::min(begin + grain, count), worker);
    }
  }

  void WorkerMain(int worker) {
    uint32_t seen = 0;
    for (;;) {
      uint32_t now = generation.load(std::memory_order_acquire);
      for (int spin = 0; now == seen; ++spin) {
        if (spin < kSpins) {
          CpuRelax();
        } else {
          generation.wait(seen, std::memory_order_acquire);
        }
        now = generation.load(std::memory_order_acquire);
      }
      seen = now;
      if (stop.load(std::memory_order_relaxed)) return;
      Work(worker);
      working.fetch_sub(1, std::memory_order_acq_rel);
      working.notify_one();
    }
  }
};

ThreadPool::ThreadPool(int num_threads) : num_threads_(num_threads), team_(std::make_unique<Team>()) {
  MOED_CHECK(num_threads >= 1, "num_threads is {}", num_threads);
  team_->workers.reserve(num_threads - 1);
  for (int worker = 1; worker < num_threads; ++worker) {
    team_->workers.emplace_back([team = team_.get(), worker] { team->WorkerMain(worker); });
  }
}

ThreadPool::~ThreadPool() {
  team_->stop.store(true, std::memory_order_relaxed);
  team_->generation.fetch_add(1, std::memory_order_release);
  team_->generation.notify_all();
  for (std::thread& worker : team_->workers) worker.join();
}

void ThreadPool::Run(int64_t count, int64_t grain, Function function, const void* body) {
  if (count <= 0) return;
  grain = std::max<int64_t>(grain, 1);
  if (num_threads_ == 1 || count <= grain) {
    function(body, 0, count, 0);
    return;
  }
  Team& team = *team_;
  team.function = function;
  team.body = body;
  team.count = count;
  team.grain = grain;
  team.next.store(0, std::memory_order_relaxed);
  team.working.store(static_cast<int>(team.workers.size()), std::memory_order_relaxed);
  team.generation.fetch_add(1, std::memory_order_release);
  team.generation.notify_all();
  team.Work(0);
  // The workers are at the last pieces: waiting for them is short, unless the machine is crowded.
  for (int spin = 0; team.working.load(std::memory_order_acquire) != 0; ++spin) {
    if (spin < kSpins) {
      CpuRelax();
    } else {
      const int left = team.working.load(std::memory_order_acquire);
      if (left != 0) team.working.wait(left, std::memory_order_acquire);
    }
  }
}

}  // namespace moed
