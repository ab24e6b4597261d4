// For tests of CUDA bodies that run on the shim.
#ifndef TESTS_SUPPORT_SIMT_SIMT_TESTING_H_
#define TESTS_SUPPORT_SIMT_SIMT_TESTING_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <optional>

#include "tests/support/simt/scheduler.h"
#include "tests/support/tensor_testing.h"

namespace moed::simt {

// Calls check(context) with threads and blocks running in order, in reverse and in several random orders. Device memory
// is the host's. `wgmma`: the body of products of many rows.
template <typename Check>
void ForEachThreadOrder(const Check& check, int num_random = 3, std::optional<bool> wgmma = std::nullopt) {
  test::Random random;
  for (int i = 0; i < 2 + num_random; ++i) {
    GetOptions().seed = i < 2 ? static_cast<uint64_t>(i) : static_cast<uint64_t>(random.Int(2, INT32_MAX));
    SCOPED_TRACE("thread order " + std::to_string(GetOptions().seed));
    test::TestContext context;
    context.SetWgmma(wgmma);
    check(static_cast<const ExecContext&>(context));
    EXPECT_EQ(TakeError(), "");
  }
  GetOptions() = Options();
}

}  // namespace moed::simt

#endif  // TESTS_SUPPORT_SIMT_SIMT_TESTING_H_
