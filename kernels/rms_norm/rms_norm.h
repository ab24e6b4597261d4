// Root mean square layer normalisation (Zhang and Sennrich 2019, arXiv:1910.07467), with the residual addition before
// it.
#ifndef KERNELS_RMS_NORM_RMS_NORM_H_
#define KERNELS_RMS_NORM_RMS_NORM_H_

#include "kernels/common/op.h"

namespace moed::kernels {

struct RmsNormArgs {
  // f32 [num_tokens, hidden] or [num_tokens, heads, head_dim]; each last dimension is normalised by itself, rows may be
  // strided.
  TensorView x;
  TensorView weight;  // f32 [hidden] (or [head_dim])
  // Optional, f32, the shape of x: residual += residual_scale * x, and the sum is what is normalised.
  TensorView residual = {};
  float residual_scale = 1.0f;
  float eps = 1e-6f;
  TensorView out;  // f32, the shape of x; may be x itself
};

absl::Status Check(const RmsNormArgs& args);

namespace reference {
void RmsNorm(const RmsNormArgs& args);
}
namespace cpu {
void RmsNorm(const ExecContext& ctx, const RmsNormArgs& args);
}
namespace cuda {
void RmsNorm(const ExecContext& ctx, const RmsNormArgs& args);
}
MOED_DEFINE_OP_DISPATCH(RmsNorm)

}  // namespace moed::kernels

#endif  // KERNELS_RMS_NORM_RMS_NORM_H_
