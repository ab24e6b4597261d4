#include "tests/support/simt/scheduler.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <boost/context/detail/fcontext.hpp>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

#include "tests/support/simt/sanitizers.h"

namespace moed::simt {
namespace {

namespace context = boost::context::detail;

constexpr size_t kStackBytes = size_t{256} << 10;
constexpr size_t kGuardBytes = 4096;
constexpr int kFillByte = 0xff;  // NaN and -1: a read before a write shows

enum class State : uint8_t { kReady, kInWarpOperation, kAtBarrier, kDone };

// One CUDA thread.
struct Thread {
  context::fcontext_t fiber = nullptr;
  char* memory = nullptr;  // the stack with its guard page
  SanitizerStack stack;
  State state = State::kReady;
  uint3 index3{};
  int index = 0, lane = 0, warp = 0;
  bool predicate = false;
  Place place;
  std::vector<std::vector<AsyncCopy>> copies;
  std::vector<const void*> waited_for;  // destinations of copies that wgmma need not see yet
};

// Lanes that wait for each other.
struct Gathering {
  unsigned mask, arrived;
  const char* operation;
  Combine combine;
  void* data[32];
};

struct Warp {
  unsigned alive = 0;
  std::vector<Gathering> gatherings;
  AsyncProducts products;
};

// xorshift64: the same order of threads for the same seed on every machine.
class Generator {
 public:
  explicit Generator(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 0x1234567) { (*this)(), (*this)(); }
  uint64_t operator()() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_;
  }

 private:
  uint64_t state_;
};

// Runs one block after another on one operating system thread.
class BlockRunner {
 public:
  ~BlockRunner() {
    for (const auto& thread : threads_) {
      if (thread->memory != nullptr) munmap(thread->memory, kStackBytes);
    }
  }

  // Returns what went wrong.
  std::string Run(void (*call)(void*), void* arguments, size_t dynamic_shared_bytes, uint64_t seed);

  // Called by the running thread.
  Thread& current() { return *current_; }
  Warp& warp() { return warps_[current_->warp]; }
  Generator& generator() { return generator_; }
  void* dynamic_shared() { return dynamic_shared_; }
  // Whether the quad at `address` was written and not made visible to wgmma; of no interest outside the dynamic memory.
  bool& Unfenced(const void* address) {
    const size_t quad = (static_cast<const char*>(address) - static_cast<const char*>(dynamic_shared_)) / 16;
    return quad < num_quads_ ? unfenced_[quad] : ignored_;
  }
  [[noreturn]] void Fail(const char* message, const Place& place);
  int Barrier(bool predicate, const Place& place);
  void Gather(unsigned mask, void* data, Combine combine, const Place& place);
  void Yield();
  void* StaticShared(const void* site, size_t bytes, size_t alignment);
  // For the race detector: the start of a block, its end, and barriers of even and odd number.
  char sync_start, sync_end, sync_barrier[2];
  int num_barriers = 0;

 private:
  static void FiberMain(context::transfer_t transfer);

  void Prepare(size_t dynamic_shared_bytes, uint64_t seed);
  void PrepareThread(int index);
  void Resume(Thread* thread);
  void SwitchToScheduler();
  void Wake(Thread* thread) {
    thread->state = State::kReady;
    ready_.push_back(thread->index);
  }
  Thread* TakeReady();
  // All wait: lets a complete barrier go, or says why nobody can go on.
  void ReleaseBarrier();
  void LeaveWarp();
  void Complete(size_t gathering, Warp* warp, const Thread* last);
  void Release();

  std::vector<std::unique_ptr<Thread>> threads_;
  std::vector<int> ready_;
  std::vector<Warp> warps_;
  std::map<const void*, void*> shared_;
  void* dynamic_shared_ = nullptr;
  size_t num_quads_ = 0;
  std::unique_ptr<bool[]> unfenced_;
  bool ignored_ = false;
  int num_threads_ = 0, num_done_ = 0, num_at_barrier_ = 0, barrier_count_ = 0;
  Generator generator_{0};
  std::string error_;
  void (*call_)(void*) = nullptr;
  void* arguments_ = nullptr;
  Thread* current_ = nullptr;
  context::fcontext_t scheduler_ = nullptr;
  SanitizerStack scheduler_stack_;
};

thread_local BlockRunner* runner = nullptr;

// ------------------------------------------------------------------------------------------------ switching fibers

void BlockRunner::SwitchToScheduler() {
  Thread* self = current_;
  BeforeSwitch(&self->stack, scheduler_stack_);
  const context::transfer_t transfer = context::jump_fcontext(scheduler_, nullptr);
  scheduler_ = transfer.fctx;
  AfterSwitch(self->stack, &scheduler_stack_);
}

void BlockRunner::Resume(Thread* thread) {
  current_ = thread;
  threadIdx = thread->index3;
  const context::fcontext_t fiber = thread->fiber;
  BeforeSwitch(&scheduler_stack_, thread->stack);
  const context::transfer_t transfer = context::jump_fcontext(fiber, nullptr);
  thread->fiber = transfer.fctx;
  AfterSwitch(scheduler_stack_, nullptr);
}

void BlockRunner::FiberMain(context::transfer_t transfer) {
  BlockRunner* self = runner;
  {
    const HideFromRaceDetector hide;
    self->scheduler_ = transfer.fctx;
    AfterSwitch(SanitizerStack(), &self->scheduler_stack_);
  }
  for (;;) {  // the fiber serves block after block
    RaceDetectorAcquire(&self->sync_start);
    self->call_(self->arguments_);
    RaceDetectorRelease(&self->sync_end);
    const HideFromRaceDetector hide;
    Thread& thread = self->current();
    thread.state = State::kDone;
    thread.place.operation = "exit";
    ++self->num_done_;
    self->LeaveWarp();
    self->SwitchToScheduler();
  }
}

// ------------------------------------------------------------------------------------------------------- one block

void BlockRunner::PrepareThread(int index) {
  if (static_cast<int>(threads_.size()) <= index) threads_.push_back(std::make_unique<Thread>());
  Thread& thread = *threads_[index];
  thread.index = index;
  thread.lane = index % 32;
  thread.warp = index / 32;
  const auto x = static_cast<unsigned>(index);
  thread.index3 = uint3{x % blockDim.x, x / blockDim.x % blockDim.y, x / (blockDim.x * blockDim.y)};
  thread.copies.assign(1, {});
  thread.waited_for.clear();
  thread.place = Place{};
  if (thread.memory == nullptr) {
    void* memory =
        mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, kGuardBytes, PROT_NONE) != 0) std::abort();
    thread.memory = static_cast<char*>(memory);
    thread.stack.bottom = thread.memory + kGuardBytes;
    thread.stack.size = kStackBytes - kGuardBytes;
  }
  if (thread.fiber == nullptr) {
    PrepareStack(&thread.stack);
    thread.fiber = context::make_fcontext(thread.memory + kStackBytes, kStackBytes - kGuardBytes, FiberMain);
  }
  warps_[thread.warp].alive |= 1u << thread.lane;
  Wake(&thread);
}

void BlockRunner::Prepare(size_t dynamic_shared_bytes, uint64_t seed) {
  runner = this;
  num_threads_ = static_cast<int>(blockDim.x * blockDim.y * blockDim.z);
  num_done_ = num_at_barrier_ = 0;
  generator_ = Generator(seed);
  error_.clear();
  ready_.clear();
  warps_.assign((num_threads_ + 31) / 32, {});
  // Of the exact size, so that AddressSanitizer checks its end.
  if (posix_memalign(&dynamic_shared_, 128, std::max<size_t>(1, dynamic_shared_bytes)) != 0) std::abort();
  std::memset(dynamic_shared_, kFillByte, dynamic_shared_bytes);
  num_quads_ = dynamic_shared_bytes / 16;
  unfenced_ = std::make_unique<bool[]>(num_quads_);
  for (int i = 0; i < num_threads_; ++i) PrepareThread(i);
  if (GetOptions().seed == 0) std::reverse(ready_.begin(), ready_.end());
#if defined(MOED_SIMT_TSAN)
  scheduler_stack_.fiber = __tsan_get_current_fiber();
#endif
  RaceDetectorRelease(&sync_start);
}

Thread* BlockRunner::TakeReady() {
  const size_t i = GetOptions().seed < 2 ? ready_.size() - 1 : generator_() % ready_.size();
  Thread* thread = threads_[ready_[i]].get();
  ready_[i] = ready_.back();
  ready_.pop_back();
  return thread;
}

std::string BlockRunner::Run(void (*call)(void*), void* arguments, size_t dynamic_shared_bytes, uint64_t seed) {
  const HideFromRaceDetector hide;
  call_ = call;
  arguments_ = arguments;
  Prepare(dynamic_shared_bytes, seed);
  while (error_.empty() && num_done_ < num_threads_) {
    if (ready_.empty()) {
      ReleaseBarrier();
    } else {
      Resume(TakeReady());
    }
  }
  Release();
  return error_;
}

void BlockRunner::Release() {
  for (int i = 0; i < num_threads_ && error_.empty(); ++i) {
    for (const auto& group : threads_[i]->copies) {
      for (const AsyncCopy& copy : group) {
        if (!copy.done) error_ = "a thread exits with a cp.async that it has not waited for";
      }
    }
  }
  for (const Warp& warp : warps_) {
    for (const auto& group : warp.products.groups) {
      if (!group.empty() && error_.empty()) error_ = "a warp exits with a wgmma that it has not waited for";
    }
  }
  // Fibers that stand somewhere inside the kernel are of no more use.
  if (!error_.empty()) {
    for (const auto& thread : threads_) thread->fiber = nullptr;
  }
  std::free(dynamic_shared_);
  for (const auto& [site, memory] : shared_) std::free(memory);
  shared_.clear();
}

// -------------------------------------------------------------------------------------------------- block barriers

int BlockRunner::Barrier(bool predicate, const Place& place) {
  char* const sync = &sync_barrier[num_barriers % 2];
  RaceDetectorRelease(sync);
  int count;
  {
    const HideFromRaceDetector hide;
    current_->state = State::kAtBarrier;
    current_->predicate = predicate;
    current_->place = place;
    ++num_at_barrier_;
    SwitchToScheduler();
    count = barrier_count_;
  }
  RaceDetectorAcquire(sync);
  return count;
}

void BlockRunner::ReleaseBarrier() {
  std::map<std::string, int> places;
  bool same_place = true;
  const Thread* first = nullptr;
  int count = 0;
  for (int i = 0; i < num_threads_; ++i) {
    const Thread& thread = *threads_[i];
    const Place& place = thread.place;
    const bool done = thread.state == State::kDone;
    ++places[std::string(place.operation) +
             (done ? "" : std::string(" ") + place.file + ":" + std::to_string(place.line))];
    if (thread.state != State::kAtBarrier) continue;
    if (first == nullptr) first = &thread;
    same_place = same_place && place.line == first->place.line && std::strcmp(place.file, first->place.file) == 0;
    count += thread.predicate ? 1 : 0;
  }
  const bool complete = num_at_barrier_ + num_done_ == num_threads_;
  if (complete && same_place && (num_done_ == 0 || GetOptions().allow_exit_before_barrier)) {
    barrier_count_ = count;
    num_at_barrier_ = 0;
    ++num_barriers;
    for (int i = 0; i < num_threads_; ++i) {
      if (threads_[i]->state == State::kAtBarrier) Wake(threads_[i].get());
    }
    if (GetOptions().seed == 0) std::reverse(ready_.begin(), ready_.end());
    return;
  }
  error_ = !complete ? "deadlock:" : same_place ? "barrier after some threads exited:" : "divergent barrier:";
  for (const auto& [place, threads] : places) error_ += " " + std::to_string(threads) + " x {" + place + "}";
}

// ------------------------------------------------------------------------------------------------- warp operations

void BlockRunner::Gather(unsigned mask, void* data, Combine combine, const Place& place) {
  const HideFromRaceDetector hide;
  Thread& self = *current_;
  Warp& own = warps_[self.warp];
  if ((mask >> self.lane & 1) == 0) Fail("the mask does not name the calling lane", place);
  if ((mask & ~own.alive) != 0 && !GetOptions().allow_exited_lane_in_mask) {
    Fail("the mask names lanes that have exited or never were", place);
  }
  size_t i = 0;
  while (i < own.gatherings.size() &&
         (own.gatherings[i].mask != mask || std::strcmp(own.gatherings[i].operation, place.operation) != 0)) {
    ++i;
  }
  if (i == own.gatherings.size()) own.gatherings.push_back({mask, 0, place.operation, combine, {}});
  Gathering& gathering = own.gatherings[i];
  gathering.data[self.lane] = data;
  gathering.arrived |= 1u << self.lane;
  self.place = place;
  if (gathering.arrived != (mask & own.alive)) {
    self.state = State::kInWarpOperation;
    SwitchToScheduler();
    return;
  }
  Complete(i, &own, &self);
  // The last to come need not be the first to go on.
  if (GetOptions().seed >= 2 && generator_() % 2 == 0) {
    Wake(&self);
    SwitchToScheduler();
  }
}

void BlockRunner::Complete(size_t gathering, Warp* warp, const Thread* last) {
  Gathering complete = warp->gatherings[gathering];
  warp->gatherings.erase(warp->gatherings.begin() + static_cast<std::ptrdiff_t>(gathering));
  complete.combine(complete.arrived, complete.data);
  const int first_thread = last->warp * 32;
  for (int lane = 0; lane < 32; ++lane) {
    if ((complete.arrived >> lane & 1) != 0 && lane != last->lane) Wake(threads_[first_thread + lane].get());
  }
}

// The current thread exits; those who wait for it must not wait for ever.
void BlockRunner::LeaveWarp() {
  Warp& own = warps_[current_->warp];
  own.alive &= ~(1u << current_->lane);
  for (size_t i = 0; i < own.gatherings.size();) {
    const Gathering& gathering = own.gatherings[i];
    if ((gathering.mask >> current_->lane & 1) != 0 && !GetOptions().allow_exited_lane_in_mask) {
      Place place = current_->place;
      place.operation = gathering.operation;
      Fail("others wait for this lane, which exits", place);
    }
    if (gathering.arrived == (gathering.mask & own.alive)) {
      Complete(i, &own, current_);
    } else {
      ++i;
    }
  }
}

// --------------------------------------------------------------------------------------------------- what remains

void BlockRunner::Fail(const char* message, const Place& place) {
  error_ = std::string(place.operation) + ": " + message + " [block " + std::to_string(blockIdx.x) + "," +
           std::to_string(blockIdx.y) + "," + std::to_string(blockIdx.z) + ", thread " +
           std::to_string(current_->index) + ", lane " + std::to_string(current_->lane) + ", " + place.file + ":" +
           std::to_string(place.line) + "]";
  current_->state = State::kDone;
  SwitchToScheduler();
  std::abort();  // nobody comes back to this fiber
}

void BlockRunner::Yield() {
  const HideFromRaceDetector hide;
  Wake(current_);
  SwitchToScheduler();
}

void* BlockRunner::StaticShared(const void* site, size_t bytes, size_t alignment) {
  const HideFromRaceDetector hide;
  void*& memory = shared_[site];
  if (memory == nullptr) {
    if (posix_memalign(&memory, std::max<size_t>(16, alignment), bytes) != 0) std::abort();
    std::memset(memory, kFillByte, bytes);
  }
  return memory;
}

// --------------------------------------------------------------------------------------------------------- launches

std::mutex error_mutex;
std::string launch_error;

void RecordError(const std::string& error) {
  const std::lock_guard<std::mutex> lock(error_mutex);
  if (launch_error.empty()) launch_error = error;
}

bool HasError() {
  const std::lock_guard<std::mutex> lock(error_mutex);
  return !launch_error.empty();
}

const char* WhatIsWrong(dim3 grid, dim3 block, size_t dynamic_shared_bytes) {
  const unsigned threads = block.x * block.y * block.z;
  if (threads < 1 || threads > 1024 || block.z > 64) return "a block has 1 to 1024 threads";
  if (threads % 32 != 0) return "a block is made of whole warps";
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return "a grid has at least one block";
  if (grid.y > 65535 || grid.z > 65535) return "a grid has at most 65535 blocks in y and z";
  if (dynamic_shared_bytes > GetOptions().max_dynamic_shared_bytes) return "too much dynamic shared memory";
  return nullptr;
}

std::vector<size_t> OrderOfBlocks(size_t count, uint64_t seed) {
  std::vector<size_t> order(count);
  for (size_t i = 0; i < count; ++i) order[i] = seed == 1 ? count - 1 - i : i;
  if (seed > 1) {
    Generator generator(seed);
    for (size_t i = count; i > 1; --i) std::swap(order[i - 1], order[generator() % i]);
  }
  return order;
}

}  // namespace

Options& GetOptions() {
  static Options options;
  return options;
}

std::string TakeError() {
  const std::lock_guard<std::mutex> lock(error_mutex);
  std::string error;
  error.swap(launch_error);
  return error;
}

void LaunchGrid(const char* kernel, dim3 grid, dim3 block, size_t dynamic_shared_bytes, void (*call)(void*),
                void* arguments) {
  if (HasError()) return;
  if (const char* wrong = WhatIsWrong(grid, block, dynamic_shared_bytes); wrong != nullptr) {
    return RecordError(std::string(kernel) + ": " + wrong);
  }
  const uint64_t seed = GetOptions().seed;
  const std::vector<size_t> order = OrderOfBlocks(size_t{grid.x} * grid.y * grid.z, seed);
  std::atomic<size_t> next{0};
  std::atomic<bool> stop{false};
  const auto work = [&] {
    thread_local BlockRunner own;
    blockDim = block;
    gridDim = grid;
    for (size_t i = next++; i < order.size() && !stop; i = next++) {
      const size_t b = order[i];
      {
        const HideFromRaceDetector hide;
        blockIdx = uint3{static_cast<unsigned>(b % grid.x), static_cast<unsigned>(b / grid.x % grid.y),
                         static_cast<unsigned>(b / grid.x / grid.y)};
      }
      const std::string error = own.Run(call, arguments, dynamic_shared_bytes, seed * 1000003 + b + 1);
      if (error.empty()) continue;
      RecordError(std::string(kernel) + ": " + error);
      stop = true;
    }
    RaceDetectorAcquire(&own.sync_end);  // only here: the blocks of a grid are not ordered among themselves
  };
  const int num_workers = std::max(1, GetOptions().num_workers);
  std::vector<std::thread> workers;
  for (int i = 1; i < num_workers; ++i) workers.emplace_back(work);
  work();
  for (std::thread& worker : workers) worker.join();
}

void AsyncCopy::Perform() {
  if (done) return;
  done = true;
  if (fill) {
    std::memset(destination, 0, bytes);
  } else {
    std::memcpy(destination, source, bytes);
  }
}

void NoteWaitedFor(const AsyncCopy& copy) {
  const HideFromRaceDetector hide;
  runner->current().waited_for.push_back(copy.destination);
}
void FenceAsyncCopies() {
  const HideFromRaceDetector hide;
  for (const void* address : runner->current().waited_for) runner->Unfenced(address) = false;
  runner->current().waited_for.clear();
}
bool IsUnfenced(const void* quad) { return runner->Unfenced(quad); }

void AsyncProducts::PerformAll() {
  for (auto& group : groups) {
    for (const AsyncProduct& product : group) product.perform(product);
    group.clear();
  }
}
AsyncProducts& WarpProducts() { return runner->warp().products; }

int Lane() { return runner->current().lane; }
uint64_t RandomBits() {
  const HideFromRaceDetector hide;
  return runner->generator()();
}
void Fail(const char* message, const Place& place) { runner->Fail(message, place); }
int Barrier(bool predicate, const Place& place) { return runner->Barrier(predicate, place); }
void WarpCollective(unsigned mask, void* data, Combine combine, const Place& place) {
  runner->Gather(mask, data, combine, place);
}
void* WarpIdentity() { return &runner->warp(); }
void MaybeYield() {
  if (GetOptions().seed >= 2 && RandomBits() % 8 == 0) runner->Yield();
}
void* StaticShared(const void* site, size_t bytes, size_t alignment) {
  return runner->StaticShared(site, bytes, alignment);
}
void* DynamicShared() { return runner->dynamic_shared(); }
std::vector<std::vector<AsyncCopy>>& AsyncCopyGroups() { return runner->current().copies; }
void NoteStarted(const AsyncCopy& copy) {
  const HideFromRaceDetector hide;
  runner->Unfenced(copy.destination) = true;
}

}  // namespace moed::simt
