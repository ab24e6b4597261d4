#include "kernels/common/simd.h"
#include "kernels/layer_norm/layer_norm.h"

namespace moed::kernels::MOED_ISA {
namespace {

// Elements worth a piece of their own to a thread.
constexpr int64_t kPieceElements = 16384;

// x += scale * add
MOED_ALWAYS_INLINE void AddScaled(const float* add, float scale, int64_t size, float* x) {
  for (int64_t i = 0; i < size; i += kLanes) {
    const int64_t n = size - i < kLanes ? size - i : kLanes;
    StoreFirst(x + i, MulAdd(LoadFirst(add + i, n), Set(scale), LoadFirst(x + i, n)), n);
  }
}

// The sum of term(x[i]) over whole vectors, four sums at a time so that additions need not wait for each other, and
// then over the rest; lanes beyond the end do not count.
template <typename Term>
MOED_ALWAYS_INLINE float Sum(const float* x, int64_t size, const Term& term) {
  VecF32 sums[4] = {};
  int64_t i = 0;
  for (; i + 4 * kLanes <= size; i += 4 * kLanes) {
    for (int j = 0; j < 4; ++j) sums[j] += term(Load(x + i + j * kLanes));
  }
  for (; i < size; i += kLanes) {
    const int64_t n = size - i < kLanes ? size - i : kLanes;
    const VecF32 value = term(LoadFirst(x + i, n));
    sums[0] += Iota() < static_cast<int32_t>(n) ? value : Set(0);
  }
  return ReduceSum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

void NormalizeRow(const LayerNormArgs& args, const float* x, float* out) {
  const int64_t size = args.x.dim(1);
  const float mean = Sum(x, size, [](VecF32 v) { return v; }) / static_cast<float>(size);
  const float squares = Sum(x, size, [mean](VecF32 v) { return (v - mean) * (v - mean); });
  const float factor = 1.0f / __builtin_sqrtf(squares / static_cast<float>(size) + args.eps);
  const float* const weight = args.weight.As<float>();
  const float* const bias = args.bias.As<float>();
  for (int64_t i = 0; i < size; i += kLanes) {
    const int64_t n = size - i < kLanes ? size - i : kLanes;
    const VecF32 normal = (LoadFirst(x + i, n) - mean) * factor;
    StoreFirst(out + i, MulAdd(normal, LoadFirst(weight + i, n), LoadFirst(bias + i, n)), n);
  }
}

}  // namespace

void LayerNorm(const ExecContext& ctx, const LayerNormArgs& args) {
  const int64_t size = args.x.dim(1);
  ctx.threads->ParallelFor(args.x.dim(0), kPieceElements / (size + 1) + 1,
                           [&](int64_t begin, int64_t end, int /*worker*/) {
                             for (int64_t row = begin; row < end; ++row) {
                               float* x = args.x.As<float>() + row * args.x.stride(0);
                               if (!args.residual.empty()) {
                                 float* const sum = args.residual.As<float>() + row * args.residual.stride(0);
                                 AddScaled(x, args.residual_scale, size, sum);
                                 x = sum;
                               }
                               NormalizeRow(args, x, args.out.As<float>() + row * args.out.stride(0));
                             }
                           });
}

}  // namespace moed::kernels::MOED_ISA
