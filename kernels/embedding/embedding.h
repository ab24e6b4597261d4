// Token ids to rows of the embedding table.
#ifndef KERNELS_EMBEDDING_EMBEDDING_H_
#define KERNELS_EMBEDDING_EMBEDDING_H_

#include "kernels/common/op.h"
#include "kernels/gemm/packed_weight.h"

namespace moed::kernels {

struct EmbeddingArgs {
  TensorView ids;  // i32 [num_tokens], each in [0, vocab)
  // One of the two. A tied LM head is looked up where the products read it, so that it need not be kept twice: a row
  // is then spread over its panel, which costs a cache line for each 4 bytes.
  TensorView table;          // f32, bf16 or f16 [vocab, hidden]
  PackedWeight packed = {};  // its outputs: [vocab, hidden]
  float scale = 1.0f;
  TensorView out;  // f32 [num_tokens, hidden]
};

absl::Status Check(const EmbeddingArgs& args);

namespace reference {
void Embedding(const EmbeddingArgs& args);
}
namespace cpu {
void Embedding(const ExecContext& ctx, const EmbeddingArgs& args);
}
namespace cuda {
void Embedding(const ExecContext& ctx, const EmbeddingArgs& args);
}
MOED_DEFINE_OP_DISPATCH(Embedding)

}  // namespace moed::kernels

#endif  // KERNELS_EMBEDDING_EMBEDDING_H_
