#include "kernels/common/reference.h"
#include "kernels/gemm/gemm.h"

namespace moed::kernels::reference {

void Gemm(const GemmArgs& args) {
  for (int64_t row = 0; row < args.x.dim(0); ++row) {
    for (int64_t output = 0; output < args.weight.n; ++output) {
      double sum = args.bias.empty() ? 0 : At<float>(args.bias, output);
      for (int64_t i = 0; i < args.weight.k; ++i) {
        sum += static_cast<double>(At<float>(args.x, row, i)) * PackedElement(args.weight, output, i);
      }
      float& out = At<float>(args.out, row, output);
      out = static_cast<float>(args.accumulate ? out + sum : sum);
    }
  }
}

}  // namespace moed::kernels::reference
