// Builds without CUDA: what the ops' dispatch refers to. Weak, so that a program which brings the bodies itself (the
// tests that run them on the CPU) has its own.
#include "kernels/attention_inputs/attention_inputs.h"
#include "kernels/embedding/embedding.h"
#include "kernels/gemm/gemm.h"
#include "kernels/kv_write/kv_write.h"
#include "kernels/layer_norm/layer_norm.h"
#include "kernels/moe_ffn/moe_ffn.h"
#include "kernels/moe_gating/moe_gating.h"
#include "kernels/paged_attention/paged_attention.h"
#include "kernels/rms_norm/rms_norm.h"
#include "kernels/rope/rope.h"
#include "kernels/sampling/sample_rows.h"

namespace moed::kernels::cuda {

#define MOED_NO_CUDA_BODY(Op) \
  [[gnu::weak]] void Op(const ExecContext& /*ctx*/, const Op##Args& /*args*/) { NotInThisBuild(#Op " on CUDA"); }

MOED_NO_CUDA_BODY(AttentionInputs)
MOED_NO_CUDA_BODY(BatchedGemm)
MOED_NO_CUDA_BODY(Embedding)
MOED_NO_CUDA_BODY(Gemm)
MOED_NO_CUDA_BODY(KvWrite)
MOED_NO_CUDA_BODY(LayerNorm)
MOED_NO_CUDA_BODY(MoeFfn)
MOED_NO_CUDA_BODY(MoeGating)
MOED_NO_CUDA_BODY(PagedAttention)
MOED_NO_CUDA_BODY(RmsNorm)
MOED_NO_CUDA_BODY(Rope)
MOED_NO_CUDA_BODY(SampleRows)

}  // namespace moed::kernels::cuda
