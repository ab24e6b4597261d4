#include "kernels/embedding/embedding.h"

#include "kernels/common/check.h"
#include "kernels/common/cpu_dispatch.h"

namespace moed::kernels {

absl::Status Check(const EmbeddingArgs& args) {
  MOED_RETURN_IF_ERROR(CheckTensor("ids", args.ids, {DType::kI32}, {kAnySize}));
  int64_t vocab = args.packed.n, hidden = args.packed.k;
  if (args.packed.data == nullptr) {
    MOED_RETURN_IF_ERROR(
        CheckTensor("table", args.table, {DType::kF32, DType::kBF16, DType::kF16}, {kAnySize, kAnySize}));
    vocab = args.table.dim(0), hidden = args.table.dim(1);
  } else {
    MOED_RETURN_IF_ERROR(CheckPackedWeight("packed", args.packed, vocab, hidden));
    if (!args.table.empty()) return InvalidArgument("table and packed are both given; one of them is the embedding");
  }
  MOED_RETURN_IF_ERROR(CheckTensor("out", args.out, {DType::kF32}, {args.ids.dim(0), hidden}));
  if (args.ids.device.type != DeviceType::kCpu) return absl::OkStatus();
  for (int64_t i = 0; i < args.ids.dim(0); ++i) {
    const int32_t id = args.ids.As<int32_t>()[i];
    if (id < 0 || id >= vocab) {
      return InvalidArgument("ids[{}] is {}; it must be in [0, {})", i, id, vocab);
    }
  }
  return absl::OkStatus();
}

namespace cpu {
MOED_DEFINE_CPU_DISPATCH(Embedding)
}  // namespace cpu

}  // namespace moed::kernels
