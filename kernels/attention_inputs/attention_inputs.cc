#include "kernels/attention_inputs/attention_inputs.h"

#include "kernels/common/check.h"

namespace moed::kernels {

absl::Status Check(const AttentionInputsArgs& args) {
  MOED_RETURN_IF_ERROR(CheckTensor("k_pages", args.k_pages, {DType::kF32, DType::kBF16, DType::kF16, DType::kI8},
                                   {kAnySize, kAnySize, kAnySize, kAnySize}));
  MOED_RETURN_IF_ERROR(CheckTensor("v_pages", args.v_pages, {args.k_pages.dtype},
                                   {args.k_pages.dim(0), args.k_pages.dim(1), args.k_pages.dim(2), kAnySize}));
  const int64_t num_kv_heads = args.k_pages.dim(1), head_dim = args.k_pages.dim(3);
  MOED_RETURN_IF_ERROR(CheckTensor("q", args.q, {DType::kF32}, {kAnySize, kAnySize}));
  if (head_dim == 0 || args.q.dim(1) % head_dim != 0) {
    return InvalidArgument("q is {}; its rows must be heads of {}", args.q.ToString(), head_dim);
  }
  MOED_RETURN_IF_ERROR(CheckTensor("k", args.k, {DType::kF32}, {args.q.dim(0), num_kv_heads * head_dim}));
  MOED_RETURN_IF_ERROR(CheckTensor("v", args.v, {DType::kF32}, {args.q.dim(0), num_kv_heads * args.v_pages.dim(3)}));
  if (args.q_norm.empty() != args.k_norm.empty()) return InvalidArgument("q_norm and k_norm go together");
  if (!args.q_norm.empty()) {
    MOED_RETURN_IF_ERROR(Check(args.Norm(args.q, args.q_norm)));
    MOED_RETURN_IF_ERROR(Check(args.Norm(args.k, args.k_norm)));
  }
  MOED_RETURN_IF_ERROR(Check(args.Rotation()));
  return Check(args.Write());
}

namespace reference {

void AttentionInputs(const AttentionInputsArgs& args) {
  ForEachPart(
      args, [](const RmsNormArgs& part) { reference::RmsNorm(part); },
      [](const RopeArgs& part) { reference::Rope(part); }, [](const KvWriteArgs& part) { reference::KvWrite(part); });
}

}  // namespace reference

namespace cpu {

void AttentionInputs(const ExecContext& ctx, const AttentionInputsArgs& args) {
  ForEachPart(
      args, [&](const RmsNormArgs& part) { cpu::RmsNorm(ctx, part); },
      [&](const RopeArgs& part) { cpu::Rope(ctx, part); }, [&](const KvWriteArgs& part) { cpu::KvWrite(ctx, part); });
}

}  // namespace cpu
}  // namespace moed::kernels
