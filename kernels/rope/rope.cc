#include "kernels/rope/rope.h"

#include "kernels/common/check.h"
#include "kernels/common/cpu_dispatch.h"

namespace moed::kernels {

absl::Status Check(const RopeArgs& args) {
  MOED_RETURN_IF_ERROR(CheckTensor("q", args.q, {DType::kF32}, {kAnySize, kAnySize, kAnySize}));
  const int64_t num_tokens = args.q.dim(0);
  const int64_t head_dim = args.q.dim(2);
  MOED_RETURN_IF_ERROR(CheckTensor("k", args.k, {DType::kF32}, {num_tokens, kAnySize, head_dim}));
  if (!args.q_out.empty()) {
    MOED_RETURN_IF_ERROR(CheckTensor("q_out", args.q_out, {DType::kF32}, {num_tokens, args.q.dim(1), head_dim}));
  }
  MOED_RETURN_IF_ERROR(CheckTensor("positions", args.positions, {DType::kI32}, {num_tokens}));
  MOED_RETURN_IF_ERROR(CheckTensor("cos_sin", args.cos_sin, {DType::kF32}, {kAnySize, kAnySize}));
  const int64_t rotary_dim = args.cos_sin.dim(1);
  if (rotary_dim % 2 != 0 || rotary_dim > head_dim) {
    return InvalidArgument("cos_sin is {}; its rows (rotary_dim) must be even and at most head_dim = {}",
                           args.cos_sin.ToString(), head_dim);
  }
  if (args.positions.device.type != DeviceType::kCpu) return absl::OkStatus();
  for (int64_t i = 0; i < num_tokens; ++i) {
    const int32_t position = args.positions.As<int32_t>()[i];
    if (position < 0 || position >= args.cos_sin.dim(0)) {
      return InvalidArgument("positions[{}] is {}; it must be in [0, {})", i, position, args.cos_sin.dim(0));
    }
  }
  return absl::OkStatus();
}

namespace cpu {
MOED_DEFINE_CPU_DISPATCH(Rope)
}  // namespace cpu

}  // namespace moed::kernels
