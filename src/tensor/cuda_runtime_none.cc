// What the CUDA runtime does elsewhere (cuda_runtime.cc), in builds without CUDA: nothing.
#include "base/logging.h"
#include "tensor/cuda_devices.h"
#include "tensor/cuda_graph.h"
#include "tensor/cuda_memory.h"
#include "tensor/cuda_stream.h"

namespace moed {
namespace {

absl::Status WithoutCuda() { return Unimplemented("this build of moed is without CUDA"); }

[[noreturn]] void Unreachable() { MOED_CHECK(false, "CUDA is not in this build"); }

}  // namespace

absl::StatusOr<std::vector<CudaDeviceInfo>> ListCudaDevices() { return WithoutCuda(); }

absl::StatusOr<void*> AllocateCuda(size_t /*bytes*/, Device /*device*/) { return WithoutCuda(); }
void FreeCuda(void* /*data*/, Device /*device*/) { Unreachable(); }
absl::Status CopyToCuda(void* /*to*/, const void* /*from*/, size_t /*bytes*/, Device /*device*/) {
  return WithoutCuda();
}
absl::StatusOr<void*> AllocatePinned(size_t /*bytes*/) { return WithoutCuda(); }
void FreePinned(void* /*data*/) { Unreachable(); }
absl::StatusOr<CudaMemory> CudaMemoryOf(Device /*device*/) { return WithoutCuda(); }

absl::StatusOr<std::unique_ptr<CudaStream>> CudaStream::Create(Device /*device*/) { return WithoutCuda(); }
CudaStream::~CudaStream() = default;
void CudaStream::Copy(void* /*to*/, const void* /*from*/, size_t /*bytes*/) { Unreachable(); }
void CudaStream::CopyAll(std::span<const CopyPiece> /*pieces*/) { Unreachable(); }
absl::Status CudaStream::Synchronize() { return WithoutCuda(); }
void CudaStream::MakeCurrent() const {}

absl::Status CudaGraph::BeginCapture(CudaStream* /*stream*/) { return WithoutCuda(); }
absl::StatusOr<CudaGraph> CudaGraph::EndCapture(CudaStream* /*stream*/) { return WithoutCuda(); }
CudaGraph::~CudaGraph() = default;
void CudaGraph::Launch(CudaStream* /*stream*/) const { Unreachable(); }

absl::StatusOr<CudaEvent> CudaEvent::Create() { return WithoutCuda(); }
CudaEvent::~CudaEvent() = default;
void CudaEvent::Record(CudaStream* /*stream*/) {}
absl::Status CudaEvent::Wait() const { return WithoutCuda(); }

}  // namespace moed
