// A queue of work for a GPU. No header of CUDA's is needed to use it.
#ifndef MOED_TENSOR_CUDA_STREAM_H_
#define MOED_TENSOR_CUDA_STREAM_H_

#include <cstddef>
#include <memory>
#include <span>

#include "base/status.h"
#include "tensor/tensor_view.h"

namespace moed {

// Kernels and copies run in the order in which they were enqueued, while the host goes on. Whatever fails closes the
// stream: nothing that follows is run, and Synchronize() hands out the first error and opens it again. So a step may be
// enqueued to its end without a look at what became of its parts. One thread at a time.
class CudaStream {
 public:
  // UNIMPLEMENTED in a build without CUDA; INTERNAL for what the driver says.
  static absl::StatusOr<std::unique_ptr<CudaStream>> Create(Device device);
  ~CudaStream();
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;

  Device device() const { return device_; }
  // A cudaStream_t.
  void* handle() const { return handle_; }
  // Whether the device has products of warpgroups (wgmma): compute capability 9.0 and no other.
  bool has_wgmma() const { return has_wgmma_; }

  // Whether what is enqueued now will run. Kernels are launched only into an open stream.
  bool is_open() const { return error_.ok() && !is_measuring_; }
  // Closes the stream; the first error counts.
  void Fail(absl::Status error) {
    if (error_.ok()) error_ = std::move(error);
  }
  // While this holds nothing runs at all: ops are called for what they allocate (Workspace::Measure).
  void SetMeasuring(bool measuring) { is_measuring_ = measuring; }
  bool is_measuring() const { return is_measuring_; }

  // Copies bytes between any two places on host and device. Host memory must be pinned (Buffer::AllocatePinned), and
  // neither be written nor, as the destination, be read before the stream has come past the copy.
  void Copy(void* to, const void* from, size_t bytes);

  // Many of these at once, in any order, none of which depends on another. They should leave the device's processors to
  // what runs there meanwhile.
  struct CopyPiece {
    void* to;
    const void* from;
    size_t bytes;
  };
  void CopyAll(std::span<const CopyPiece> pieces);

  // Waits until all is done. The error of what closed the stream since the last call: RESOURCE_EXHAUSTED for memory,
  // INTERNAL for a fault on the device, after which every step will fail.
  absl::Status Synchronize();

  // Makes the device that of the calling thread: before a thread enqueues for the first time.
  void MakeCurrent() const;

 private:
  CudaStream(Device device, void* handle, bool has_wgmma) : device_(device), handle_(handle), has_wgmma_(has_wgmma) {}

  Device device_;
  void* handle_;
  bool has_wgmma_;
  absl::Status error_;
  bool is_measuring_ = false;
};

// A place in a stream that the host can wait for.
class CudaEvent {
 public:
  static absl::StatusOr<CudaEvent> Create();
  ~CudaEvent();
  CudaEvent(CudaEvent&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  CudaEvent& operator=(CudaEvent&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }

  // Marks what is enqueued so far.
  void Record(CudaStream* stream);
  // Returns when what was marked is done; at once before the first Record.
  absl::Status Wait() const;

 private:
  explicit CudaEvent(void* handle) : handle_(handle) {}
  void* handle_;
};

}  // namespace moed

#endif  // MOED_TENSOR_CUDA_STREAM_H_
