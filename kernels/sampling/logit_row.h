// The passes over a row of logits of which a sampler is made: its maximum, and the weights of a softmax. Vocabularies
// have 150,000 entries and more, so that these cost more than all else that a sampler does.
//
// A call handles one row in the host's memory on the calling thread: rows belong to different requests, and the caller
// shares them out.
#ifndef KERNELS_SAMPLING_LOGIT_ROW_H_
#define KERNELS_SAMPLING_LOGIT_ROW_H_

#include "kernels/common/op.h"

namespace moed::kernels {

struct RowMaximumArgs {
  TensorView x;       // f32 [n], n at least 1
  TensorView max;     // f32 [1]: the largest element that is not NaN
  TensorView index;   // i32 [1]: the first element that equals it; 0 where all are NaN
  TensorView finite;  // i32 [1]: whether no element is an infinity or a NaN
};

// weights[i] = e^((x[i] - max) * inverse_temperature), and their sums by block. x may be weights.
struct SoftmaxWeightsArgs {
  static constexpr int64_t kBlock = 256;

  TensorView x;  // f32 [n]
  float max = 0.0f;
  float inverse_temperature = 1.0f;
  TensorView weights;     // f32 [n]
  TensorView block_sums;  // f32 [ceil(n / kBlock)]
};

absl::Status Check(const RowMaximumArgs& args);
absl::Status Check(const SoftmaxWeightsArgs& args);

namespace reference {
void RowMaximum(const RowMaximumArgs& args);
void SoftmaxWeights(const SoftmaxWeightsArgs& args);
}  // namespace reference
namespace cpu {
void RowMaximum(const ExecContext& ctx, const RowMaximumArgs& args);
void SoftmaxWeights(const ExecContext& ctx, const SoftmaxWeightsArgs& args);
}  // namespace cpu

}  // namespace moed::kernels

#endif  // KERNELS_SAMPLING_LOGIT_ROW_H_
