// New keys and values into their places in the paged cache.
#ifndef KERNELS_KV_WRITE_KV_WRITE_H_
#define KERNELS_KV_WRITE_KV_WRITE_H_

#include "kernels/common/key_layout.h"
#include "kernels/common/op.h"

namespace moed::kernels {

struct KvWriteArgs {
  TensorView k;  // f32 [num_tokens, num_kv_heads, k_head_dim], rows may be strided
  // f32 [num_tokens, num_kv_heads, v_head_dim], rows may be strided. Left out, with v_pages, where values are a part of
  // their keys (MLA).
  TensorView v;
  // i64 [num_tokens]: block * block_size + offset in the block; a negative slot is skipped (padding).
  TensorView slots;
  TensorView k_pages;  // f32, bf16, f16 or i8 [num_blocks, num_kv_heads, block_size, k_head_dim]
  TensorView v_pages;  // the same dtype [num_blocks, num_kv_heads, block_size, v_head_dim]
  // f32 [num_blocks, num_kv_heads, block_size], for pages of i8 alone: what a row's integers are multiplied by, its
  // largest magnitude / 127. NaN where the row has an infinity or a NaN.
  TensorView k_scales = {}, v_scales = {};
  KeyLayout key_layout = KeyLayout::kRows;  // of k_pages
};

absl::Status Check(const KvWriteArgs& args);

namespace reference {
void KvWrite(const KvWriteArgs& args);
}
namespace cpu {
void KvWrite(const ExecContext& ctx, const KvWriteArgs& args);
}
namespace cuda {
void KvWrite(const ExecContext& ctx, const KvWriteArgs& args);
}
MOED_DEFINE_OP_DISPATCH(KvWrite)

}  // namespace moed::kernels

#endif  // KERNELS_KV_WRITE_KV_WRITE_H_
