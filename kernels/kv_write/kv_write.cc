#include "kernels/kv_write/kv_write.h"

#include "kernels/common/check.h"
#include "kernels/common/cpu_dispatch.h"

namespace moed::kernels {

absl::Status Check(const KvWriteArgs& args) {
  MOED_RETURN_IF_ERROR(CheckTensor("k_pages", args.k_pages, {DType::kF32, DType::kBF16, DType::kF16, DType::kI8},
                                   {kAnySize, kAnySize, kAnySize, kAnySize}));
  MOED_RETURN_IF_ERROR(CheckContiguous("k_pages", args.k_pages));
  MOED_RETURN_IF_ERROR(CheckKeyLayout(args.k_pages, args.v_pages, args.key_layout));
  const int64_t num_blocks = args.k_pages.dim(0);
  const int64_t num_kv_heads = args.k_pages.dim(1);
  const int64_t block_size = args.k_pages.dim(2);
  MOED_RETURN_IF_ERROR(CheckScales("k_scales", args.k_scales, args.k_pages));
  MOED_RETURN_IF_ERROR(CheckTensor("k", args.k, {DType::kF32}, {kAnySize, num_kv_heads, args.k_pages.dim(3)}));
  if (args.v.rank > 0 || args.v_pages.rank > 0) {
    MOED_RETURN_IF_ERROR(
        CheckTensor("v_pages", args.v_pages, {args.k_pages.dtype}, {num_blocks, num_kv_heads, block_size, kAnySize}));
    MOED_RETURN_IF_ERROR(CheckContiguous("v_pages", args.v_pages));
    MOED_RETURN_IF_ERROR(CheckScales("v_scales", args.v_scales, args.v_pages));
    MOED_RETURN_IF_ERROR(CheckTensor("v", args.v, {DType::kF32}, {args.k.dim(0), num_kv_heads, args.v_pages.dim(3)}));
  }
  MOED_RETURN_IF_ERROR(CheckTensor("slots", args.slots, {DType::kI64}, {args.k.dim(0)}));
  if (args.slots.device.type != DeviceType::kCpu) return absl::OkStatus();
  for (int64_t i = 0; i < args.slots.dim(0); ++i) {
    const int64_t slot = args.slots.As<int64_t>()[i];
    if (slot >= num_blocks * block_size) {
      return InvalidArgument("slots[{}] is {}; it must be below {} blocks of {}", i, slot, num_blocks, block_size);
    }
  }
  return absl::OkStatus();
}

namespace cpu {
MOED_DEFINE_CPU_DISPATCH(KvWrite)
}  // namespace cpu

}  // namespace moed::kernels
