// Kernels recorded once, to be enqueued in one call.
#ifndef MOED_TENSOR_CUDA_GRAPH_H_
#define MOED_TENSOR_CUDA_GRAPH_H_

#include <utility>

#include "base/status.h"
#include "tensor/cuda_stream.h"

namespace moed {

// A step's hundreds of launches cost the host more time than a GPU takes to run them; a graph of them costs one. The
// memory that the kernels were given must be there at each launch.
class CudaGraph {
 public:
  // From here to EndCapture nothing runs: kernels for `stream` are recorded instead, with their arguments as they are
  // now. Copies cannot be, nor may memory be allocated. The error is that there can be no recording: the stream stays
  // as it was.
  static absl::Status BeginCapture(CudaStream* stream);
  // What was recorded. The error is that of any of its parts; the stream is open again in any case.
  static absl::StatusOr<CudaGraph> EndCapture(CudaStream* stream);

  ~CudaGraph();
  CudaGraph(CudaGraph&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  CudaGraph& operator=(CudaGraph&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }

  // Does nothing where `stream` is closed.
  void Launch(CudaStream* stream) const;

 private:
  explicit CudaGraph(void* handle) : handle_(handle) {}
  void* handle_;  // a cudaGraphExec_t
};

}  // namespace moed

#endif  // MOED_TENSOR_CUDA_GRAPH_H_
