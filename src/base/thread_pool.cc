#include "base/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "base/logging.h"

namespace moed {
namespace {

// Longer than the gap between two ops of a step, shorter than what it takes to wake a thread.
constexpr std::chrono::microseconds kSpinTime{30};

inline void CpuRelax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

// Returns true as soon as `done` does, false after kSpinTime.
template <typename Condition>
bool SpinUntil(const Condition& done) {
  constexpr int kLooksBetweenTimes = 32;
  const auto limit = std::chrono::steady_clock::now() + kSpinTime;
  do {
    for (int look = 0; look < kLooksBetweenTimes; ++look) {
      if (done()) return true;
      CpuRelax();
    }
  } while (std::chrono::steady_clock::now() < limit);
  return done();
}

// The gate of a loop: whether it is open (bit 0), whether the pool has ended (bit 1), and how many workers are inside
// (the rest). All of it is one word, so that nobody acts on a part that is out of date: a worker that found the gate
// open and then got no core must not take the pool's end for another loop, and close the gate on those who sleep.
constexpr uint32_t kOpen = 1;
constexpr uint32_t kEnded = 2;
constexpr uint32_t kOneWorker = 4;

bool IsOpen(uint32_t gate) { return (gate & kOpen) != 0; }
bool HasEnded(uint32_t gate) { return (gate & kEnded) != 0; }
bool HasWorkers(uint32_t gate) { return gate >= kOneWorker; }

}  // namespace

// What describes the loop under way is written by the caller before the gate opens, and read by workers inside. Whoever
// finds that all pieces are taken closes the gate, and the caller waits for those inside only. A worker that got no
// core meanwhile, since others use the machine too, finds the gate closed and was not waited for.
struct ThreadPool::Team {
  Function function = nullptr;
  const void* body = nullptr;
  int64_t count = 0;
  int64_t grain = 1;
  alignas(64) std::atomic<int64_t> next{0};
  alignas(64) std::atomic<uint32_t> gate{0};
  alignas(64) std::atomic<uint32_t> emptied{0};  // moves on when the last worker has left through a closed gate
  std::vector<std::thread> workers;

  void Work(int worker) {
    for (;;) {
      const int64_t begin = next.fetch_add(grain, std::memory_order_relaxed);
      if (begin >= count) return;
      function(body, begin, std::min(begin + grain, count), worker);
    }
  }

  // For the next loop or the end of the pool.
  void WaitForWork() {
    const auto is_work = [](uint32_t now) { return IsOpen(now) || HasEnded(now); };
    if (SpinUntil([&] { return is_work(gate.load(std::memory_order_acquire)); })) return;
    uint32_t now = gate.load(std::memory_order_acquire);
    while (!is_work(now)) {
      gate.wait(now, std::memory_order_acquire);
      now = gate.load(std::memory_order_acquire);
    }
  }

  void WaitUntilEmpty() {
    const auto empty = [this] { return !HasWorkers(gate.load(std::memory_order_acquire)); };
    if (SpinUntil(empty)) return;
    while (!empty()) {
      const uint32_t before = emptied.load(std::memory_order_acquire);
      if (!empty()) emptied.wait(before, std::memory_order_acquire);
    }
  }

  // Returns false where the gate is closed.
  bool Enter() {
    uint32_t now = gate.load(std::memory_order_acquire);
    while (IsOpen(now)) {
      if (gate.compare_exchange_weak(now, now + kOneWorker, std::memory_order_acq_rel)) return true;
    }
    return false;
  }

  void CloseAndLeave() {
    gate.fetch_and(~kOpen, std::memory_order_acq_rel);
    if (HasWorkers(gate.fetch_sub(kOneWorker, std::memory_order_acq_rel) - kOneWorker)) return;
    emptied.fetch_add(1);
    emptied.notify_one();
  }

  void WorkerMain(int worker) {
    while (!HasEnded(gate.load(std::memory_order_acquire))) {
      WaitForWork();
      if (!Enter()) continue;
      Work(worker);
      CloseAndLeave();
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
  team_->gate.fetch_or(kEnded);
  team_->gate.notify_all();
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
  team.gate.fetch_or(kOpen);
  team.gate.notify_all();
  team.Work(0);
  team.gate.fetch_and(~kOpen, std::memory_order_acq_rel);
  team.WaitUntilEmpty();
}

}  // namespace moed
