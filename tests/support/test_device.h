// The device that a test of a whole model computes on.
#ifndef TESTS_SUPPORT_TEST_DEVICE_H_
#define TESTS_SUPPORT_TEST_DEVICE_H_

#include <cstdlib>

#include "base/logging.h"
#include "tensor/cuda_devices.h"

namespace moed::test {

// That of the environment variable MOED_TEST_DEVICE, as --device names it; the CPU where it is not set.
inline Device DeviceUnderTest() {
  const char* const name = std::getenv("MOED_TEST_DEVICE");
  if (name == nullptr) return Device{};
  const std::optional<Device> device = ParseDevice(name);
  MOED_CHECK(device.has_value(), "MOED_TEST_DEVICE is \"{}\"; it must be cpu, cuda or cuda:N", name);
  return *device;
}

}  // namespace moed::test

#endif  // TESTS_SUPPORT_TEST_DEVICE_H_
