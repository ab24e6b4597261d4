// One body a CPU instruction set, chosen at run time.
#ifndef KERNELS_COMMON_CPU_DISPATCH_H_
#define KERNELS_COMMON_CPU_DISPATCH_H_

#include "base/cpu_info.h"
#include "tensor/exec_context.h"

// In <op>.cc, inside namespace moed::kernels::cpu: defines void Op(ctx, args) over the bodies that <op>_cpu.cc defines
// in namespaces moed::kernels::generic, ::avx2 and ::avx512 (moed_cpu_bodies in cmake/MoedTargets.cmake compiles it
// once for each).
#if defined(__x86_64__)
#define MOED_DEFINE_CPU_DISPATCH(Op)                           \
  }                                                            \
  namespace generic {                                          \
  void Op(const ExecContext& ctx, const Op##Args& args);       \
  }                                                            \
  namespace avx2 {                                             \
  void Op(const ExecContext& ctx, const Op##Args& args);       \
  }                                                            \
  namespace avx512 {                                           \
  void Op(const ExecContext& ctx, const Op##Args& args);       \
  }                                                            \
  namespace cpu {                                              \
  void Op(const ExecContext& ctx, const Op##Args& args) {      \
    if (ctx.isa >= Isa::kAvx512) return avx512::Op(ctx, args); \
    if (ctx.isa >= Isa::kAvx2) return avx2::Op(ctx, args);     \
    generic::Op(ctx, args);                                    \
  }
#else
#define MOED_DEFINE_CPU_DISPATCH(Op)                     \
  }                                                      \
  namespace generic {                                    \
  void Op(const ExecContext& ctx, const Op##Args& args); \
  }                                                      \
  namespace cpu {                                        \
  void Op(const ExecContext& ctx, const Op##Args& args) { generic::Op(ctx, args); }
#endif

#endif  // KERNELS_COMMON_CPU_DISPATCH_H_
