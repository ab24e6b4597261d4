// A fixed team of threads for data-parallel loops inside one step.
#ifndef MOED_BASE_THREAD_POOL_H_
#define MOED_BASE_THREAD_POOL_H_

#include <cstdint>
#include <memory>
#include <type_traits>

namespace moed {

// The caller of ParallelFor is worker 0, so a pool of n threads starts n - 1. Between loops the workers spin for a
// short while, since the next op of a step usually follows within microseconds, then sleep until woken: an idle server
// takes no processor time.
//
// One thread at a time may call ParallelFor; calls do not nest. The loops of one step come from one thread anyway.
class ThreadPool {
 public:
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return num_threads_; }

  // Calls body(begin, end, worker) over pieces of [0, count), each of `grain` items but for the last, handed out in
  // order to whoever is free; returns when all are done. worker < num_threads() names a place for scratch memory.
  // Which worker gets which piece varies, so a body must not let its result depend on it.
  template <typename Body>
  void ParallelFor(int64_t count, int64_t grain, const Body& body) {
    static_assert(std::is_invocable_v<const Body&, int64_t, int64_t, int>);
    Run(
        count, grain,
        [](const void* f, int64_t begin, int64_t end, int worker) {
          (*static_cast<const Body*>(f))(begin, end, worker);
        },
        &body);
  }

 private:
  using Function = void (*)(const void* body, int64_t begin, int64_t end, int worker);
  // The threads and the loop that they share; here only by name, since CUDA's compiler cannot read <thread>.
  struct Team;

  void Run(int64_t count, int64_t grain, Function function, const void* body);

  const int num_threads_;
  std::unique_ptr<Team> team_;
};

}  // namespace moed

#endif  // MOED_BASE_THREAD_POOL_H_
