// The router's choice of experts for each token, and the grouping of tokens by expert.
#ifndef KERNELS_MOE_GATING_MOE_GATING_H_
#define KERNELS_MOE_GATING_MOE_GATING_H_

#include "kernels/common/op.h"

namespace moed::kernels {

// How logits become scores: softmax over all experts (Mixtral, Qwen), or a sigmoid each (DeepSeek-V3). SparseMixer (Liu
// et al. 2023, arXiv:2310.00811; Phi-3.5-MoE) chooses one expert after the other, the best logit m first, and weighs it
// by its softmax over those not yet chosen whose logits l are near: (m - l) / max(|l|, m) at most twice the jitter.
enum class RouterScoring : uint8_t { kSoftmax, kSigmoid, kSparseMixer };

struct MoeGatingArgs {
  TensorView logits;  // f32 [num_tokens, num_experts], rows may be strided
  RouterScoring scoring = RouterScoring::kSoftmax;
  int top_k = 1;  // 1 to num_experts
  // Divide the chosen weights by their sum.
  bool renormalize = false;
  // Multiplies the final weights (DeepSeek's routed_scaling_factor).
  float weight_scale = 1.0f;
  // Optional f32 [num_experts]: added to the scores for the choice only, never to the weights (DeepSeek-V3,
  // arXiv:2412.19437). Without it the choice is made by the logits themselves, in whose order the scores are: exact
  // where scores would round to the same number.
  TensorView correction_bias;
  // Group-limited choice: of num_groups groups of experts, adjacent and equal in size, only the best top_groups may be
  // chosen from; 1 and 1: no limit. A group is as good as the sum of its two best with a correction bias (DeepSeek-V3),
  // as its best without (DeepSeek-V2).
  int num_groups = 1;
  int top_groups = 1;
  float jitter = 0.01f;  // of kSparseMixer, which has no bias and no groups

  // Results. Experts in the order in which they were chosen, the best first; of equals the lower index. A NaN ranks
  // below every number, so that the indices are valid and distinct whatever the logits are.
  TensorView expert_ids;  // i32 [num_tokens, top_k]
  TensorView weights;     // f32 [num_tokens, top_k]
  // The (token, choice) pairs p = token * top_k + choice, sorted by expert, in an expert by p.
  TensorView sorted_pairs;  // i32 [num_tokens * top_k]
  // i32 [num_experts + 1]: expert e owns sorted_pairs[expert_offsets[e] .. expert_offsets[e + 1]).
  TensorView expert_offsets;
};

absl::Status Check(const MoeGatingArgs& args);

namespace reference {
void MoeGating(const MoeGatingArgs& args);
}
namespace cpu {
void MoeGating(const ExecContext& ctx, const MoeGatingArgs& args);
}
namespace cuda {
void MoeGating(const ExecContext& ctx, const MoeGatingArgs& args);
}
MOED_DEFINE_OP_DISPATCH(MoeGating)

}  // namespace moed::kernels

#endif  // KERNELS_MOE_GATING_MOE_GATING_H_
