#include "kernels/common/simd.h"
#include "kernels/rms_norm/rms_norm.h"

namespace moed::kernels::MOED_ISA {
namespace {

// Elements worth a piece of their own to a thread.
constexpr int64_t kPieceElements = 16384;

// The sum of the squares of x, which first takes scale * add in when there is an `add`.
MOED_ALWAYS_INLINE float AddAndSumSquares(const float* add, float scale, float* x, int64_t size) {
  VecF32 sums[4] = {};
  int64_t i = 0;
  // Four sums, so that additions need not wait for each other.
  for (; i + 4 * kLanes <= size; i += 4 * kLanes) {
    for (int j = 0; j < 4; ++j) {
      VecF32 v = Load(x + i + j * kLanes);
      if (add != nullptr) {
        v = MulAdd(Load(add + i + j * kLanes), Set(scale), v);
        Store(x + i + j * kLanes, v);
      }
      sums[j] = MulAdd(v, v, sums[j]);
    }
  }
  for (; i < size; i += kLanes) {
    const int64_t n = size - i < kLanes ? size - i : kLanes;
    VecF32 v = LoadFirst(x + i, n);
    if (add != nullptr) {
      v = MulAdd(LoadFirst(add + i, n), Set(scale), v);
      StoreFirst(x + i, v, n);
    }
    sums[0] = MulAdd(v, v, sums[0]);
  }
  return ReduceSum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

MOED_ALWAYS_INLINE void ScaleRow(const float* x, const float* weight, float factor, int64_t size, float* out) {
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) Store(out + i, Load(x + i) * factor * Load(weight + i));
  if (i < size) {
    StoreFirst(out + i, LoadFirst(x + i, size - i) * factor * LoadFirst(weight + i, size - i), size - i);
  }
}

// Row `row` of [num_tokens, hidden], or of [num_tokens, heads, head_dim] with the first two dimensions as one.
MOED_ALWAYS_INLINE float* Row(const TensorView& tensor, int64_t row, int64_t heads) {
  if (tensor.rank == 2) return tensor.As<float>() + row * tensor.stride(0);
  return tensor.As<float>() + row / heads * tensor.stride(0) + row % heads * tensor.stride(1);
}

}  // namespace

void RmsNorm(const ExecContext& ctx, const RmsNormArgs& args) {
  const int64_t size = args.x.dim(args.x.rank - 1);
  const int64_t heads = args.x.rank == 2 ? 1 : args.x.dim(1);
  const float* weight = args.weight.As<float>();
  ctx.threads->ParallelFor(args.x.dim(0) * heads, kPieceElements / (size + 1) + 1,
                           [&](int64_t begin, int64_t end, int /*worker*/) {
                             for (int64_t row = begin; row < end; ++row) {
                               float* x = Row(args.x, row, heads);
                               const float* add = nullptr;
                               if (!args.residual.empty()) {
                                 add = x;
                                 x = Row(args.residual, row, heads);
                               }
                               const float sum = AddAndSumSquares(add, args.residual_scale, x, size);
                               const float mean_square = sum / static_cast<float>(size);
                               const float factor = 1.0f / __builtin_sqrtf(mean_square + args.eps);
                               ScaleRow(x, weight, factor, size, Row(args.out, row, heads));
                             }
                           });
}

}  // namespace moed::kernels::MOED_ISA
