// Dense product with a packed weight matrix: out = x * weight^T (+ bias).
#ifndef KERNELS_GEMM_GEMM_H_
#define KERNELS_GEMM_GEMM_H_

#include "kernels/common/op.h"
#include "kernels/gemm/packed_weight.h"

namespace moed::kernels {

struct GemmArgs {
  TensorView x;             // f32 [m, k], rows may be strided
  PackedWeight weight;      // [n, k]
  TensorView bias;          // optional f32 [n]
  bool accumulate = false;  // out += instead of out =
  // An element's sum over k runs in one fixed order: it does not depend on m.
  TensorView out;  // f32 [m, n], rows may be strided
};

absl::Status Check(const GemmArgs& args);

namespace reference {
void Gemm(const GemmArgs& args);
}
namespace cpu {
void Gemm(const ExecContext& ctx, const GemmArgs& args);
}
namespace cuda {
void Gemm(const ExecContext& ctx, const GemmArgs& args);
}
MOED_DEFINE_CPU_OP_DISPATCH(Gemm)

}  // namespace moed::kernels

#endif  // KERNELS_GEMM_GEMM_H_
