// Layer normalisation (Ba et al. 2016, arXiv:1607.06450), with the residual addition before it.
#ifndef KERNELS_LAYER_NORM_LAYER_NORM_H_
#define KERNELS_LAYER_NORM_LAYER_NORM_H_

#include "kernels/common/op.h"

namespace moed::kernels {

// out = (x - mean(x)) / sqrt(variance(x) + eps) * weight + bias, each row by itself.
struct LayerNormArgs {
  TensorView x;       // f32 [num_tokens, hidden], rows may be strided
  TensorView weight;  // f32 [hidden]
  TensorView bias;    // f32 [hidden]
  // Optional, f32, the shape of x: residual += residual_scale * x, and the sum is what is normalised.
  TensorView residual = {};
  float residual_scale = 1.0f;
  float eps = 1e-5f;
  TensorView out;  // f32, the shape of x; may be x itself
};

absl::Status Check(const LayerNormArgs& args);

namespace reference {
void LayerNorm(const LayerNormArgs& args);
}
namespace cpu {
void LayerNorm(const ExecContext& ctx, const LayerNormArgs& args);
}
namespace cuda {
void LayerNorm(const ExecContext& ctx, const LayerNormArgs& args);
}
MOED_DEFINE_OP_DISPATCH(LayerNorm)

}  // namespace moed::kernels

#endif  // KERNELS_LAYER_NORM_LAYER_NORM_H_
