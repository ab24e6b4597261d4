// One body a CPU instruction set, chosen at run time.
#ifndef KERNELS_COMMON_CPU_DISPATCH_H_
#define KERNELS_COMMON_CPU_DISPATCH_H_

#include "base/cpu_info.h"
#include "tensor/exec_context.h"

// In <op>.cc, inside namespace moed::kernels::cpu: defines void Op(ctx, args) over the bodies that <op>_cpu.cc defines
// in namespaces moed::kernels::generic, ::avx2 and ::avx512 (moed_cpu_bodies in cmake/MoedTargets.cmake compiles it
// once for each). MOED_DEFINE_CPU_BYTE_DOT_DISPATCH is for ops that gain by 8-bit dot products in some cases, those
// where `takes(args)`: there are bodies for MOED_BYTE_DOT_ISAS (cmake/MoedTargets.cmake).
// MOED_DEFINE_CPU_PRODUCT_DISPATCH is for ops that multiply weights, with bodies for all of MOED_PRODUCT_ISAS.
#define MOED_DECLARE_CPU_BODY(isa, Op)                   \
  namespace isa {                                        \
  void Op(const ExecContext& ctx, const Op##Args& args); \
  }
#if defined(__x86_64__)
#define MOED_DEFINE_CPU_DISPATCH(Op)                           \
  }                                                            \
  MOED_DECLARE_CPU_BODY(generic, Op)                           \
  MOED_DECLARE_CPU_BODY(avx2, Op)                              \
  MOED_DECLARE_CPU_BODY(avx512, Op)                            \
  namespace cpu {                                              \
  void Op(const ExecContext& ctx, const Op##Args& args) {      \
    if (ctx.isa >= Isa::kAvx512) return avx512::Op(ctx, args); \
    if (ctx.isa >= Isa::kAvx2) return avx2::Op(ctx, args);     \
    generic::Op(ctx, args);                                    \
  }
#define MOED_DEFINE_CPU_BYTE_DOT_DISPATCH(Op, takes)                            \
  }                                                                             \
  MOED_DECLARE_CPU_BODY(generic, Op)                                            \
  MOED_DECLARE_CPU_BODY(avx2, Op)                                               \
  MOED_DECLARE_CPU_BODY(avx_vnni, Op)                                           \
  MOED_DECLARE_CPU_BODY(avx512, Op)                                             \
  MOED_DECLARE_CPU_BODY(avx512_vnni, Op)                                        \
  namespace cpu {                                                               \
  void Op(const ExecContext& ctx, const Op##Args& args) {                       \
    const bool dots = takes(args);                                              \
    if (dots && ctx.isa >= Isa::kAvx512Vnni) return avx512_vnni::Op(ctx, args); \
    if (ctx.isa >= Isa::kAvx512) return avx512::Op(ctx, args);                  \
    if (dots && ctx.isa >= Isa::kAvxVnni) return avx_vnni::Op(ctx, args);       \
    if (ctx.isa >= Isa::kAvx2) return avx2::Op(ctx, args);                      \
    generic::Op(ctx, args);                                                     \
  }
#define MOED_DEFINE_CPU_PRODUCT_DISPATCH(Op)              \
  }                                                       \
  MOED_DECLARE_CPU_BODY(generic, Op)                      \
  MOED_DECLARE_CPU_BODY(avx2, Op)                         \
  MOED_DECLARE_CPU_BODY(avx_vnni, Op)                     \
  MOED_DECLARE_CPU_BODY(avx512, Op)                       \
  MOED_DECLARE_CPU_BODY(avx512_vnni, Op)                  \
  MOED_DECLARE_CPU_BODY(avx512_bf16, Op)                  \
  MOED_DECLARE_CPU_BODY(amx, Op)                          \
  namespace cpu {                                         \
  void Op(const ExecContext& ctx, const Op##Args& args) { \
    switch (ctx.isa) {                                    \
      case Isa::kGeneric:                                 \
        return generic::Op(ctx, args);                    \
      case Isa::kAvx2:                                    \
        return avx2::Op(ctx, args);                       \
      case Isa::kAvxVnni:                                 \
        return avx_vnni::Op(ctx, args);                   \
      case Isa::kAvx512:                                  \
        return avx512::Op(ctx, args);                     \
      case Isa::kAvx512Vnni:                              \
        return avx512_vnni::Op(ctx, args);                \
      case Isa::kAvx512Bf16:                              \
        return avx512_bf16::Op(ctx, args);                \
      case Isa::kAmx:                                     \
        return amx::Op(ctx, args);                        \
    }                                                     \
  }
#else
#define MOED_DEFINE_CPU_DISPATCH(Op) \
  }                                  \
  MOED_DECLARE_CPU_BODY(generic, Op) \
  namespace cpu {                    \
  void Op(const ExecContext& ctx, const Op##Args& args) { generic::Op(ctx, args); }
#define MOED_DEFINE_CPU_BYTE_DOT_DISPATCH(Op, takes) MOED_DEFINE_CPU_DISPATCH(Op)
#define MOED_DEFINE_CPU_PRODUCT_DISPATCH(Op) MOED_DEFINE_CPU_DISPATCH(Op)
#endif

#endif  // KERNELS_COMMON_CPU_DISPATCH_H_
