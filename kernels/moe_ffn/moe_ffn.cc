#include "kernels/moe_ffn/moe_ffn.h"

#include <vector>

#include "kernels/common/check.h"
#include "kernels/common/cpu_dispatch.h"

namespace moed::kernels {
namespace {

absl::Status CheckSameFormat(std::string_view name, const PackedWeight& weight, const PackedWeight& first) {
  if (weight.activations != first.activations) {
    return InvalidArgument("{} takes activations rounded to {}; it must be {} as the first", name,
                           ActivationRoundingName(weight.activations), ActivationRoundingName(first.activations));
  }
  if (weight.format == first.format) return absl::OkStatus();
  return InvalidArgument("{} is packed as {}; it must be {} as the first", name, weight.format.ToString(),
                         first.format.ToString());
}

absl::Status CheckExperts(const MoeFfnArgs& args) {
  if (args.num_experts < 1) return InvalidArgument("num_experts is {}; it must be at least 1", args.num_experts);
  if (args.gate == nullptr || args.up == nullptr || args.down == nullptr) {
    return InvalidArgument("gate, up and down must each point to {} weights", args.num_experts);
  }
  const int64_t hidden = args.x.dim(1), intermediate = args.gate[0].n;
  for (int expert = 0; expert < args.num_experts; ++expert) {
    const auto name = [&](std::string_view part) { return fmt::format("{} of expert {}", part, expert); };
    MOED_RETURN_IF_ERROR(CheckPackedWeight(name("gate"), args.gate[expert], intermediate, hidden));
    MOED_RETURN_IF_ERROR(CheckPackedWeight(name("up"), args.up[expert], intermediate, hidden));
    MOED_RETURN_IF_ERROR(CheckPackedWeight(name("down"), args.down[expert], hidden, intermediate));
    MOED_RETURN_IF_ERROR(CheckSameFormat(name("gate"), args.gate[expert], args.gate[0]));
    MOED_RETURN_IF_ERROR(CheckSameFormat(name("up"), args.up[expert], args.gate[0]));
    MOED_RETURN_IF_ERROR(CheckSameFormat(name("down"), args.down[expert], args.down[0]));
  }
  return absl::OkStatus();
}

absl::Status CheckBiases(const MoeFfnArgs& args) {
  const int64_t hidden = args.x.dim(1), intermediate = args.gate[0].n;
  const auto check = [&](std::string_view name, const TensorView& bias, int64_t size) -> absl::Status {
    MOED_RETURN_IF_ERROR(CheckTensor(name, bias, {DType::kF32}, {args.num_experts, size}));
    return CheckContiguous(name, bias);
  };
  if (args.gate_bias.empty() && args.up_bias.empty() && args.down_bias.empty()) return absl::OkStatus();
  MOED_RETURN_IF_ERROR(check("gate_bias", args.gate_bias, intermediate));
  MOED_RETURN_IF_ERROR(check("up_bias", args.up_bias, intermediate));
  return check("down_bias", args.down_bias, hidden);
}

// Every pair once, by expert.
absl::Status CheckPairs(const MoeFfnArgs& args) {
  const int64_t num_pairs = args.sorted_pairs.dim(0);
  const int32_t* const offsets = args.expert_offsets.As<int32_t>();
  if (offsets[0] != 0 || offsets[args.num_experts] != num_pairs) {
    return InvalidArgument("expert_offsets run from {} to {}; they must run from 0 to the number of pairs, {}",
                           offsets[0], offsets[args.num_experts], num_pairs);
  }
  for (int expert = 0; expert < args.num_experts; ++expert) {
    if (offsets[expert] > offsets[expert + 1]) {
      return InvalidArgument("expert_offsets[{}] is {}, more than the next, {}", expert, offsets[expert],
                             offsets[expert + 1]);
    }
  }
  std::vector<bool> seen(num_pairs, false);
  for (int64_t i = 0; i < num_pairs; ++i) {
    const int32_t pair = args.sorted_pairs.As<int32_t>()[i];
    if (pair < 0 || pair >= num_pairs || seen[pair]) {
      return InvalidArgument("sorted_pairs[{}] is {}; each of the {} pairs must stand there once", i, pair, num_pairs);
    }
    seen[pair] = true;
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Check(const MoeFfnArgs& args) {
  MOED_RETURN_IF_ERROR(CheckTensor("x", args.x, {DType::kF32}, {kAnySize, kAnySize}));
  const int64_t num_tokens = args.x.dim(0), hidden = args.x.dim(1);
  MOED_RETURN_IF_ERROR(CheckTensor("out", args.out, {DType::kF32}, {num_tokens, hidden}));
  MOED_RETURN_IF_ERROR(CheckExperts(args));
  MOED_RETURN_IF_ERROR(CheckBiases(args));
  if (args.top_k < 1) return InvalidArgument("top_k is {}; it must be at least 1", args.top_k);
  MOED_RETURN_IF_ERROR(CheckTensor("weights", args.weights, {DType::kF32}, {num_tokens, args.top_k}));
  MOED_RETURN_IF_ERROR(CheckContiguous("weights", args.weights));
  MOED_RETURN_IF_ERROR(CheckTensor("sorted_pairs", args.sorted_pairs, {DType::kI32}, {num_tokens * args.top_k}));
  MOED_RETURN_IF_ERROR(CheckTensor("expert_offsets", args.expert_offsets, {DType::kI32}, {args.num_experts + 1}));
  return CheckPairs(args);
}

namespace cpu {
MOED_DEFINE_CPU_PRODUCT_DISPATCH(MoeFfn)
}  // namespace cpu

}  // namespace moed::kernels
