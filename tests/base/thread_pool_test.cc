#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

namespace moed {
namespace {

class ThreadPoolTest : public testing::TestWithParam<int> {};

TEST_P(ThreadPoolTest, EveryItemIsVisitedOnce) {
  ThreadPool pool(GetParam());
  for (int64_t count : {0, 1, 2, 7, 64, 1000}) {
    for (int64_t grain : {0, 1, 3, 64, 2000}) {
      std::vector<std::atomic<int>> visits(count);
      pool.ParallelFor(count, grain, [&](int64_t begin, int64_t end, int worker) {
        ASSERT_GE(worker, 0);
        ASSERT_LT(worker, pool.num_threads());
        for (int64_t i = begin; i < end; ++i) visits[i].fetch_add(1);
      });
      for (int64_t i = 0; i < count; ++i) EXPECT_EQ(visits[i].load(), 1) << "item " << i << " of " << count;
    }
  }
}

TEST_P(ThreadPoolTest, LoopsFollowEachOtherWithoutMixing) {
  ThreadPool pool(GetParam());
  std::vector<int64_t> values(257, 0);
  for (int round = 0; round < 2000; ++round) {
    pool.ParallelFor(257, 16, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) ++values[i];
    });
  }
  for (int64_t value : values) EXPECT_EQ(value, 2000);
}

// Between loops that are far apart the workers sleep, and a loop may be over before they are awake.
TEST_P(ThreadPoolTest, LoopsAreWholeWhetherWorkersWakeOrNot) {
  ThreadPool pool(GetParam());
  std::vector<int64_t> values(64, 0);
  for (int round = 0; round < 200; ++round) {
    std::this_thread::sleep_for(std::chrono::microseconds(round));
    pool.ParallelFor(64, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) values[i] += round;
    });
    for (int64_t value : values) ASSERT_EQ(value, round * (round + 1) / 2) << "in round " << round;
  }
}

TEST_P(ThreadPoolTest, EndsWithSleepingAndWithSpinningWorkers) {
  for (int64_t pause_us : {0, 0, 0, 2000}) {
    ThreadPool pool(GetParam());
    std::atomic<int> sum{0};
    pool.ParallelFor(10, 1, [&](int64_t begin, int64_t end, int) { sum += static_cast<int>(end - begin); });
    std::this_thread::sleep_for(std::chrono::microseconds(pause_us));
    EXPECT_EQ(sum, 10);
  }
}

// A worker that saw the last loop open and then got no core may come back to it when the pool has ended. That takes
// more threads than cores, and luck: where such a worker closed the gate on the others, one of some thousand pools
// hung.
TEST(ThreadPoolEndTest, WorkersThatComeLateEndWithTheOthers) {
  for (int round = 0; round < 1000; ++round) {
    ThreadPool pool(16);
    std::atomic<int> sum{0};
    for (int loop = 0; loop < 3; ++loop) {
      pool.ParallelFor(2, 1, [&](int64_t begin, int64_t end, int) { sum += static_cast<int>(end - begin); });
    }
    ASSERT_EQ(sum, 6);
  }
}

INSTANTIATE_TEST_SUITE_P(Threads, ThreadPoolTest, testing::Values(1, 2, 5));

}  // namespace
}  // namespace moed
