#include <cuda_runtime_api.h>

#include "base/logging.h"

namespace moed::kernels {

void CheckLaunch(const char* kernel, cudaError_t error) {
  MOED_CHECK(error == cudaSuccess, "{}: {}", kernel, cudaGetErrorString(error));
}

}  // namespace moed::kernels
