// The CUDA runtime's part in builds without CUDA.
#include "tensor/cuda_devices.h"

namespace moed {

absl::StatusOr<std::vector<CudaDeviceInfo>> ListCudaDevices() {
  return Unimplemented("this build of moed is without CUDA");
}

}  // namespace moed
