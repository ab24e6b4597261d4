// The CUDA runtime's part in builds with CUDA. All calls of the runtime but the kernels' launches are here.
#include <cuda_runtime_api.h>

#include "base/logging.h"
#include "tensor/cuda_devices.h"

namespace moed {
namespace {

std::string VersionText(int version) { return fmt::format("{}.{}", version / 1000, version % 1000 / 10); }

// Why there is no device, in words that tell what to do.
absl::Status NoDevice(cudaError_t error) {
  int driver = 0, runtime = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
    return FailedPrecondition("there is no NVIDIA driver on this machine");
  }
  cudaRuntimeGetVersion(&runtime);
  if (error == cudaErrorInsufficientDriver) {
    return FailedPrecondition("the NVIDIA driver is for CUDA {}; this build needs CUDA {} or newer",
                              VersionText(driver), VersionText(runtime));
  }
  if (error == cudaErrorNoDevice || error == cudaSuccess) {
    return FailedPrecondition("there is an NVIDIA driver, but no GPU that this process may use");
  }
  return FailedPrecondition("the GPUs cannot be used: {}", cudaGetErrorString(error));
}

absl::StatusOr<CudaDeviceInfo> InfoOf(int index) {
  CudaDeviceInfo info{.index = index};
  cudaDeviceProp properties = {};
  cudaError_t error = cudaGetDeviceProperties(&properties, index);
  size_t free = 0, total = 0;
  if (error == cudaSuccess) error = cudaSetDevice(index);
  if (error == cudaSuccess) error = cudaMemGetInfo(&free, &total);
  if (error != cudaSuccess) return FailedPrecondition("cuda:{}: {}", index, cudaGetErrorString(error));
  info.name = properties.name;
  info.major = properties.major;
  info.minor = properties.minor;
  info.multiprocessors = properties.multiProcessorCount;
  info.total_bytes = total;
  info.free_bytes = free;
  return info;
}

}  // namespace

absl::StatusOr<std::vector<CudaDeviceInfo>> ListCudaDevices() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) return NoDevice(error);
  std::vector<CudaDeviceInfo> devices;
  for (int index = 0; index < count; ++index) {
    MOED_ASSIGN_OR_RETURN(CudaDeviceInfo info, InfoOf(index));
    devices.push_back(std::move(info));
  }
  return devices;
}

}  // namespace moed
