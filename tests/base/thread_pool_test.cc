#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
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

INSTANTIATE_TEST_SUITE_P(Threads, ThreadPoolTest, testing::Values(1, 2, 5));

}  // namespace
}  // namespace moed
