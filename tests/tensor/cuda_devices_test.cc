#include "tensor/cuda_devices.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace moed {
namespace {

using ::testing::HasSubstr;

using Listing = absl::StatusOr<std::vector<CudaDeviceInfo>>;

constexpr uint64_t kGiB = uint64_t{1} << 30;

CudaDeviceInfo Gpu(int index, int major) {
  return {.index = index,
          .name = "GPU " + std::to_string(index),
          .major = major,
          .minor = 0,
          .total_bytes = 80 * kGiB,
          .free_bytes = 79 * kGiB};
}

Device Cuda(int index) { return {DeviceType::kCuda, index}; }

absl::StatusOr<Device> Choose(const std::optional<Device>& wanted, const Listing& listed) {
  std::string reason;
  return ChooseDevice(wanted, listed, &reason);
}

TEST(ParseDeviceTest, NamesGoThereAndBack) {
  EXPECT_EQ(ParseDevice("cpu"), Device{});
  EXPECT_EQ(ParseDevice("cuda"), Cuda(0));
  EXPECT_EQ(ParseDevice("cuda:7"), Cuda(7));
  for (const Device device : {Device{}, Cuda(0), Cuda(12)}) EXPECT_EQ(ParseDevice(DeviceName(device)), device);
  for (const char* text : {"", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:1x", "cuda1", "cpu:0", "cuda:99999999999"}) {
    EXPECT_EQ(ParseDevice(text), std::nullopt) << text;
  }
}

TEST(ChooseDeviceTest, WithoutAGpuAutoIsTheCpuAndSaysWhy) {
  std::string reason;
  const Listing none = FailedPrecondition("there is no driver");
  EXPECT_EQ(*ChooseDevice(std::nullopt, none, &reason), Device{});
  EXPECT_EQ(reason, "there is no driver");
}

TEST(ChooseDeviceTest, WithoutAGpuCudaIsAnError) {
  const absl::Status status = Choose(Cuda(0), Listing(FailedPrecondition("there is no driver"))).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_EQ(Message(status), "device cuda:0: there is no driver");
  EXPECT_TRUE(absl::IsUnimplemented(Choose(Cuda(0), Listing(Unimplemented("without CUDA"))).status()));
}

TEST(ChooseDeviceTest, TheCpuNeedsNoGpu) { EXPECT_EQ(*Choose(Device{}, Listing(Internal("broken"))), Device{}); }

TEST(ChooseDeviceTest, AutoTakesTheFirstThatIsNewEnough) {
  EXPECT_EQ(*Choose(std::nullopt, Listing({Gpu(0, 9), Gpu(1, 9)})), Cuda(0));
  EXPECT_EQ(*Choose(std::nullopt, Listing({Gpu(0, 7), Gpu(1, 8)})), Cuda(1));
  EXPECT_EQ(*Choose(std::nullopt, Listing({Gpu(0, 7)})), Device{});
}

TEST(ChooseDeviceTest, ANumberThatIsNotThereIsToldWithThoseThatAre) {
  const absl::Status status = Choose(Cuda(2), Listing({Gpu(0, 9), Gpu(1, 9)})).status();
  EXPECT_TRUE(absl::IsNotFound(status));
  EXPECT_THAT(Message(status), HasSubstr("no device cuda:2"));
  EXPECT_THAT(Message(status), HasSubstr("cuda:1: GPU 1, compute capability 9.0, 79.0 GiB of 80.0 GiB free"));
}

TEST(ChooseDeviceTest, AnOldGpuIsRefusedByItsCapability) {
  const absl::Status status = Choose(Cuda(0), Listing({Gpu(0, 7)})).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_THAT(Message(status), HasSubstr("compute capability 7.0; 8.0 is needed"));
}

}  // namespace
}  // namespace moed
