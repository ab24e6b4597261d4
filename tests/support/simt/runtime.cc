#include "tests/support/simt/runtime.h"

#include <cuda_runtime_api.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <set>
#include <utility>
#include <vector>

namespace moed::simt {
namespace {

struct Allocation {
  char* pages;
  size_t mapped;  // guard page included
  size_t bytes;   // as asked for
  int device;
};

struct PendingCopy {
  uint64_t number;  // in the stream
  void* to;
  const void* from;
  size_t bytes;
};

struct Graph {
  std::vector<std::function<void()>> launches;
};

struct GraphExec {
  Graph graph;
  int device;
};
constexpr size_t kBytesPerNode = 1024;  // of the device's memory

struct Stream {
  std::deque<PendingCopy> pending;
  uint64_t last_number = 0;
  std::unique_ptr<Graph> recording;
};

struct Event {
  Stream* stream = nullptr;
  uint64_t number = 0;
};

struct State {
  Machine machine;
  std::map<void*, Allocation> memory;
  std::map<void*, size_t> pinned;
  std::map<Stream*, Stream*> streams;
  std::set<GraphExec*> graphs;
  std::mt19937_64 random;
  int device = 0;
  int64_t num_launches = 0, num_graph_launches = 0, num_copies = 0, bytes_to_host = 0;
  cudaError_t last_error = cudaSuccess;
};

State& Get() {
  static State state;
  return state;
}

size_t PageSize() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

void Protect(int protection) {
  for (const auto& [data, allocation] : Get().memory) {
    if (mprotect(allocation.pages, allocation.mapped - PageSize(), protection) != 0) std::abort();
  }
}

void Perform(const PendingCopy& copy) {
  const DeviceMemoryAccess access;
  std::memcpy(copy.to, copy.from, copy.bytes);
}

// Performs the copies up to `number`.
void Finish(Stream* stream, uint64_t number) {
  while (!stream->pending.empty() && stream->pending.front().number <= number) {
    Perform(stream->pending.front());
    stream->pending.pop_front();
  }
}

cudaError_t Error(cudaError_t error) {
  if (error != cudaSuccess) Get().last_error = error;
  return error;
}

cudaError_t Fault() { return Get().machine.has_fault ? Error(cudaErrorIllegalAddress) : cudaSuccess; }

// Counts down to the failure that a test asked for.
bool MayAllocate(int64_t* until_failure) {
  if (*until_failure < 0) return true;
  if (*until_failure == 0) return false;
  --*until_failure;
  return true;
}

bool IsOnDevice(const void* data) {
  for (const auto& [begin, allocation] : Get().memory) {
    if (data >= begin && data < static_cast<const char*>(begin) + allocation.bytes) return true;
  }
  return false;
}

size_t BytesOn(int device) {
  size_t bytes = 0;
  for (const auto& [data, allocation] : Get().memory) bytes += allocation.device == device ? allocation.bytes : 0;
  for (const GraphExec* graph : Get().graphs) {
    if (graph->device == device) bytes += graph->graph.launches.size() * kBytesPerNode;
  }
  return bytes;
}

}  // namespace

Machine& GetMachine() { return Get().machine; }

size_t DeviceBytesInUse() {
  size_t bytes = 0;
  for (int device = 0; device < Get().machine.num_devices; ++device) bytes += BytesOn(device);
  return bytes;
}

size_t PinnedBytesInUse() {
  size_t bytes = 0;
  for (const auto& [data, size] : Get().pinned) bytes += size;
  return bytes;
}

int64_t NumLaunches() { return Get().num_launches; }
int64_t NumGraphLaunches() { return Get().num_graph_launches; }
int64_t NumCopies() { return Get().num_copies; }
int64_t BytesToHost() { return Get().bytes_to_host; }

DeviceMemoryAccess::DeviceMemoryAccess() { Protect(PROT_READ | PROT_WRITE); }
DeviceMemoryAccess::~DeviceMemoryAccess() { Protect(PROT_NONE); }

void BeforeLaunch(void* stream) {
  ++Get().num_launches;
  Finish(static_cast<Stream*>(stream), UINT64_MAX);
}

bool IsCapturing(void* stream) { return static_cast<Stream*>(stream)->recording != nullptr; }

void Record(void* stream, std::function<void()> launch) {
  static_cast<Stream*>(stream)->recording->launches.push_back(std::move(launch));
}

}  // namespace moed::simt

using namespace moed::simt;  // NOLINT: the runtime's own names are global

extern "C" {

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorIllegalAddress:
      return "an illegal memory access was encountered";
    case cudaErrorInsufficientDriver:
      return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorStreamCaptureUnsupported:
      return "operation not permitted when stream is capturing";
    default:
      return "unknown error";
  }
}

cudaError_t cudaGetLastError() { return std::exchange(Get().last_error, cudaSuccess); }

cudaError_t cudaDriverGetVersion(int* version) {
  *version = GetMachine().driver_version;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 0;
  if (GetMachine().driver_version < CUDART_VERSION) return cudaErrorInsufficientDriver;
  if (GetMachine().num_devices == 0) return cudaErrorNoDevice;
  *count = GetMachine().num_devices;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  *properties = {};
  std::snprintf(properties->name, sizeof(properties->name), "emulated GPU %d", device);
  properties->major = GetMachine().compute_capability_major;
  properties->multiProcessorCount = 1;
  properties->totalGlobalMem = GetMachine().memory_bytes;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (device < 0 || device >= GetMachine().num_devices) return Error(cudaErrorInvalidDevice);
  *value = attribute == cudaDevAttrComputeCapabilityMajor ? GetMachine().compute_capability_major : 0;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= GetMachine().num_devices) return Error(cudaErrorInvalidDevice);
  Get().device = device;
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *total = GetMachine().memory_bytes;
  *free = *total - std::min(*total, BytesOn(Get().device));
  return Fault();
}

cudaError_t cudaMalloc(void** data, size_t bytes) {
  State& state = Get();
  *data = nullptr;
  if (Fault() != cudaSuccess) return cudaErrorIllegalAddress;
  if (BytesOn(state.device) + bytes > state.machine.memory_bytes ||
      !MayAllocate(&state.machine.allocations_until_failure)) {
    return Error(cudaErrorMemoryAllocation);
  }
  constexpr size_t kAlignment = 256;
  const size_t page = PageSize(), rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  const size_t usable = (rounded + page - 1) / page * page;
  void* const pages = mmap(nullptr, usable + page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (pages == MAP_FAILED) std::abort();
  *data = static_cast<char*>(pages) + usable - rounded;
  state.memory[*data] = {static_cast<char*>(pages), usable + page, bytes, state.device};
  return cudaSuccess;
}

cudaError_t cudaFree(void* data) {
  State& state = Get();
  for (const auto& [key, stream] : state.streams) Finish(stream, UINT64_MAX);
  const auto found = state.memory.find(data);
  if (found == state.memory.end()) return data == nullptr ? cudaSuccess : Error(cudaErrorInvalidValue);
  munmap(found->second.pages, found->second.mapped);
  state.memory.erase(found);
  return cudaSuccess;
}

cudaError_t cudaMemset(void* data, int value, size_t bytes) {
  const DeviceMemoryAccess access;
  std::memset(data, value, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind /*kind*/) {
  Perform({0, to, from, bytes});
  return Fault();
}

cudaError_t cudaHostAlloc(void** data, size_t bytes, unsigned /*flags*/) {
  *data = nullptr;
  if (!MayAllocate(&GetMachine().pinned_until_failure)) return Error(cudaErrorMemoryAllocation);
  *data = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  std::memset(*data, 0xa5, bytes);
  Get().pinned[*data] = bytes;
  return cudaSuccess;
}

cudaError_t cudaFreeHost(void* data) {
  Get().pinned.erase(data);
  std::free(data);
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned /*flags*/) {
  auto* const made = new Stream;
  Get().streams[made] = made;
  *stream = reinterpret_cast<cudaStream_t>(made);
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (stream != nullptr && IsCapturing(stream)) return Error(cudaErrorStreamCaptureUnsupported);
  if (stream != nullptr) Finish(reinterpret_cast<Stream*>(stream), UINT64_MAX);
  return Fault();
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  auto* const gone = reinterpret_cast<Stream*>(stream);
  Finish(gone, UINT64_MAX);
  Get().streams.erase(gone);
  delete gone;
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind /*kind*/, cudaStream_t handle) {
  auto* const stream = reinterpret_cast<Stream*>(handle);
  if (stream->recording != nullptr) return Error(cudaErrorStreamCaptureUnsupported);  // nobody here asks for it
  ++Get().num_copies;
  if (IsOnDevice(from) && !IsOnDevice(to)) Get().bytes_to_host += static_cast<int64_t>(bytes);
  stream->pending.push_back({++stream->last_number, to, from, bytes});
  if (Get().random() % 2 == 0) Finish(stream, UINT64_MAX);
  return Fault();
}

cudaError_t cudaMemcpyBatchAsync(void* const* to, const void* const* from, const size_t* sizes, size_t count,
                                 cudaMemcpyAttributes* attributes, size_t* first, size_t num_attributes,
                                 cudaStream_t handle) {
  if (num_attributes != 1 || *first != 0 || attributes->srcAccessOrder != cudaMemcpySrcAccessOrderStream) {
    return Error(cudaErrorInvalidValue);
  }
  std::vector<size_t> order(count);
  std::iota(order.begin(), order.end(), size_t{0});
  std::shuffle(order.begin(), order.end(), Get().random);
  for (const size_t i : order) {
    if (const cudaError_t error = cudaMemcpyAsync(to[i], from[i], sizes[i], cudaMemcpyDefault, handle)) return error;
  }
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode /*mode*/) {
  if (!GetMachine().can_capture) return Error(cudaErrorStreamCaptureUnsupported);
  reinterpret_cast<Stream*>(handle)->recording = std::make_unique<Graph>();
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* graph) {
  *graph = reinterpret_cast<cudaGraph_t>(reinterpret_cast<Stream*>(handle)->recording.release());
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long /*flags*/) {
  auto* const made = new GraphExec{*reinterpret_cast<Graph*>(graph), Get().device};
  Get().graphs.insert(made);
  *exec = reinterpret_cast<cudaGraphExec_t>(made);
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete reinterpret_cast<Graph*>(graph);
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t handle) {
  auto* const exec = reinterpret_cast<GraphExec*>(handle);
  Get().graphs.erase(exec);
  delete exec;
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t /*stream*/) {
  ++Get().num_graph_launches;
  for (const auto& launch : reinterpret_cast<GraphExec*>(exec)->graph.launches) launch();
  return Fault();
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned /*flags*/) {
  *event = reinterpret_cast<cudaEvent_t>(new Event);
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete reinterpret_cast<Event*>(event);
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream) {
  auto* const event = reinterpret_cast<Event*>(handle);
  event->stream = reinterpret_cast<Stream*>(stream);
  event->number = event->stream->last_number;
  return Fault();
}

cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
  const auto* const event = reinterpret_cast<Event*>(handle);
  if (event->stream != nullptr) Finish(event->stream, event->number);
  return Fault();
}

}  // extern "C"
