#include "kernels/embedding/embedding.h"

#include "kernels/common/check.h"
#include "kernels/common/cpu_dispatch.h"

namespace moed::kernels {

absl::Status Check(const EmbeddingArgs& args) {
  MOED_RETURN_IF_ERROR(CheckTensor("ids", args.ids, {DType::kI32}, {kAnySize}));
  MOED_RETURN_IF_ERROR(
      CheckTensor("table", args.table, {DType::kF32, DType::kBF16, DType::kF16}, {kAnySize, kAnySize}));
  MOED_RETURN_IF_ERROR(CheckTensor("out", args.out, {DType::kF32}, {args.ids.dim(0), args.table.dim(1)}));
  if (args.ids.device.type != DeviceType::kCpu) return absl::OkStatus();
  for (int64_t i = 0; i < args.ids.dim(0); ++i) {
    const int32_t id = args.ids.As<int32_t>()[i];
    if (id < 0 || id >= args.table.dim(0)) {
      return InvalidArgument("ids[{}] is {}; it must be in [0, {})", i, id, args.table.dim(0));
    }
  }
  return absl::OkStatus();
}

namespace cpu {
MOED_DEFINE_CPU_DISPATCH(Embedding)
}  // namespace cpu

}  // namespace moed::kernels
