// Dense products with packed weight matrices: out = x * weight^T (+ bias), of one matrix or of one for each head.
//
// With integer weights the rows of x become integers too, group by group as the weight has them: q = round(x / scale),
// scale = the largest magnitude of the group / 127. A group's products are added as integers, without error. On CUDA,
// and on processors with bf16 dot products, rows that meet bf16 weights become bf16 themselves.
#ifndef KERNELS_GEMM_GEMM_H_
#define KERNELS_GEMM_GEMM_H_

#include "kernels/common/op.h"
#include "kernels/gemm/packed_weight.h"

namespace moed::kernels {

struct GemmArgs {
  TensorView x;             // f32 [m, k], rows may be strided
  PackedWeight weight;      // [n, k]
  TensorView bias;          // optional f32 [n]
  bool accumulate = false;  // out += instead of out =
  // An element's sum over k runs in one fixed order: it does not depend on m. (On CUDA there are several, for few
  // rows and for many, unless ExecContext::batch_invariant is set.)
  TensorView out;  // f32 [m, n], rows may be strided
};

// Each head of the rows times the head's own weight: out[row][head] = x[row][head] * weights[head]^T.
struct BatchedGemmArgs {
  TensorView x;  // f32 [m, heads, k], rows and heads may be strided
  // [heads] of [n, k], of one format, borrowed; on CUDA at equal distances (WeightDistance).
  const PackedWeight* weights = nullptr;
  TensorView out;  // f32 [m, heads, n], rows and heads may be strided
};

absl::Status Check(const GemmArgs& args);
absl::Status Check(const BatchedGemmArgs& args);

namespace reference {
void Gemm(const GemmArgs& args);
void BatchedGemm(const BatchedGemmArgs& args);
}  // namespace reference
namespace cpu {
void Gemm(const ExecContext& ctx, const GemmArgs& args);
void BatchedGemm(const ExecContext& ctx, const BatchedGemmArgs& args);
}  // namespace cpu
namespace cuda {
void Gemm(const ExecContext& ctx, const GemmArgs& args);
void BatchedGemm(const ExecContext& ctx, const BatchedGemmArgs& args);
}  // namespace cuda
MOED_DEFINE_OP_DISPATCH(Gemm)
MOED_DEFINE_OP_DISPATCH(BatchedGemm)

}  // namespace moed::kernels

#endif  // KERNELS_GEMM_GEMM_H_
