#include "kernels/common/reference.h"
#include "kernels/rope/rope.h"

namespace moed::kernels::reference {
namespace {

void Rotate(const RopeArgs& args, const TensorView& heads, const TensorView& out) {
  const int64_t half = args.cos_sin.dim(1) / 2;
  for (int64_t token = 0; token < heads.dim(0); ++token) {
    const int32_t position = args.positions.As<int32_t>()[token];
    for (int64_t head = 0; head < heads.dim(1); ++head) {
      for (int64_t i = 0; i < half; ++i) {
        const int64_t first = args.interleaved ? 2 * i : i, second = args.interleaved ? 2 * i + 1 : i + half;
        const double a = At<float>(heads, token, head, first), b = At<float>(heads, token, head, second);
        const double cosine = At<float>(args.cos_sin, position, i);
        const double sine = At<float>(args.cos_sin, position, half + i);
        At<float>(out, token, head, first) = static_cast<float>(a * cosine - b * sine);
        At<float>(out, token, head, second) = static_cast<float>(b * cosine + a * sine);
      }
      for (int64_t i = 2 * half; i < heads.dim(2); ++i) {
        At<float>(out, token, head, i) = At<float>(heads, token, head, i);
      }
    }
  }
}

}  // namespace

void Rope(const RopeArgs& args) {
  Rotate(args, args.q, args.q_out.empty() ? args.q : args.q_out);
  Rotate(args, args.k, args.k);
}

}  // namespace moed::kernels::reference
