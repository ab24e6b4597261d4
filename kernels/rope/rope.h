// Rotary position embedding (Su et al. 2021, arXiv:2104.09864), in place on queries and keys.
#ifndef KERNELS_ROPE_ROPE_H_
#define KERNELS_ROPE_ROPE_H_

#include "kernels/common/op.h"

namespace moed::kernels {

struct RopeArgs {
  TensorView q;          // f32 [num_tokens, num_heads, head_dim], in and, without q_out, out; rows may be strided
  TensorView k;          // f32 [num_tokens, num_kv_heads, head_dim], in and out, rows may be strided
  TensorView positions;  // i32 [num_tokens], each in [0, max_positions)
  // f32 [max_positions, rotary_dim]: rotary_dim / 2 cosines, then as many sines, scalings already in them.
  TensorView cos_sin;
  // Pairs are (i, i + rotary_dim / 2) as in Llama on the Hub, or (2i, 2i + 1) as in the paper. Dimensions from
  // rotary_dim on pass unchanged.
  bool interleaved = false;
  // Optional, the shape of q, rows may be strided: takes the result in place of q.
  TensorView q_out = {};
};

absl::Status Check(const RopeArgs& args);

namespace reference {
void Rope(const RopeArgs& args);
}
namespace cpu {
void Rope(const ExecContext& ctx, const RopeArgs& args);
}
namespace cuda {
void Rope(const ExecContext& ctx, const RopeArgs& args);
}
MOED_DEFINE_OP_DISPATCH(Rope)

}  // namespace moed::kernels

#endif  // KERNELS_ROPE_ROPE_H_
