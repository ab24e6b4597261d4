#include "kernels/machine_peaks/machine_peaks.h"

#include <gtest/gtest.h>

#include <vector>

#include "tests/support/tensor_testing.h"

namespace moed::kernels {
namespace {

TEST(CeilingMeterTest, WeighsSamplesByTheTimeBetweenThem) {
  CeilingMeter meter({.operations = 100, .bytes = 10});
  EXPECT_EQ(meter.mean().operations, 100);  // nothing ran yet
  meter.Ran(0.02);
  EXPECT_FALSE(meter.IsDue());
  meter.Ran(0.98);
  EXPECT_TRUE(meter.IsDue());
  meter.Add({.operations = 200, .bytes = 10});  // a second at 150
  EXPECT_FALSE(meter.IsDue());
  meter.Ran(3);
  meter.Add({.operations = 100, .bytes = 40});  // three at 150, and bytes at 25
  EXPECT_DOUBLE_EQ(meter.mean().operations, 150);
  EXPECT_DOUBLE_EQ(meter.mean().bytes, (1 * 10 + 3 * 25) / 4.0);
  EXPECT_EQ(meter.best().operations, 200);
  EXPECT_EQ(meter.best().bytes, 40);
}

TEST(MachinePeaksTest, EverySampleSaysSomething) {
  const std::vector<char> memory(1 << 22, 1);
  for (const Isa isa : test::MachineIsas()) {
    const test::TestContext ctx(isa, 2);
    EXPECT_GT(ReadBandwidth(ctx, memory.data(), memory.size()), 0) << IsaName(isa);
    for (const WeightFormat format : {WeightFormat::F32(), WeightFormat::BF16(), WeightFormat::Int8()}) {
      EXPECT_GT(PeakOperations(ctx, format), 0) << IsaName(isa) << ", " << format.ToString();
    }
  }
}

}  // namespace
}  // namespace moed::kernels
