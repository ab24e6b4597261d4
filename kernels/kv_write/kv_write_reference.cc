#include "kernels/common/reference.h"
#include "kernels/kv_write/kv_write.h"

namespace moed::kernels::reference {
namespace {

void Write(const TensorView& rows, const TensorView& slots, const TensorView& pages) {
  const int64_t block_size = pages.dim(2);
  for (int64_t token = 0; token < rows.dim(0); ++token) {
    const int64_t slot = slots.As<int64_t>()[token];
    if (slot < 0) continue;
    for (int64_t head = 0; head < rows.dim(1); ++head) {
      for (int64_t i = 0; i < rows.dim(2); ++i) {
        WriteFloat(At<float>(rows, token, head, i), pages, slot / block_size, head, slot % block_size, i);
      }
    }
  }
}

}  // namespace

void KvWrite(const KvWriteArgs& args) {
  Write(args.k, args.slots, args.k_pages);
  Write(args.v, args.slots, args.v_pages);
}

}  // namespace moed::kernels::reference
