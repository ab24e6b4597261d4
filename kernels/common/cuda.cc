#include <cuda_runtime_api.h>

#include "base/logging.h"
#include "tensor/cuda_stream.h"

namespace moed::kernels {

void CheckLaunch(const char* kernel, cudaError_t error, CudaStream* stream) {
  if (error == cudaSuccess) return;
  MOED_CHECK(stream != nullptr, "{}: {}", kernel, cudaGetErrorString(error));
  stream->Fail(Internal("{}: {}", kernel, cudaGetErrorString(error)));
}

}  // namespace moed::kernels
