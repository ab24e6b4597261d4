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

void BatchedGemm(const BatchedGemmArgs& args) {
  for (int64_t head = 0; head < args.x.dim(1); ++head) {
    const PackedWeight& weight = args.weights[head];
    for (int64_t row = 0; row < args.x.dim(0); ++row) {
      for (int64_t output = 0; output < weight.n; ++output) {
        double sum = 0;
        for (int64_t i = 0; i < weight.k; ++i) {
          sum += static_cast<double>(At<float>(args.x, row, head, i)) * PackedElement(weight, output, i);
        }
        At<float>(args.out, row, head, output) = static_cast<float>(sum);
      }
    }
  }
}

}  // namespace moed::kernels::reference
