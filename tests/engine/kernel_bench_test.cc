// The bench of single kernels on an emulated GPU, in shapes small enough for it: that it runs to its end, and that what
// it divides by what is right. How fast a GPU is, only a GPU tells.
#include "engine/kernel_bench.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tests/support/simt/runtime.h"
#include "tests/support/simt/scheduler.h"

namespace moed {
namespace {

KernelBenchShapes SmallShapes() {
  KernelBenchShapes shapes;
  shapes.decode_batch = 2;
  shapes.decode_context = 40;
  shapes.decode_attention = {
      {"GQA", 4, 2, 8, 8, 0.8}, {"MLA", 3, 1, 12, 8, 0.75}, {"INT8", 4, 2, 8, 8, 0.8, DType::kI8}};
  shapes.experts = {{"few", 32, 16, 4, 2}};
  shapes.decode_tokens = {1, 3};
  shapes.prefill_tokens = 20;
  shapes.prefill_attention = {"causal", 2, 1, 8, 8, 0.4};
  shapes.vocab = 300;
  return shapes;
}

TEST(KernelBenchTest, MeasuresEveryKernel) {
  constexpr Device kCuda{DeviceType::kCuda, 0};
  auto stream = CudaStream::Create(kCuda);
  ASSERT_TRUE(stream.ok()) << stream.status();
  std::vector<KernelResult> results;
  const KernelCeilings ceilings = {.bytes = 1e9, .bf16_operations = 2e9, .int8_operations = 4e9};
  {
    Workspace workspace(stream->get());
    ExecContext ctx;
    ctx.device = kCuda;
    ctx.workspace = &workspace;
    ctx.stream = stream->get();
    const int64_t graphs = simt::NumGraphLaunches();
    const absl::Status status =
        RunKernelBench(ctx, SmallShapes(), ceilings, [&](const KernelResult& result) { results.push_back(result); });
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_GT(simt::NumGraphLaunches(), graphs);
  }
  EXPECT_EQ(simt::TakeError(), "");
  EXPECT_EQ(simt::DeviceBytesInUse(), 0u);
  std::map<std::string, int> counts;
  for (const KernelResult& result : results) {
    SCOPED_TRACE(result.kernel + ", " + result.shape);
    ++counts[result.kernel];
    EXPECT_GT(result.seconds, 0);
    const double ceiling = result.limit == KernelLimit::kBytes  ? ceilings.bytes
                           : result.limit == KernelLimit::kBf16 ? ceilings.bf16_operations
                                                                : ceilings.int8_operations;
    EXPECT_DOUBLE_EQ(result.fraction, result.amount / result.seconds / ceiling);
  }
  EXPECT_EQ(counts, (std::map<std::string, int>{{"decode attention", 3},
                                                {"prefill attention", 1},
                                                {"decode experts", 4},
                                                {"prefill experts", 2},
                                                {"sampling", 4}}));
  // Two sequences of 40 positions in blocks of 16, two heads of 8 keys and 8 values of two bytes.
  EXPECT_EQ(results[0].amount, 2 * 48 * 2 * 16 * 2);
  EXPECT_EQ(results[1].amount, 2 * 48 * 12 * 2) << "values are a part of the keys";
  EXPECT_EQ(results[2].amount, 2 * 48 * 2 * (16 + 2 * 4)) << "bytes, and a scale of each row";
  EXPECT_EQ(results[3].amount, 20.0 * 21 * 2 * 16);
  // One token goes to 2 of 4 experts: three matrices of 32 x 16, 16 outputs padded to a panel of 32.
  EXPECT_EQ(results[4].amount, 2 * (2 * 32 * 32 + 32 * 16) * 2);
  EXPECT_EQ(results[6].amount, 6.0 * 20 * 2 * 32 * 16);
  EXPECT_EQ(results[6].limit, KernelLimit::kBf16);
  EXPECT_EQ(results[9].limit, KernelLimit::kInt8);
}

}  // namespace
}  // namespace moed
