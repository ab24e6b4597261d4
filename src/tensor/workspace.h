// Scratch memory for the activations of one step.
#ifndef MOED_TENSOR_WORKSPACE_H_
#define MOED_TENSOR_WORKSPACE_H_

#include <cstddef>
#include <initializer_list>
#include <vector>

#include "tensor/buffer.h"
#include "tensor/cuda_stream.h"
#include "tensor/tensor_view.h"

namespace moed {

// A stack of memory: allocation is an addition, and what was taken inside a Scope is given back together at its end.
// It grows when a step needs more than any before and keeps what it has, so that steady serving allocates nothing.
// On a GPU that is safe without waiting, for all that uses the memory follows each other in one stream.
// Not thread-safe: the thread that runs the step owns it. Contents are not initialised.
class Workspace {
 public:
  Workspace() = default;
  // On a GPU: memory for what is enqueued on `stream`, which outlives it.
  explicit Workspace(CudaStream* stream) : device_(stream->device()), stream_(stream) {}

  // Aligned to 64 bytes, on a GPU to 256. When the machine has no memory left: on the CPU the program stops (the sizes
  // of a step are bounded by the token budget); on a GPU the stream is closed with RESOURCE_EXHAUSTED, so that nobody
  // will use what is returned.
  void* Allocate(size_t bytes);
  TensorView Tensor(std::initializer_list<int64_t> shape, DType dtype = DType::kF32);

  // Makes room for `bytes` in one piece while nothing is allocated. RESOURCE_EXHAUSTED.
  absl::Status Reserve(size_t bytes);

  // The most that is allocated at a time while `body` runs ops on a GPU, none of which is launched.
  template <typename Body>
  size_t Measure(const Body& body) {
    stream_->SetMeasuring(true);
    peak_ = 0;
    const Scope scope(this);
    measured_ = 0;
    body();
    stream_->SetMeasuring(false);
    return peak_;
  }

  // Gives back at its end all that was allocated since its start.
  class Scope {
   public:
    explicit Scope(Workspace* workspace)
        : workspace_(workspace), chunk_(workspace->chunk_), used_(workspace->used_), measured_(workspace->measured_) {}
    ~Scope() {
      workspace_->chunk_ = chunk_;
      workspace_->used_ = used_;
      workspace_->measured_ = measured_;
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Workspace* workspace_;
    size_t chunk_, used_, measured_;
  };

  // Bytes held, in use or not.
  size_t capacity() const;

 private:
  absl::Status AddChunk(size_t bytes);

  Device device_;
  CudaStream* stream_ = nullptr;
  std::vector<Buffer> chunks_;
  size_t chunk_ = 0;     // the chunk being filled
  size_t used_ = 0;      // bytes used of it
  size_t measured_ = 0;  // bytes allocated while measuring
  size_t peak_ = 0;
};

}  // namespace moed

#endif  // MOED_TENSOR_WORKSPACE_H_
