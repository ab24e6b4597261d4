// The experts' feed-forward: out = sum over choices of weight * down(act(gate(x)) * up(x)) (Shazeer 2020,
// arXiv:2002.05202). Tokens are grouped by expert, so that each expert's weights are read once a step. A dense layer is
// the case of one expert that every token chooses with weight 1.
#ifndef KERNELS_MOE_FFN_MOE_FFN_H_
#define KERNELS_MOE_FFN_MOE_FFN_H_

#include "kernels/common/op.h"
#include "kernels/gemm/packed_weight.h"

namespace moed::kernels {

// What becomes of the products with gate and up.
enum class Activation : uint8_t {
  kSilu,           // silu(gate) * up
  kGeluTanh,       // gelu(gate) * up, by its approximation with tanh
  kClampedSwiglu,  // GPT-OSS: g * sigmoid(swiglu_alpha * g) * (u + 1) with g = min(gate, limit), u = up within +-limit
};

struct MoeFfnArgs {
  TensorView x;  // f32 [num_tokens, hidden], rows may be strided
  int num_experts = 1;
  // Arrays of num_experts each, borrowed; all experts have the same shapes. All gate and up weights have one format,
  // all down weights one, perhaps another. On CUDA each array's weights lie at equal distances (WeightDistance).
  const PackedWeight* gate = nullptr;  // [intermediate, hidden]
  const PackedWeight* up = nullptr;    // [intermediate, hidden]
  const PackedWeight* down = nullptr;  // [hidden, intermediate]
  // Optional biases, all three or none: added to the products with gate, up and down.
  TensorView gate_bias;  // f32 [num_experts, intermediate]
  TensorView up_bias;    // f32 [num_experts, intermediate]
  TensorView down_bias;  // f32 [num_experts, hidden]
  Activation activation = Activation::kSilu;
  float swiglu_alpha = 1.702f, swiglu_limit = 7.0f;  // of kClampedSwiglu
  // The router's results, as MoeGating gives them.
  int top_k = 1;
  TensorView weights;         // f32 [num_tokens, top_k]
  TensorView sorted_pairs;    // i32 [num_tokens * top_k]
  TensorView expert_offsets;  // i32 [num_experts + 1]
  bool accumulate = false;    // out += instead of out =
  // The choices of a token are added in one order (on the CPU that of the experts, on CUDA that of `weights`), never as
  // they come: no dependence on the company.
  TensorView out;  // f32 [num_tokens, hidden], rows may be strided, not x itself
};

absl::Status Check(const MoeFfnArgs& args);

namespace reference {
void MoeFfn(const MoeFfnArgs& args);
}
namespace cpu {
void MoeFfn(const ExecContext& ctx, const MoeFfnArgs& args);
}
namespace cuda {
void MoeFfn(const ExecContext& ctx, const MoeFfnArgs& args);
}
MOED_DEFINE_OP_DISPATCH(MoeFfn)

}  // namespace moed::kernels

#endif  // KERNELS_MOE_FFN_MOE_FFN_H_
