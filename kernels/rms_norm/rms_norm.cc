#include "kernels/rms_norm/rms_norm.h"

#include "kernels/common/check.h"
#include "kernels/common/cpu_dispatch.h"

namespace moed::kernels {
namespace {

absl::Status CheckLikeX(std::string_view name, const TensorView& tensor, const TensorView& x) {
  return x.rank == 2 ? CheckTensor(name, tensor, {DType::kF32}, {x.dim(0), x.dim(1)})
                     : CheckTensor(name, tensor, {DType::kF32}, {x.dim(0), x.dim(1), x.dim(2)});
}

}  // namespace

absl::Status Check(const RmsNormArgs& args) {
  if (args.x.rank != 2 && args.x.rank != 3) {
    return InvalidArgument("x is {}; it must be [num_tokens, hidden] or [num_tokens, heads, head_dim]",
                           args.x.ToString());
  }
  MOED_RETURN_IF_ERROR(CheckLikeX("x", args.x, args.x));
  MOED_RETURN_IF_ERROR(CheckLikeX("out", args.out, args.x));
  if (!args.residual.empty()) MOED_RETURN_IF_ERROR(CheckLikeX("residual", args.residual, args.x));
  MOED_RETURN_IF_ERROR(CheckTensor("weight", args.weight, {DType::kF32}, {args.x.dim(args.x.rank - 1)}));
  if (!(args.eps >= 0.0f)) return InvalidArgument("eps is {}; it must not be negative", args.eps);
  return absl::OkStatus();
}

namespace cpu {
MOED_DEFINE_CPU_DISPATCH(RmsNorm)
}  // namespace cpu

}  // namespace moed::kernels
