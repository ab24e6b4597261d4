#include <cmath>
#include <vector>

#include "kernels/common/reference.h"
#include "kernels/gemm/reference_product.h"
#include "kernels/moe_ffn/moe_ffn.h"

namespace moed::kernels::reference {
namespace {

double Activate(const MoeFfnArgs& args, double gate, double up) {
  switch (args.activation) {
    case Activation::kSilu:
      return gate / (1 + std::exp(-gate)) * up;
    case Activation::kGeluTanh:
      return 0.5 * gate * (1 + std::tanh(std::sqrt(2 / M_PI) * (gate + 0.044715 * gate * gate * gate))) * up;
    case Activation::kClampedSwiglu: {
      const double limit = args.swiglu_limit;
      const double g = gate > limit ? limit : gate, u = up > limit ? limit : up < -limit ? -limit : up;
      return g / (1 + std::exp(-args.swiglu_alpha * g)) * (u + 1);
    }
  }
  return 0;
}

// x * weight^T, and the expert's bias where there is one.
std::vector<double> ProductAndBias(const std::vector<float>& x, const PackedWeight& weight, const TensorView& bias,
                                   int64_t expert) {
  std::vector<double> result = Product(x, weight);
  for (int64_t i = 0; i < weight.n && !bias.empty(); ++i) result[i] += At<float>(bias, expert, i);
  return result;
}

std::vector<double> Expert(const MoeFfnArgs& args, int64_t expert, const std::vector<float>& x) {
  const std::vector<double> gate = ProductAndBias(x, args.gate[expert], args.gate_bias, expert);
  const std::vector<double> up = ProductAndBias(x, args.up[expert], args.up_bias, expert);
  std::vector<float> hidden(gate.size());
  for (size_t i = 0; i < hidden.size(); ++i) hidden[i] = static_cast<float>(Activate(args, gate[i], up[i]));
  return ProductAndBias(hidden, args.down[expert], args.down_bias, expert);
}

}  // namespace

void MoeFfn(const MoeFfnArgs& args) {
  const int64_t num_tokens = args.x.dim(0), hidden = args.x.dim(1);
  std::vector<std::vector<double>> sums(num_tokens, std::vector<double>(hidden));
  for (int64_t expert = 0; expert < args.num_experts; ++expert) {
    const int32_t end = At<int32_t>(args.expert_offsets, expert + 1);
    for (int32_t i = At<int32_t>(args.expert_offsets, expert); i < end; ++i) {
      const int32_t pair = At<int32_t>(args.sorted_pairs, i);
      const int64_t token = pair / args.top_k;
      std::vector<float> x(hidden);
      for (int64_t j = 0; j < hidden; ++j) x[j] = At<float>(args.x, token, j);
      const std::vector<double> out = Expert(args, expert, x);
      const double weight = At<float>(args.weights, token, pair % args.top_k);
      for (int64_t j = 0; j < hidden; ++j) sums[token][j] += weight * out[j];
    }
  }
  for (int64_t token = 0; token < num_tokens; ++token) {
    for (int64_t j = 0; j < hidden; ++j) {
      float& out = At<float>(args.out, token, j);
      out = static_cast<float>(args.accumulate ? out + sums[token][j] : sums[token][j]);
    }
  }
}

}  // namespace moed::kernels::reference
