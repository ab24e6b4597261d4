#include "kernels/sampling/logit_row.h"

#include "kernels/common/check.h"
#include "kernels/common/cpu_dispatch.h"

namespace moed::kernels {

absl::Status Check(const RowMaximumArgs& args) {
  MOED_RETURN_IF_ERROR(CheckTensor("x", args.x, {DType::kF32}, {kAnySize}));
  if (args.x.dim(0) == 0) return InvalidArgument("x is {}; a row has elements", args.x.ToString());
  MOED_RETURN_IF_ERROR(CheckTensor("max", args.max, {DType::kF32}, {1}));
  MOED_RETURN_IF_ERROR(CheckTensor("index", args.index, {DType::kI32}, {1}));
  return CheckTensor("finite", args.finite, {DType::kI32}, {1});
}

absl::Status Check(const SoftmaxWeightsArgs& args) {
  MOED_RETURN_IF_ERROR(CheckTensor("x", args.x, {DType::kF32}, {kAnySize}));
  const int64_t n = args.x.dim(0), blocks = (n + SoftmaxWeightsArgs::kBlock - 1) / SoftmaxWeightsArgs::kBlock;
  MOED_RETURN_IF_ERROR(CheckTensor("weights", args.weights, {DType::kF32}, {n}));
  return CheckTensor("block_sums", args.block_sums, {DType::kF32}, {blocks});
}

namespace cpu {
MOED_DEFINE_CPU_DISPATCH(RowMaximum)
MOED_DEFINE_CPU_DISPATCH(SoftmaxWeights)
}  // namespace cpu

}  // namespace moed::kernels
