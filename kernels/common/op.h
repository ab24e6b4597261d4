// What every op's header stands on. An op is
//   struct <Op>Args            plain data; shapes on every tensor
//   absl::Status Check(args)   INVALID_ARGUMENT naming the tensor, its shape and what would be right
//   reference::<Op>(args)      slow and obviously right, the specification
//   cpu::<Op>(ctx, args)       threaded, vectorised, chosen by ctx.isa
//   cuda::<Op>(ctx, args)      enqueued on ctx.stream, in builds with CUDA
//   <Op>(ctx, args)            the one that ctx.device has
// Check() is for tests and debug runs; the model calls the bodies with arguments that it made itself.
#ifndef KERNELS_COMMON_OP_H_
#define KERNELS_COMMON_OP_H_

#include "base/status.h"
#include "tensor/exec_context.h"
#include "tensor/tensor_view.h"

namespace moed::kernels {

// Stops the program: the model asked for a body that this build lacks.
[[noreturn]] void NotInThisBuild(const char* body);

// Defines void Op(const ExecContext&, const OpArgs&), which calls the body of the context's device, and kHasCuda<Op>.
// An op that has no CUDA body yet uses the first form. (In builds without CUDA the bodies are those of
// kernels/common/cuda_bodies_none.cc: nobody gets a CUDA device there.)
#define MOED_DEFINE_CPU_OP_DISPATCH(Op)                                      \
  inline constexpr bool kHasCuda##Op = false;                                \
  inline void Op(const ExecContext& ctx, const Op##Args& args) {             \
    if (ctx.device.type != DeviceType::kCpu) NotInThisBuild(#Op " on CUDA"); \
    cpu::Op(ctx, args);                                                      \
  }
#define MOED_DEFINE_OP_DISPATCH(Op)                                       \
  inline constexpr bool kHasCuda##Op = true;                              \
  inline void Op(const ExecContext& ctx, const Op##Args& args) {          \
    if (ctx.device.type == DeviceType::kCuda) return cuda::Op(ctx, args); \
    cpu::Op(ctx, args);                                                   \
  }

}  // namespace moed::kernels

#endif  // KERNELS_COMMON_OP_H_
