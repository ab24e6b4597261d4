// What an op needs beside its arguments: where and with what to run.
#ifndef MOED_TENSOR_EXEC_CONTEXT_H_
#define MOED_TENSOR_EXEC_CONTEXT_H_

#include <optional>

#include "base/cpu_info.h"
#include "base/thread_pool.h"
#include "tensor/cuda_stream.h"
#include "tensor/tensor_view.h"
#include "tensor/workspace.h"

namespace moed {

// One thread at a time runs ops with a context. Pointers are borrowed and outlive it.
struct ExecContext {
  Device device;
  // CPU: the team that ops share, and the best instruction set that they may use (lower it to test the others).
  ThreadPool* threads = nullptr;
  Isa isa = BestIsa();
  // Scratch memory of the step.
  Workspace* workspace = nullptr;
  // CUDA: where ops are enqueued; they never wait for it.
  CudaStream* stream = nullptr;
  // CUDA: whether products of many rows run by warpgroups (set it to test either body). Unset: where the stream's
  // device has them, and where that pays.
  std::optional<bool> wgmma;
  // CUDA: whether a token's results must be the same to the bit whatever else is in the step. Products and attention
  // then take one body each for all sizes of batches, the one for few rows and the one for many. (The CPU's bodies are
  // always so.)
  bool batch_invariant = false;
};

}  // namespace moed

#endif  // MOED_TENSOR_EXEC_CONTEXT_H_
