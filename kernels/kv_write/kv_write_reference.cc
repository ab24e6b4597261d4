#include <cmath>

#include "kernels/common/reference.h"
#include "kernels/kv_write/kv_write.h"

namespace moed::kernels::reference {
namespace {

void Quantize(const TensorView& rows, int64_t token, int64_t head, const TensorView& pages, const TensorView& scales,
              KeyLayout layout, int64_t block, int64_t position) {
  float largest = 0;
  bool finite = true;
  for (int64_t i = 0; i < rows.dim(2); ++i) {
    const float value = At<float>(rows, token, head, i);
    finite = finite && std::isfinite(value);
    largest = std::fmax(largest, std::fabs(value));
  }
  if (!finite) largest = NAN;
  const float inverse = largest < 1e-30f ? 0.0f : 127.0f / largest;
  for (int64_t i = 0; i < rows.dim(2); ++i) {
    const float scaled = At<float>(rows, token, head, i) * inverse;
    const KeyPlace place = PlaceOfKey(pages, layout, position, i);
    At<int8_t>(pages, block, head, place.position, place.i) = static_cast<int8_t>(finite ? std::nearbyint(scaled) : 0);
  }
  At<float>(scales, block, head, position) = largest / 127.0f;
}

void Write(const TensorView& rows, const TensorView& slots, const TensorView& pages, const TensorView& scales,
           KeyLayout layout) {
  const int64_t block_size = pages.dim(2);
  for (int64_t token = 0; token < rows.dim(0); ++token) {
    const int64_t slot = slots.As<int64_t>()[token];
    if (slot < 0) continue;
    for (int64_t head = 0; head < rows.dim(1); ++head) {
      if (pages.dtype == DType::kI8) {
        Quantize(rows, token, head, pages, scales, layout, slot / block_size, slot % block_size);
        continue;
      }
      for (int64_t i = 0; i < rows.dim(2); ++i) {
        const KeyPlace place = PlaceOfKey(pages, layout, slot % block_size, i);
        WriteFloat(At<float>(rows, token, head, i), pages, slot / block_size, head, place.position, place.i);
      }
    }
  }
}

}  // namespace

void KvWrite(const KvWriteArgs& args) {
  Write(args.k, args.slots, args.k_pages, args.k_scales, args.key_layout);
  Write(args.v, args.slots, args.v_pages, args.v_scales, KeyLayout::kRows);
}

}  // namespace moed::kernels::reference
