// Rows that go to one expert, cut into tiles, each for a block. How many an expert has is known on the device only: a
// grid has as many tiles as there can be, and a block looks for its own.
#ifndef KERNELS_MOE_FFN_EXPERT_TILES_CUDA_H_
#define KERNELS_MOE_FFN_EXPERT_TILES_CUDA_H_

#include "kernels/common/cuda.h"

namespace moed::kernels {

// The pairs sorted_pairs[first .. first + rows) of an expert; no rows: there is no such tile.
struct ExpertTile {
  int expert, first, rows;
};

// Tile `index` of all experts' tiles of at most `tile_rows` rows, in order of the experts. A warp's work; every lane
// gets the answer.
__device__ __forceinline__ ExpertTile FindTile(const int* expert_offsets, int num_experts, int tile_rows, int index) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  int before = 0;  // tiles of earlier experts
  for (int base = 0; base < num_experts; base += 32) {
    const int expert = base + lane;
    const int begin = expert < num_experts ? expert_offsets[expert] : 0;
    const int end = expert < num_experts ? expert_offsets[expert + 1] : 0;
    const int own = CeilDiv(end - begin, tile_rows);
    int sum = own;  // with the lanes before
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const int other = __shfl_up_sync(kAllLanes, sum, distance);
      if (lane >= distance) sum += other;
    }
    const unsigned reached = __ballot_sync(kAllLanes, before + sum > index);
    if (reached != 0) {
      const int owner = __ffs(static_cast<int>(reached)) - 1;
      const int first = begin + (index - (before + sum - own)) * tile_rows;
      return {base + owner, __shfl_sync(kAllLanes, first, owner),
              __shfl_sync(kAllLanes, min(end - first, tile_rows), owner)};
    }
    before += __shfl_sync(kAllLanes, sum, 31);
  }
  return {0, 0, 0};
}

// The most tiles that `num_pairs` pairs can make.
inline int64_t MaxTiles(int64_t num_pairs, int64_t num_experts, int64_t tile_rows) {
  const int64_t active = num_pairs < num_experts ? num_pairs : num_experts;
  return (num_pairs - active) / tile_rows + active;
}

}  // namespace moed::kernels

#endif  // KERNELS_MOE_FFN_EXPERT_TILES_CUDA_H_
