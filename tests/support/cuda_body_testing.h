// For tests of CUDA bodies. One source makes two tests: one that runs the bodies on the CPU, in one order of their
// threads after the other (tests/support/simt), and in the portable build, where nvcc compiles the bodies, one that
// runs them on a GPU and skips where there is none. Tensors are in the host's memory for both.
#ifndef TESTS_SUPPORT_CUDA_BODY_TESTING_H_
#define TESTS_SUPPORT_CUDA_BODY_TESTING_H_

#include <gtest/gtest.h>

#include <optional>

#include "tests/support/tensor_testing.h"
#ifndef MOED_TEST_ON_GPU
#include "tests/support/simt/simt_testing.h"
#endif

namespace moed::test {

#ifdef MOED_TEST_ON_GPU

// The fixture of every test of CUDA bodies: lets the GPU into the tensors that the test makes.
class CudaBodyTest : public testing::Test {
 protected:
  // Skips where there is no GPU, and after a fault, which ends all use of the GPU by the program.
  void SetUp() override;
  void TearDown() override;
};

// A stream of the GPU, and a workspace that starts with NaN patterns. All contexts share them.
class CudaContext {
 public:
  CudaContext();
  void SetWgmma(std::optional<bool> wgmma);
  operator const ExecContext&() const { return context_; }  // NOLINT: passed where a context is asked for

 private:
  ExecContext context_;
};

// Returns when what was enqueued is done, that is, before results are looked at; fails the test with what went wrong.
void Await(const ExecContext& ctx);

// Calls check(context) twice: the GPU orders the threads, and not always in one way. `wgmma` as in ExecContext.
template <typename Check>
void ForEachThreadOrder(const Check& check, int /*num_random*/ = 3, std::optional<bool> wgmma = std::nullopt) {
  for (int i = 0; i < 2; ++i) {
    SCOPED_TRACE("run " + std::to_string(i));
    CudaContext context;
    context.SetWgmma(wgmma);
    check(static_cast<const ExecContext&>(context));
    Await(context);
  }
}

#else

using CudaBodyTest = testing::Test;
using CudaContext = TestContext;

inline void Await(const ExecContext& /*ctx*/) { EXPECT_EQ(simt::TakeError(), ""); }

using simt::ForEachThreadOrder;

#endif

}  // namespace moed::test

#endif  // TESTS_SUPPORT_CUDA_BODY_TESTING_H_
