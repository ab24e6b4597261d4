#include "kernels/common/simd.h"
#include "kernels/sampling/logit_row.h"

namespace moed::kernels::MOED_ISA {
namespace {

constexpr float kMinusInfinity = -__builtin_inff();

// The first element that equals `max`.
int32_t Find(const float* x, int64_t n, float max) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const VecI32 equal = Load(x + i) == max;
    if (ReduceSum(equal) != 0) break;
  }
  for (; i < n; ++i) {
    if (x[i] == max) return static_cast<int32_t>(i);
  }
  return 0;
}

}  // namespace

void RowMaximum(const ExecContext& /*ctx*/, const RowMaximumArgs& args) {
  const float* x = args.x.As<float>();
  const int64_t n = args.x.dim(0);
  // Four chains, since each step waits for the one before it.
  constexpr int kChains = 4;
  VecF32 largest[kChains], probe[kChains];
  for (int c = 0; c < kChains; ++c) {
    largest[c] = Set(kMinusInfinity);
    probe[c] = VecF32{};
  }
  int64_t i = 0;
  for (; i + kChains * kLanes <= n; i += kChains * kLanes) {
    for (int c = 0; c < kChains; ++c) {
      const VecF32 v = Load(x + i + c * kLanes);
      largest[c] = Max(v, largest[c]);
      probe[c] += v * 0.0f;  // NaN of infinities and NaN, and a sum keeps it
    }
  }
  float max = ReduceMax(Max(Max(largest[0], largest[1]), Max(largest[2], largest[3])));
  float sum = ReduceSum((probe[0] + probe[1]) + (probe[2] + probe[3]));
  for (; i < n; ++i) {
    max = x[i] > max ? x[i] : max;
    sum += x[i] * 0.0f;
  }
  *args.max.As<float>() = max;
  *args.index.As<int32_t>() = Find(x, n, max);
  *args.finite.As<int32_t>() = sum == 0.0f ? 1 : 0;
}

void SoftmaxWeights(const ExecContext& /*ctx*/, const SoftmaxWeightsArgs& args) {
  const float* x = args.x.As<float>();
  float* weights = args.weights.As<float>();
  const int64_t n = args.x.dim(0);
  const VecF32 max = Set(args.max), factor = Set(args.inverse_temperature);
  for (int64_t block = 0, begin = 0; begin < n; ++block, begin += SoftmaxWeightsArgs::kBlock) {
    const int64_t end = n - begin < SoftmaxWeightsArgs::kBlock ? n : begin + SoftmaxWeightsArgs::kBlock;
    VecF32 sum = {};
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      const VecF32 weight = Exp((Load(x + i) - max) * factor);
      Store(weights + i, weight);
      sum += weight;
    }
    if (i < end) {
      const VecF32 weight = Exp((LoadFirst(x + i, end - i) - max) * factor);
      StoreFirst(weights + i, weight, end - i);
      const VecI32 inside = Iota() < static_cast<int32_t>(end - i);
      sum += inside ? weight : VecF32{};
    }
    args.block_sums.As<float>()[block] = ReduceSum(sum);
  }
}

}  // namespace moed::kernels::MOED_ISA
