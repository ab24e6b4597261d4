// The shim must find mistakes, or its tests of kernels say nothing.
#include "tests/kernels/cuda/planted_bugs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/simt/sanitizers.h"
#include "tests/support/simt/simt_testing.h"

namespace moed::simt {
namespace {

using test::TestTensor;
using ::testing::HasSubstr;

constexpr int kBlocks = 3;
constexpr int kOrders = 12;

// What became of a kernel over several orders of threads: the first error, and in how many orders the result was wrong.
struct Outcome {
  std::string error;
  int wrong = 0;
};

Outcome RunBlockSum(Bug bug) {
  TestTensor in({kBlocks, 128}), out({kBlocks});
  for (int i = 0; i < kBlocks * 128; ++i) in.As<float>()[i] = static_cast<float>(i % 50);  // sums are exact
  Outcome outcome;
  for (int order = 0; order < kOrders; ++order) {
    GetOptions().seed = static_cast<uint64_t>(order);
    test::FillConstant(out, -1);
    BlockSum(bug, in.As<float>(), kBlocks, out.As<float>());
    const std::string error = TakeError();
    if (outcome.error.empty()) outcome.error = error;
    bool wrong = false;
    for (int block = 0; block < kBlocks; ++block) {
      float sum = 0;
      for (int i = 0; i < 128; ++i) sum += in.As<float>()[block * 128 + i];
      wrong = wrong || out.As<float>()[block] != sum;
    }
    if (wrong) ++outcome.wrong;
  }
  GetOptions() = Options();
  return outcome;
}

Outcome RunAsyncCopy(Bug bug) {
  TestTensor in({kBlocks * 512 + 4}), out({kBlocks * 512});
  for (int i = 0; i < kBlocks * 512; ++i) in.As<float>()[i] = static_cast<float>(i);
  Outcome outcome;
  for (int order = 0; order < kOrders; ++order) {
    GetOptions().seed = static_cast<uint64_t>(order);
    test::FillConstant(out, -1);
    AsyncCopyThrough(bug, in.As<float>(), kBlocks, out.As<float>());
    const std::string error = TakeError();
    if (outcome.error.empty()) outcome.error = error;
    if (!std::equal(out.As<float>(), out.As<float>() + kBlocks * 512, in.As<float>())) ++outcome.wrong;
  }
  GetOptions() = Options();
  return outcome;
}

TEST(PlantedBugsTest, RightKernelsPass) {
  for (const Outcome& outcome : {RunBlockSum(Bug::kNone), RunAsyncCopy(Bug::kNone)}) {
    EXPECT_EQ(outcome.error, "");
    EXPECT_EQ(outcome.wrong, 0);
  }
}

// ThreadSanitizer would report these two itself and fail the program.
#if !defined(MOED_SIMT_TSAN)
TEST(PlantedBugsTest, MissingBarrierShowsInSomeOrder) { EXPECT_GT(RunBlockSum(Bug::kMissingBarrier).wrong, 0); }
TEST(PlantedBugsTest, LateWaitShows) { EXPECT_GT(RunAsyncCopy(Bug::kLateWait).wrong, 0); }
#endif

TEST(PlantedBugsTest, WrongResultsShowInEveryOrder) {
  EXPECT_EQ(RunBlockSum(Bug::kWrongLane).wrong, kOrders);
  EXPECT_EQ(RunBlockSum(Bug::kShortTail).wrong, kOrders);
}

TEST(PlantedBugsTest, MisuseOfBarriersIsNamed) {
  EXPECT_THAT(RunBlockSum(Bug::kDivergentBarrier).error, HasSubstr("divergent barrier: 64 x {__syncthreads"));
  EXPECT_THAT(RunBlockSum(Bug::kEarlyExit).error, HasSubstr("barrier after some threads exited:"));
}

TEST(PlantedBugsTest, MisuseOfWarpOperationsIsNamed) {
  EXPECT_THAT(RunBlockSum(Bug::kAbsentLane).error, HasSubstr("__shfl_sync: reads a lane that takes no part [block"));
  EXPECT_THAT(RunBlockSum(Bug::kMaskWithoutCaller).error,
              HasSubstr("__shfl_xor_sync: the mask does not name the calling lane"));
}

TEST(PlantedBugsTest, MisuseOfCopiesAndLaunchesIsNamed) {
  EXPECT_THAT(RunAsyncCopy(Bug::kNoWait).error, HasSubstr("exits with a cp.async that it has not waited for"));
  EXPECT_THAT(RunAsyncCopy(Bug::kMisaligned).error,
              HasSubstr("cp.async: an address is not a multiple of what is copied"));
  EXPECT_THAT(RunBlockSum(Bug::kPartOfAWarp).error, HasSubstr("BlockSumKernel: a block is made of whole warps"));
}

TEST(PlantedBugsTest, AfterAnErrorKernelsRunAgain) {
  EXPECT_NE(RunBlockSum(Bug::kDivergentBarrier).error, "");
  EXPECT_EQ(RunBlockSum(Bug::kNone).error, "");
}

}  // namespace
}  // namespace moed::simt
