// The NVIDIA GPUs of this machine, and which device a program computes on.
#ifndef MOED_TENSOR_CUDA_DEVICES_H_
#define MOED_TENSOR_CUDA_DEVICES_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "tensor/tensor_view.h"

namespace moed {

struct CudaDeviceInfo {
  int index = 0;
  std::string name;          // "NVIDIA H100 80GB HBM3"
  int major = 0, minor = 0;  // compute capability
  uint64_t total_bytes = 0;  // of its memory
  uint64_t free_bytes = 0;   // now; other programs may take them
  int multiprocessors = 0;

  // "cuda:0: NVIDIA H100 80GB HBM3, compute capability 9.0, 78.6 GiB of 79.1 GiB free"
  std::string ToString() const;
};

// In the order in which the driver counts them (CUDA_VISIBLE_DEVICES changes it), at least one. UNIMPLEMENTED in a
// build without CUDA; FAILED_PRECONDITION without a driver, with one that is too old, or without a GPU.
absl::StatusOr<std::vector<CudaDeviceInfo>> ListCudaDevices();

// Of compute capability 8.0 (Ampere) on: what the kernels are compiled for.
inline constexpr int kMinCudaMajor = 8;

// The device to compute on. `wanted`: what the user asked for; nothing stands for the first GPU that will do, else the
// CPU. `listed`: of ListCudaDevices(). `reason` is told why, for the log, where nothing was asked for.
// FAILED_PRECONDITION or UNIMPLEMENTED where there is no GPU at all, NOT_FOUND where there is none of this number; the
// message names those that there are.
absl::StatusOr<Device> ChooseDevice(const std::optional<Device>& wanted,
                                    const absl::StatusOr<std::vector<CudaDeviceInfo>>& listed, std::string* reason);

// "cpu", "cuda:1".
std::string DeviceName(Device device);
// The same, or "cuda" for the first GPU; nothing for other text.
std::optional<Device> ParseDevice(std::string_view text);

}  // namespace moed

#endif  // MOED_TENSOR_CUDA_DEVICES_H_
