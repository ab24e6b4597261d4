// The machine that runs a kernel on the CPU, thread for thread: every CUDA thread is a fiber with a stack of its own,
// and a block's threads take turns whenever one waits for others. README.md tells what that finds and what it does not.
//
// Standard headers come before CUDA's, whose words for storage are redefined behind them.
#ifndef TESTS_SUPPORT_SIMT_SCHEDULER_H_
#define TESTS_SUPPORT_SIMT_SCHEDULER_H_

#ifdef __CUDACC__
#error "the shim is for the host compiler"
#endif

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

// clang-format off
#include <cuda_runtime_api.h>
#include <vector_functions.h>
#include <vector_types.h>
// clang-format on

// Built-in variables. Real variables, set at each switch: a fiber never moves between operating system threads.
inline thread_local constinit uint3 threadIdx{}, blockIdx{};
inline thread_local constinit dim3 blockDim{1, 1, 1}, gridDim{1, 1, 1};
constexpr int warpSize = 32;

namespace moed::simt {

// Set by the test before a launch.
struct Options {
  // The order in which threads that may run do so, and blocks of a grid: 0 in order, 1 in reverse, else random.
  uint64_t seed = 0;
  // Operating system threads; a block stays on one.
  int num_workers = 1;
  // A thread that returns before others reach __syncthreads, which hardware tolerates and which is mostly a mistake.
  bool allow_exit_before_barrier = false;
  // The same for a lane that returned and is named in the mask of a warp's operation.
  bool allow_exited_lane_in_mask = false;
  size_t max_dynamic_shared_bytes = 227 * 1024;  // sm_90
};
Options& GetOptions();

// What went wrong in the launches since the last call, empty when nothing did. After an error later launches do
// nothing, as on a device.
std::string TakeError();

// Where in the kernel a thread stands, for messages.
struct Place {
  const char* operation = "";
  const char* file = "";
  int line = 0;
};

// Runs call(arguments) in every thread of the grid.
void LaunchGrid(const char* kernel, dim3 grid, dim3 block, size_t dynamic_shared_bytes, void (*call)(void*),
                void* arguments);

// ------------------------------------------------------------------------- called by the threads of a running kernel

// Index of the calling thread's lane in its warp.
int Lane();
// A random number of the block's generator.
uint64_t RandomBits();
// Ends the launch with an error that names the operation and the calling thread, which never goes on: so the message
// is no string that somebody would have to free.
[[noreturn]] void Fail(const char* message, const Place& place);

// Waits for all threads of the block; returns how many came with a predicate that holds.
int Barrier(bool predicate, const Place& place);

// Waits for the lanes of `mask`; the last to arrive runs combine(mask of those who came, their `data` by lane), which
// may read and write what each lane's pointer leads to.
using Combine = void (*)(unsigned arrived, void** data);
void WarpCollective(unsigned mask, void* data, Combine combine, const Place& place);
// The address that stands for the calling thread's warp in the race detector's eyes.
void* WarpIdentity();

// Another thread may run here: around atomics, where order matters most.
void MaybeYield();

// Memory of the block for the declaration at `site`: fresh and poisoned with NaN patterns for every block, exactly as
// large as declared.
void* StaticShared(const void* site, size_t bytes, size_t alignment);
void* DynamicShared();

// A copy under way from global to shared memory (cp.async); `fill` zeros instead of reading `source`.
struct AsyncCopy {
  void* destination;
  const void* source;
  size_t bytes;
  bool fill;
  bool done;

  void Perform();  // unless it is done
};
// The calling thread's groups of copies; the last is still open.
std::vector<std::vector<AsyncCopy>>& AsyncCopyGroups();
// Tells that the calling thread has started the copy, and that it has waited for it.
void NoteStarted(const AsyncCopy& copy);
void NoteWaitedFor(const AsyncCopy& copy);
// What the calling thread has waited for becomes visible to wgmma (fence.proxy.async).
void FenceAsyncCopies();
// Whether a copy to the quad of the dynamic shared memory was started and not made visible to wgmma.
bool IsUnfenced(const void* quad);

// A product under way on the tensor cores (wgmma), as far as a warp has it: what its lanes have of both sides.
struct AsyncProduct {
  const unsigned* a[32];
  const void* b;
  int distance;  // between blocks of columns, of a b by rows
  void* d[32];
  bool accumulate;
  Place place;
  void (*perform)(const AsyncProduct& product);
};
struct AsyncProducts {
  std::vector<std::vector<AsyncProduct>> groups{1};  // the last is still open
  bool is_fenced = false;                            // since the last group

  void PerformAll();
};
// Those of the calling thread's warp.
AsyncProducts& WarpProducts();

}  // namespace moed::simt

#endif  // TESTS_SUPPORT_SIMT_SCHEDULER_H_
