// Memory that the CUDA runtime gives: on a GPU, and pinned on the host. Owned through Buffer.
#ifndef MOED_TENSOR_CUDA_MEMORY_H_
#define MOED_TENSOR_CUDA_MEMORY_H_

#include <cstddef>
#include <cstdint>

#include "base/status.h"
#include "tensor/tensor_view.h"

namespace moed {

// Zeros, aligned to 256 bytes. RESOURCE_EXHAUSTED, with what was asked for and what is free, when there is not that
// much; UNIMPLEMENTED in a build without CUDA.
absl::StatusOr<void*> AllocateCuda(size_t bytes, Device device);
void FreeCuda(void* data, Device device);

// From any host memory; waits.
absl::Status CopyToCuda(void* to, const void* from, size_t bytes, Device device);

// On the host, where copies to and from a GPU run beside it.
absl::StatusOr<void*> AllocatePinned(size_t bytes);
void FreePinned(void* data);

struct CudaMemory {
  uint64_t free_bytes = 0;  // now; all programs share them
  uint64_t total_bytes = 0;
};
absl::StatusOr<CudaMemory> CudaMemoryOf(Device device);

}  // namespace moed

#endif  // MOED_TENSOR_CUDA_MEMORY_H_
