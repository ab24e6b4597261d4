// The CUDA runtime's part in builds with CUDA. All calls of the runtime but the kernels' launches are here.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <vector>

#include "base/text.h"
#include "tensor/cuda_devices.h"
#include "tensor/cuda_graph.h"
#include "tensor/cuda_memory.h"
#include "tensor/cuda_stream.h"

namespace moed {
namespace {

// Whether the kernels of this build have bodies for sm_90a.
#if defined(MOED_CUDA_SM90A) || defined(MOED_SIMT)
constexpr bool kCompiledForWgmma = true;
#else
constexpr bool kCompiledForWgmma = false;
#endif

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

// ----------------------------------------------------------------------------------------------------------- memory

namespace {

absl::Status Failed(std::string_view what, cudaError_t error) {
  return Internal("{}: {}", what, cudaGetErrorString(error));
}

absl::Status NoMemory(size_t bytes, Device device) {
  cudaGetLastError();  // a refused allocation is no error of what follows
  const auto memory = CudaMemoryOf(device);
  return ResourceExhausted("{} has no {} of memory left: {} of {} are free", DeviceName(device), HumanBytes(bytes),
                           HumanBytes(memory.ok() ? memory->free_bytes : 0),
                           HumanBytes(memory.ok() ? memory->total_bytes : 0));
}

}  // namespace

absl::StatusOr<void*> AllocateCuda(size_t bytes, Device device) {
  void* data = nullptr;
  cudaError_t error = cudaSetDevice(device.index);
  if (error == cudaSuccess) error = cudaMalloc(&data, bytes == 0 ? 1 : bytes);
  if (error == cudaErrorMemoryAllocation) return NoMemory(bytes, device);
  if (error == cudaSuccess) error = cudaMemset(data, 0, bytes);
  // Streams of ours do not wait for the one that the zeros are written in.
  if (error == cudaSuccess) error = cudaStreamSynchronize(nullptr);
  if (error == cudaSuccess) return data;
  if (data != nullptr) cudaFree(data);
  return Failed(fmt::format("{} of memory on {}", HumanBytes(bytes), DeviceName(device)), error);
}

void FreeCuda(void* data, Device device) {
  cudaSetDevice(device.index);
  cudaFree(data);  // waits for what may still use it
}

absl::Status CopyToCuda(void* to, const void* from, size_t bytes, Device device) {
  cudaError_t error = cudaSetDevice(device.index);
  if (error == cudaSuccess) error = cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice);
  if (error == cudaSuccess) error = cudaStreamSynchronize(nullptr);
  return error == cudaSuccess ? absl::OkStatus() : Failed(fmt::format("copy of {}", HumanBytes(bytes)), error);
}

absl::StatusOr<void*> AllocatePinned(size_t bytes) {
  void* data = nullptr;
  const cudaError_t error = cudaHostAlloc(&data, bytes == 0 ? 1 : bytes, cudaHostAllocPortable);
  if (error == cudaSuccess) return data;
  cudaGetLastError();
  if (error != cudaErrorMemoryAllocation) return Failed("pinned memory", error);
  return ResourceExhausted("cannot get {} of pinned memory", HumanBytes(bytes));
}

void FreePinned(void* data) { cudaFreeHost(data); }

absl::StatusOr<CudaMemory> CudaMemoryOf(Device device) {
  size_t free = 0, total = 0;
  cudaError_t error = cudaSetDevice(device.index);
  if (error == cudaSuccess) error = cudaMemGetInfo(&free, &total);
  if (error != cudaSuccess) return Failed(DeviceName(device), error);
  return CudaMemory{.free_bytes = free, .total_bytes = total};
}

// ----------------------------------------------------------------------------------------------------------- streams

absl::StatusOr<std::unique_ptr<CudaStream>> CudaStream::Create(Device device) {
  cudaStream_t handle = nullptr;
  cudaError_t error = cudaSetDevice(device.index);
  if (error == cudaSuccess) error = cudaStreamCreateWithFlags(&handle, cudaStreamNonBlocking);
  int major = 0, minor = 0;
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device.index);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device.index);
  if (error != cudaSuccess) return Failed(fmt::format("a stream on {}", DeviceName(device)), error);
  return std::unique_ptr<CudaStream>(new CudaStream(device, handle, kCompiledForWgmma && major == 9 && minor == 0));
}

CudaStream::~CudaStream() {
  cudaStreamSynchronize(static_cast<cudaStream_t>(handle_));
  cudaStreamDestroy(static_cast<cudaStream_t>(handle_));
}

void CudaStream::Copy(void* to, const void* from, size_t bytes) {
  if (!is_open() || bytes == 0) return;
  const cudaError_t error = cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, static_cast<cudaStream_t>(handle_));
  if (error != cudaSuccess) Fail(Failed(fmt::format("copy of {}", HumanBytes(bytes)), error));
}

void CudaStream::CopyAll(std::span<const CopyPiece> pieces) {
#if CUDART_VERSION >= 13000
  // Drivers are reported to fail with some ten thousands at once.
  constexpr size_t kMostAtOnce = 2048;
  cudaMemcpyAttributes attributes = {};
  attributes.srcAccessOrder = cudaMemcpySrcAccessOrderStream;
  attributes.flags = cudaMemcpyFlagPreferOverlapWithCompute;
  std::vector<void*> to;
  std::vector<const void*> from;
  std::vector<size_t> sizes;
  for (; is_open() && !pieces.empty(); pieces = pieces.subspan(to.size())) {
    to.clear(), from.clear(), sizes.clear();
    for (const CopyPiece& piece : pieces.first(std::min(pieces.size(), kMostAtOnce))) {
      to.push_back(piece.to);
      from.push_back(piece.from);
      sizes.push_back(piece.bytes);
    }
    size_t first = 0;  // of those that the attributes hold for
    const cudaError_t error = cudaMemcpyBatchAsync(to.data(), from.data(), sizes.data(), to.size(), &attributes, &first,
                                                   1, static_cast<cudaStream_t>(handle_));
    if (error != cudaSuccess) Fail(Failed(fmt::format("{} copies", to.size()), error));
  }
#else
  for (const CopyPiece& piece : pieces) Copy(piece.to, piece.from, piece.bytes);
#endif
}

absl::Status CudaStream::Synchronize() {
  const cudaError_t error = cudaStreamSynchronize(static_cast<cudaStream_t>(handle_));
  if (error != cudaSuccess) Fail(Failed(DeviceName(device_), error));
  return std::exchange(error_, absl::OkStatus());
}

void CudaStream::MakeCurrent() const { cudaSetDevice(device_.index); }

absl::StatusOr<CudaEvent> CudaEvent::Create() {
  cudaEvent_t handle = nullptr;
  const cudaError_t error = cudaEventCreateWithFlags(&handle, cudaEventDisableTiming);
  if (error != cudaSuccess) return Failed("an event", error);
  return CudaEvent(handle);
}

CudaEvent::~CudaEvent() {
  if (handle_ != nullptr) cudaEventDestroy(static_cast<cudaEvent_t>(handle_));
}

void CudaEvent::Record(CudaStream* stream) {
  const cudaError_t error =
      cudaEventRecord(static_cast<cudaEvent_t>(handle_), static_cast<cudaStream_t>(stream->handle()));
  if (error != cudaSuccess) stream->Fail(Failed("an event", error));
}

absl::Status CudaEvent::Wait() const {
  const cudaError_t error = cudaEventSynchronize(static_cast<cudaEvent_t>(handle_));
  return error == cudaSuccess ? absl::OkStatus() : Failed("waiting for the device", error);
}

// ------------------------------------------------------------------------------------------------------------ graphs

absl::Status CudaGraph::BeginCapture(CudaStream* stream) {
  const cudaError_t error =
      cudaStreamBeginCapture(static_cast<cudaStream_t>(stream->handle()), cudaStreamCaptureModeThreadLocal);
  if (error == cudaSuccess) return absl::OkStatus();
  cudaGetLastError();  // that nothing can be recorded is no error of what follows
  return Failed("the start of a graph", error);
}

absl::StatusOr<CudaGraph> CudaGraph::EndCapture(CudaStream* stream) {
  cudaGraph_t recorded = nullptr;
  cudaError_t error = cudaStreamEndCapture(static_cast<cudaStream_t>(stream->handle()), &recorded);
  cudaGraphExec_t graph = nullptr;
  const bool is_whole = error == cudaSuccess && stream->is_open();
  if (is_whole) error = cudaGraphInstantiate(&graph, recorded, 0);
  if (recorded != nullptr) cudaGraphDestroy(recorded);
  if (is_whole && error == cudaSuccess) return CudaGraph(graph);
  cudaGetLastError();
  MOED_RETURN_IF_ERROR(stream->Synchronize());  // which tells what closed it
  return Failed("a graph", error);
}

CudaGraph::~CudaGraph() {
  if (handle_ != nullptr) cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(handle_));
}

void CudaGraph::Launch(CudaStream* stream) const {
  if (!stream->is_open()) return;
  const cudaError_t error =
      cudaGraphLaunch(static_cast<cudaGraphExec_t>(handle_), static_cast<cudaStream_t>(stream->handle()));
  if (error != cudaSuccess) stream->Fail(Failed("a graph", error));
}

}  // namespace moed
