#include "kernels/common/simd.h"
#include "kernels/rope/rope.h"

namespace moed::kernels::MOED_ISA {
namespace {

// Elements worth a piece of their own to a thread.
constexpr int64_t kPieceElements = 16384;

MOED_ALWAYS_INLINE void RotateHalves(const float* x, const float* cosines, const float* sines, int64_t half,
                                     float* out) {
  for (int64_t i = 0; i < half; i += kLanes) {
    const int64_t n = half - i < kLanes ? half - i : kLanes;
    const VecF32 a = LoadFirst(x + i, n);
    const VecF32 b = LoadFirst(x + half + i, n);
    const VecF32 cosine = LoadFirst(cosines + i, n);
    const VecF32 sine = LoadFirst(sines + i, n);
    StoreFirst(out + i, a * cosine - b * sine, n);
    StoreFirst(out + half + i, b * cosine + a * sine, n);
  }
}

MOED_ALWAYS_INLINE void RotateNeighbours(const float* x, const float* cosines, const float* sines, int64_t half,
                                         float* out) {
  for (int64_t i = 0; i < half; ++i) {
    const float a = x[2 * i];
    const float b = x[2 * i + 1];
    out[2 * i] = a * cosines[i] - b * sines[i];
    out[2 * i + 1] = b * cosines[i] + a * sines[i];
  }
}

// All heads of one token.
MOED_ALWAYS_INLINE void RotateHeads(const TensorView& heads, const TensorView& result, int64_t token,
                                    const float* cos_sin, int64_t half, bool interleaved) {
  const float* x = heads.As<float>() + token * heads.stride(0);
  float* out = result.As<float>() + token * result.stride(0);
  for (int64_t head = 0; head < heads.dim(1); ++head, x += heads.stride(1), out += result.stride(1)) {
    if (interleaved) {
      RotateNeighbours(x, cos_sin, cos_sin + half, half, out);
    } else {
      RotateHalves(x, cos_sin, cos_sin + half, half, out);
    }
    if (out == x) continue;
    for (int64_t i = 2 * half; i < heads.dim(2); ++i) out[i] = x[i];
  }
}

}  // namespace

void Rope(const ExecContext& ctx, const RopeArgs& args) {
  const int64_t half = args.cos_sin.dim(1) / 2;
  const int64_t elements = (args.q.dim(1) + args.k.dim(1)) * args.q.dim(2);
  const TensorView& q_out = args.q_out.empty() ? args.q : args.q_out;
  ctx.threads->ParallelFor(args.q.dim(0), kPieceElements / (elements + 1) + 1,
                           [&](int64_t begin, int64_t end, int /*worker*/) {
                             for (int64_t token = begin; token < end; ++token) {
                               const int64_t position = args.positions.As<int32_t>()[token];
                               const float* cos_sin = args.cos_sin.As<float>() + position * args.cos_sin.stride(0);
                               RotateHeads(args.q, q_out, token, cos_sin, half, args.interleaved);
                               RotateHeads(args.k, args.k, token, cos_sin, half, args.interleaved);
                             }
                           });
}

}  // namespace moed::kernels::MOED_ISA
