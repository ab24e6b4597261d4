#include "kernels/layer_norm/layer_norm.h"

#include "kernels/common/check.h"
#include "kernels/common/cpu_dispatch.h"

namespace moed::kernels {

absl::Status Check(const LayerNormArgs& args) {
  MOED_RETURN_IF_ERROR(CheckTensor("x", args.x, {DType::kF32}, {kAnySize, kAnySize}));
  const int64_t num_tokens = args.x.dim(0), hidden = args.x.dim(1);
  MOED_RETURN_IF_ERROR(CheckTensor("weight", args.weight, {DType::kF32}, {hidden}));
  MOED_RETURN_IF_ERROR(CheckTensor("bias", args.bias, {DType::kF32}, {hidden}));
  if (!args.residual.empty()) {
    MOED_RETURN_IF_ERROR(CheckTensor("residual", args.residual, {DType::kF32}, {num_tokens, hidden}));
  }
  if (!(args.eps >= 0.0f)) return InvalidArgument("eps is {}; it must not be negative", args.eps);
  return CheckTensor("out", args.out, {DType::kF32}, {num_tokens, hidden});
}

namespace cpu {
MOED_DEFINE_CPU_DISPATCH(LayerNorm)
}  // namespace cpu

}  // namespace moed::kernels
