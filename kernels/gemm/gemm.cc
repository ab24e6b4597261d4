#include "kernels/gemm/gemm.h"

#include "kernels/common/check.h"
#include "kernels/common/cpu_dispatch.h"

namespace moed::kernels {

absl::Status Check(const GemmArgs& args) {
  MOED_RETURN_IF_ERROR(CheckTensor("x", args.x, {DType::kF32}, {kAnySize, kAnySize}));
  MOED_RETURN_IF_ERROR(CheckPackedWeight("weight", args.weight, args.weight.n, args.x.dim(1)));
  MOED_RETURN_IF_ERROR(CheckTensor("out", args.out, {DType::kF32}, {args.x.dim(0), args.weight.n}));
  if (!args.bias.empty()) MOED_RETURN_IF_ERROR(CheckTensor("bias", args.bias, {DType::kF32}, {args.weight.n}));
  return absl::OkStatus();
}

namespace cpu {
MOED_DEFINE_CPU_DISPATCH(Gemm)
}  // namespace cpu

}  // namespace moed::kernels
