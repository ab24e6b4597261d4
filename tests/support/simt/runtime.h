// A GPU's memory, streams and events on the host: the calls of the CUDA runtime that src/tensor/cuda_runtime.cc makes,
// for tests of what stands above the kernels.
//
// Device memory may be touched by kernels and copies alone: between them its pages are closed to everybody, and a host
// that looks there ends with a segmentation fault, as it would on a real machine. A page that nobody may touch lies
// behind each allocation. A copy happens at once or as late as the stream's order allows, at random, so that host
// memory that is written too soon or read too early shows as wrong results. A graph is the kernels that were launched
// while its stream was recorded, with the arguments that they had, and takes memory of the device as long as it lives.
#ifndef TESTS_SUPPORT_SIMT_RUNTIME_H_
#define TESTS_SUPPORT_SIMT_RUNTIME_H_

#include <cstddef>
#include <cstdint>
#include <functional>

namespace moed::simt {

// Set by the test.
struct Machine {
  int num_devices = 1;
  int driver_version = 13000;  // 0: there is no driver
  int compute_capability_major = 9;
  size_t memory_bytes = size_t{64} << 20;  // of each device
  int64_t allocations_until_failure = -1;  // this many succeed on the device, then all fail; below 0: no limit
  int64_t pinned_until_failure = -1;       // the same for pinned memory
  bool can_capture = true;                 // streams can be recorded as graphs
  bool has_fault = false;                  // a kernel has run wild: whoever waits for the device is told
};
Machine& GetMachine();

// Bytes on the devices that were not given back, and pinned bytes.
size_t DeviceBytesInUse();
size_t PinnedBytesInUse();
// Kernels run, graphs launched and copies made since the start of the program.
int64_t NumLaunches();
int64_t NumGraphLaunches();
int64_t NumCopies();
// Bytes of the copies from devices to the host since then.
int64_t BytesToHost();

// Opens device memory for what it lives; one at a time.
class DeviceMemoryAccess {
 public:
  DeviceMemoryAccess();
  ~DeviceMemoryAccess();
};

// Performs the copies that stand before a kernel in the stream, and counts the kernel.
void BeforeLaunch(void* stream);

// Whether kernels for the stream are recorded instead of run; then `launch` becomes a part of the graph.
bool IsCapturing(void* stream);
void Record(void* stream, std::function<void()> launch);

}  // namespace moed::simt

#endif  // TESTS_SUPPORT_SIMT_RUNTIME_H_
