// What happens to queries, keys and values between their projection and attention: norms, rotation, and the way into
// the paged cache. RmsNorm, Rope and KvWrite one after the other, in one launch on a GPU.
#ifndef KERNELS_ATTENTION_INPUTS_ATTENTION_INPUTS_H_
#define KERNELS_ATTENTION_INPUTS_ATTENTION_INPUTS_H_

#include "kernels/common/op.h"
#include "kernels/kv_write/kv_write.h"
#include "kernels/rms_norm/rms_norm.h"
#include "kernels/rope/rope.h"

namespace moed::kernels {

struct AttentionInputsArgs {
  TensorView q;  // f32 [num_tokens, num_heads * head_dim], in and out, rows may be strided
  TensorView k;  // f32 [num_tokens, num_kv_heads * head_dim], in; holds anything afterwards
  TensorView v;  // f32 [num_tokens, num_kv_heads * v_head_dim]
  // f32, both or neither: [head_dim], of each head by itself, or as long as a row, which is then normalised as a whole.
  TensorView q_norm, k_norm;
  float eps = 1e-6f;
  bool norm_after_rope = false;
  TensorView positions, cos_sin;  // as in RopeArgs
  bool interleaved = false;
  TensorView slots, k_pages, v_pages;  // as in KvWriteArgs
  TensorView k_scales = {}, v_scales = {};
  KeyLayout key_layout = KeyLayout::kRows;

  TensorView Heads(const TensorView& rows, const TensorView& pages) const {
    return rows.SplitLast(rows.dim(1) / pages.dim(3), pages.dim(3));
  }
  RmsNormArgs Norm(const TensorView& rows, const TensorView& weight) const {
    const TensorView x = weight.dim(0) == rows.dim(1) ? rows : Heads(rows, k_pages);
    return {.x = x, .weight = weight, .residual = {}, .eps = eps, .out = x};
  }
  RopeArgs Rotation() const {
    return {.q = Heads(q, k_pages),
            .k = Heads(k, k_pages),
            .positions = positions,
            .cos_sin = cos_sin,
            .interleaved = interleaved};
  }
  KvWriteArgs Write() const {
    return {.k = Heads(k, k_pages),
            .v = Heads(v, v_pages),
            .slots = slots,
            .k_pages = k_pages,
            .v_pages = v_pages,
            .k_scales = k_scales,
            .v_scales = v_scales,
            .key_layout = key_layout};
  }
};

absl::Status Check(const AttentionInputsArgs& args);

// The ops that this one is made of, in their order.
template <typename NormOp, typename RopeOp, typename WriteOp>
void ForEachPart(const AttentionInputsArgs& args, const NormOp& norm, const RopeOp& rope, const WriteOp& write) {
  const auto norms = [&] {
    norm(args.Norm(args.q, args.q_norm));
    norm(args.Norm(args.k, args.k_norm));
  };
  const bool has_norms = !args.q_norm.empty();
  if (has_norms && !args.norm_after_rope) norms();
  rope(args.Rotation());
  if (has_norms && args.norm_after_rope) norms();
  write(args.Write());
}

namespace reference {
void AttentionInputs(const AttentionInputsArgs& args);
}
namespace cpu {
void AttentionInputs(const ExecContext& ctx, const AttentionInputsArgs& args);
}
namespace cuda {
void AttentionInputs(const ExecContext& ctx, const AttentionInputsArgs& args);
}
MOED_DEFINE_OP_DISPATCH(AttentionInputs)

}  // namespace moed::kernels

#endif  // KERNELS_ATTENTION_INPUTS_ATTENTION_INPUTS_H_
