#include "tests/support/cuda_body_testing.h"

#include <cuda_runtime_api.h>

#include <memory>

#include "tensor/cuda_devices.h"

namespace moed::test {
namespace {

struct Gpu {
  std::string missing;  // why there is none
  bool has_failed = false;
  std::unique_ptr<CudaStream> stream;
  std::unique_ptr<Workspace> workspace;
  ExecContext context;
};

// Why `device` cannot be tested, or nothing.
std::string StartGpu(Device device, Gpu* gpu) {
  int same_pointer = 0;
  cudaDeviceGetAttribute(&same_pointer, cudaDevAttrCanUseHostPointerForRegisteredMem, device.index);
  if (same_pointer == 0) return "the GPU knows the host's memory by other addresses only";
  auto stream = CudaStream::Create(device);
  if (!stream.ok()) return stream.status().ToString();
  gpu->stream = *std::move(stream);
  gpu->workspace = std::make_unique<Workspace>(gpu->stream.get());
  gpu->context = {.device = device, .workspace = gpu->workspace.get(), .stream = gpu->stream.get()};
  return "";
}

// The first that will do. Never destroyed: at the program's end the runtime goes first.
Gpu& TheGpu() {
  static Gpu* const gpu = [] {
    auto* const made = new Gpu;
    const auto device = ChooseDevice(std::nullopt, ListCudaDevices(), &made->missing);
    MOED_CHECK(device.ok(), "{}", device.status().ToString());
    if (device->type == DeviceType::kCuda) made->missing = StartGpu(*device, made);
    return made;
  }();
  return *gpu;
}

void LetIn(void* pages, size_t bytes) {
  const cudaError_t error = cudaHostRegister(pages, bytes, cudaHostRegisterMapped);
  if (error != cudaSuccess)
    ADD_FAILURE() << "the GPU cannot reach " << bytes << " bytes: " << cudaGetErrorString(error);
}

void KeepOut(void* pages) { cudaHostUnregister(pages); }

}  // namespace

void CudaBodyTest::SetUp() {
  const Gpu& gpu = TheGpu();
  if (!gpu.missing.empty()) GTEST_SKIP() << "needs a GPU: " << gpu.missing;
  if (gpu.has_failed) GTEST_SKIP() << "the GPU cannot be used since the fault in an earlier test";
  tensor_pages = {.add = LetIn, .remove = KeepOut};
}

void CudaBodyTest::TearDown() { tensor_pages = {}; }

CudaContext::CudaContext() : context_(TheGpu().context) {
  Gpu& gpu = TheGpu();
  const Workspace::Scope scope(gpu.workspace.get());
  constexpr size_t kBytes = size_t{1} << 20;  // which is all of it but in large tests
  void* const memory = gpu.workspace->Allocate(kBytes);
  if (gpu.stream->is_open()) {
    cudaMemsetAsync(memory, 0xff, kBytes, static_cast<cudaStream_t>(gpu.stream->handle()));
  }
}

// A device without wgmma has the other body only.
void CudaContext::SetWgmma(std::optional<bool> wgmma) {
  context_.wgmma = context_.stream->has_wgmma() ? wgmma : std::nullopt;
}

void Await(const ExecContext& ctx) {
  const absl::Status status = ctx.stream->Synchronize();
  if (status.ok()) return;
  ADD_FAILURE() << status;
  TheGpu().has_failed = status.code() == absl::StatusCode::kInternal;
}

}  // namespace moed::test
