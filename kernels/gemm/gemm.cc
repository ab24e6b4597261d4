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

absl::Status Check(const BatchedGemmArgs& args) {
  MOED_RETURN_IF_ERROR(CheckTensor("x", args.x, {DType::kF32}, {kAnySize, kAnySize, kAnySize}));
  const int64_t heads = args.x.dim(1);
  if (heads == 0) return CheckTensor("out", args.out, {DType::kF32}, {args.x.dim(0), 0, kAnySize});
  if (args.weights == nullptr) return InvalidArgument("weights are missing; {} heads need one each", heads);
  for (int64_t head = 0; head < heads; ++head) {
    MOED_RETURN_IF_ERROR(
        CheckPackedWeight(fmt::format("weights[{}]", head), args.weights[head], args.weights[0].n, args.x.dim(2)));
    if (args.weights[head].activations != args.weights[0].activations) {
      return InvalidArgument("weights[{}] takes activations rounded to {}; it must be {} like the first", head,
                             ActivationRoundingName(args.weights[head].activations),
                             ActivationRoundingName(args.weights[0].activations));
    }
    if (args.weights[head].format != args.weights[0].format) {
      return InvalidArgument("weights[{}] is packed as {}; it must be {} like the first", head,
                             args.weights[head].format.ToString(), args.weights[0].format.ToString());
    }
  }
  return CheckTensor("out", args.out, {DType::kF32}, {args.x.dim(0), heads, args.weights[0].n});
}

namespace cpu {
MOED_DEFINE_CPU_PRODUCT_DISPATCH(Gemm)
MOED_DEFINE_CPU_PRODUCT_DISPATCH(BatchedGemm)
}  // namespace cpu

}  // namespace moed::kernels
