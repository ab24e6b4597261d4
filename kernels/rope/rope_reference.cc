#include "kernels/common/reference.h"
#include "kernels/rope/rope.h"

namespace moed::kernels::reference {
namespace {

void Rotate(const RopeArgs& args, const TensorView& heads) {
  const int64_t half = args.cos_sin.dim(1) / 2;
  for (int64_t token = 0; token < heads.dim(0); ++token) {
    const int32_t position = args.positions.As<int32_t>()[token];
    for (int64_t head = 0; head < heads.dim(1); ++head) {
      for (int64_t i = 0; i < half; ++i) {
        float& first = At<float>(heads, token, head, args.interleaved ? 2 * i : i);
        float& second = At<float>(heads, token, head, args.interleaved ? 2 * i + 1 : i + half);
        const double a = first, b = second;
        const double cosine = At<float>(args.cos_sin, position, i);
        const double sine = At<float>(args.cos_sin, position, half + i);
        first = static_cast<float>(a * cosine - b * sine);
        second = static_cast<float>(b * cosine + a * sine);
      }
    }
  }
}

}  // namespace

void Rope(const RopeArgs& args) {
  Rotate(args, args.q);
  Rotate(args, args.k);
}

}  // namespace moed::kernels::reference
