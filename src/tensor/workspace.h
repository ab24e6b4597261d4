// Scratch memory for the activations of one step.
#ifndef MOED_TENSOR_WORKSPACE_H_
#define MOED_TENSOR_WORKSPACE_H_

#include <cstddef>
#include <initializer_list>
#include <vector>

#include "tensor/buffer.h"
#include "tensor/tensor_view.h"

namespace moed {

// A stack of memory: allocation is an addition, and what was taken inside a Scope is given back together at its end.
// It grows when a step needs more than any before and keeps what it has, so that steady serving allocates nothing.
// Not thread-safe: the thread that runs the step owns it. Contents are not initialised.
class Workspace {
 public:
  explicit Workspace(Device device = {}) : device_(device) {}

  // Aligned to 64 bytes. Stops the program when the machine has no memory left: the sizes of a step are bounded by the
  // token budget, and the engine tries the largest step at load.
  void* Allocate(size_t bytes);
  TensorView Tensor(std::initializer_list<int64_t> shape, DType dtype = DType::kF32);

  // Gives back at its end all that was allocated since its start.
  class Scope {
   public:
    explicit Scope(Workspace* workspace) : workspace_(workspace), chunk_(workspace->chunk_), used_(workspace->used_) {}
    ~Scope() {
      workspace_->chunk_ = chunk_;
      workspace_->used_ = used_;
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Workspace* workspace_;
    size_t chunk_, used_;
  };

  // Bytes held, in use or not.
  size_t capacity() const;

 private:
  Device device_;
  std::vector<Buffer> chunks_;
  size_t chunk_ = 0;  // the chunk being filled
  size_t used_ = 0;   // bytes used of it
};

}  // namespace moed

#endif  // MOED_TENSOR_WORKSPACE_H_
