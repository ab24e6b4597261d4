#include "kernels/common/simd.h"
#include "kernels/common/simd_bf16.h"
#include "kernels/common/simd_int.h"
#include "kernels/common/simd_tiles.h"

namespace moed::kernels::MOED_ISA {

// Runs `rounds` rounds of independent multiply-adds and returns the operations done; *sink keeps them from vanishing.
int64_t MultiplyAdds(int64_t rounds, float* sink) {
  constexpr int kChains = 12;
  VecF32 sums[kChains];  // all different, or the compiler would do the work of one
  for (int chain = 0; chain < kChains; ++chain) sums[chain] = Set(static_cast<float>(chain));
  const VecF32 a = Set(*sink), b = Set(0.5f);
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (int chain = 0; chain < kChains; ++chain) sums[chain] = MulAdd(sums[chain], b, a);
  }
  for (int chain = 1; chain < kChains; ++chain) sums[0] += sums[chain];
  *sink = ReduceSum(sums[0]);
  return rounds * kChains * kLanes * 2;
}

#if defined(__AMX_TILE__)

namespace {

// The operations of `rounds` products of full registers: what zeros take is what anything takes.
template <typename Add>
int64_t TileProducts(int64_t rounds, float* sink, const Add& add) {
  constexpr int kRows = 2 * kTileRegisterRows, kOutputs = 32;
  alignas(64) char zeros[kRows * kTileRegisterBytes] = {};
  alignas(64) float sums[kRows * kOutputs];
  const ProductTiles tiles(kRows, kTileRegisterBytes);
  tiles.Zero();
  tiles.Load(zeros, zeros);
  for (int64_t i = 0; i < rounds; ++i) add(tiles);
  tiles.Store(sums);
  *sink = sums[0];
  return rounds * kRows * kOutputs * 2;  // times the values of a register's row
}

}  // namespace

int64_t DotProducts(int64_t rounds, float* sink) {
  return TileProducts(rounds, sink, [](const ProductTiles& tiles) { tiles.AddIntegers(); }) * kTileRegisterBytes;
}
int64_t Bf16Products(int64_t rounds, float* sink) {
  return TileProducts(rounds, sink, [](const ProductTiles& tiles) { tiles.AddBf16(); }) * kTileRegisterBytes / 2;
}

#else

// The same with dot products of small integers,
int64_t DotProducts(int64_t rounds, float* sink) {
  constexpr int kChains = 12;
  VecI32 sums[kChains];
  for (int chain = 0; chain < kChains; ++chain) sums[chain] = SetI32(chain);
  const VecInt b = reinterpret_cast<VecInt>(SetI32(0x01010101));
  VecInt a[2];
  for (int i = 0; i < 2; ++i) a[i] = reinterpret_cast<VecInt>(SetI32(static_cast<int32_t>(*sink) + i));
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (int chain = 0; chain < kChains; ++chain) {
      asm("" : "+x"(a[chain % 2]));  // or the compiler would multiply once for all rounds
      sums[chain] = Dot(a[chain % 2], b, sums[chain]);
    }
  }
  for (int chain = 1; chain < kChains; ++chain) sums[0] ^= sums[chain];
  *sink = static_cast<float>(ReduceMax(sums[0]) & 1);
  return rounds * kChains * kLanes * (4 / kPartialSums) * 2;
}

// and of bf16, where there are any.
int64_t Bf16Products(int64_t rounds, float* sink) {
  if (!kHasBf16Dots) return MultiplyAdds(rounds, sink);
  constexpr int kChains = 12;
  VecF32 sums[kChains];
  for (int chain = 0; chain < kChains; ++chain) sums[chain] = Set(static_cast<float>(chain));
  const VecU32 a = reinterpret_cast<VecU32>(Set(*sink)), b = reinterpret_cast<VecU32>(Set(0.5f));
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (int chain = 0; chain < kChains; ++chain) sums[chain] = Bf16Dot(a, b, sums[chain]);
  }
  for (int chain = 1; chain < kChains; ++chain) sums[0] += sums[chain];
  *sink = ReduceSum(sums[0]);
  return rounds * kChains * kLanes * 2 * 2;
}

#endif

// Reads `bytes` (rounded down to whole blocks) once.
void ReadMemory(const char* data, int64_t bytes, float* sink) {
  constexpr int kVectors = 8;
  VecI32 sums[kVectors] = {};
  for (int64_t i = 0; i + kVectors * static_cast<int64_t>(sizeof(VecI32)) <= bytes; i += kVectors * sizeof(VecI32)) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sums[v] ^= LoadBits<VecI32>(data + i + v * sizeof(VecI32));
  }
  for (int v = 1; v < kVectors; ++v) sums[0] ^= sums[v];
  *sink = static_cast<float>(ReduceMax(sums[0]));
}

}  // namespace moed::kernels::MOED_ISA
