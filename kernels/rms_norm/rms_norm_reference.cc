#include <cmath>

#include "kernels/common/reference.h"
#include "kernels/rms_norm/rms_norm.h"

namespace moed::kernels::reference {
namespace {

// [num_tokens, hidden] seen as [num_tokens, 1, hidden].
TensorView WithHeads(const TensorView& tensor) {
  return tensor.rank == 2 ? tensor.SplitLast(1, tensor.dim(1)) : tensor;
}

}  // namespace

void RmsNorm(const RmsNormArgs& args) {
  const TensorView x = WithHeads(args.x);
  const TensorView out = WithHeads(args.out);
  const int64_t size = x.dim(2);
  for (int64_t token = 0; token < x.dim(0); ++token) {
    for (int64_t head = 0; head < x.dim(1); ++head) {
      TensorView source = x;
      if (!args.residual.empty()) {
        source = WithHeads(args.residual);
        for (int64_t i = 0; i < size; ++i) {
          float& sum = At<float>(source, token, head, i);
          sum = static_cast<float>(sum + static_cast<double>(args.residual_scale) * At<float>(x, token, head, i));
        }
      }
      double squares = 0;
      for (int64_t i = 0; i < size; ++i) squares += std::pow(static_cast<double>(At<float>(source, token, head, i)), 2);
      const double inverse_rms = 1.0 / std::sqrt(squares / static_cast<double>(size) + args.eps);
      for (int64_t i = 0; i < size; ++i) {
        At<float>(out, token, head, i) =
            static_cast<float>(At<float>(source, token, head, i) * inverse_rms * At<float>(args.weight, i));
      }
    }
  }
}

}  // namespace moed::kernels::reference
