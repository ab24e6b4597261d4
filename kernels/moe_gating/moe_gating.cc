#include "kernels/moe_gating/moe_gating.h"

#include "kernels/common/check.h"
#include "kernels/common/cpu_dispatch.h"

namespace moed::kernels {

absl::Status Check(const MoeGatingArgs& args) {
  MOED_RETURN_IF_ERROR(CheckTensor("logits", args.logits, {DType::kF32}, {kAnySize, kAnySize}));
  const int64_t num_tokens = args.logits.dim(0), num_experts = args.logits.dim(1);
  if (args.top_k < 1 || args.top_k > num_experts) {
    return InvalidArgument("top_k is {}; it must be 1 to the number of experts, {}", args.top_k, num_experts);
  }
  if (args.num_groups < 1 || num_experts % args.num_groups != 0) {
    return InvalidArgument("num_groups is {}; it must divide the number of experts, {}", args.num_groups, num_experts);
  }
  if (args.top_groups < 1 || args.top_groups > args.num_groups) {
    return InvalidArgument("top_groups is {}; it must be 1 to num_groups, {}", args.top_groups, args.num_groups);
  }
  const int64_t allowed = num_experts / args.num_groups * args.top_groups;
  if (args.top_k > allowed) {
    return InvalidArgument("top_k is {}, but {} of {} groups hold only {} experts", args.top_k, args.top_groups,
                           args.num_groups, allowed);
  }
  if (!args.correction_bias.empty()) {
    MOED_RETURN_IF_ERROR(CheckTensor("correction_bias", args.correction_bias, {DType::kF32}, {num_experts}));
  }
  if (args.scoring == RouterScoring::kSparseMixer && (!args.correction_bias.empty() || args.num_groups > 1)) {
    return InvalidArgument("SparseMixer takes neither a correction_bias nor groups ({})", args.num_groups);
  }
  const int64_t num_pairs = num_tokens * args.top_k;
  MOED_RETURN_IF_ERROR(CheckTensor("expert_ids", args.expert_ids, {DType::kI32}, {num_tokens, args.top_k}));
  MOED_RETURN_IF_ERROR(CheckContiguous("expert_ids", args.expert_ids));
  MOED_RETURN_IF_ERROR(CheckTensor("weights", args.weights, {DType::kF32}, {num_tokens, args.top_k}));
  MOED_RETURN_IF_ERROR(CheckContiguous("weights", args.weights));
  MOED_RETURN_IF_ERROR(CheckTensor("sorted_pairs", args.sorted_pairs, {DType::kI32}, {num_pairs}));
  return CheckTensor("expert_offsets", args.expert_offsets, {DType::kI32}, {num_experts + 1});
}

namespace cpu {
MOED_DEFINE_CPU_DISPATCH(MoeGating)
}  // namespace cpu

}  // namespace moed::kernels
