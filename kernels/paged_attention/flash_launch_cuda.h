// Which tensor-core body of attention takes what, and its grid.
#ifndef KERNELS_PAGED_ATTENTION_FLASH_LAUNCH_CUDA_H_
#define KERNELS_PAGED_ATTENTION_FLASH_LAUNCH_CUDA_H_

#include <algorithm>

#include "kernels/paged_attention/flash_attention_cuda.h"
#include "kernels/paged_attention/flash_latent_cuda.h"
#include "kernels/paged_attention/flash_warpgroup_cuda.h"

namespace moed::kernels::flash {

template <typename T, int kHeadDim>
using PrefillShape = Shape<T, kHeadDim, /*kRowTilesOfWarp=*/2, /*kRowWarpCount=*/4, /*kPositionWarpCount=*/1,
                           /*kTilePositions=*/32, /*kStageCount=*/3, /*kMinBlockCount=*/2>;
template <typename T, int kHeadDim>
using DecodeShape = Shape<T, kHeadDim, /*kRowTilesOfWarp=*/1, /*kRowWarpCount=*/1, /*kPositionWarpCount=*/4,
                          /*kTilePositions=*/64, /*kStageCount=*/std::is_same_v<T, int8_t> ? 3 : 2,
                          /*kMinBlockCount=*/3>;

// One step's attention.
template <typename T>
struct Step {
  const ExecContext& ctx;
  AttentionParameters<T> p;
  int64_t num_tokens, max_context;

  int64_t group() const { return p.num_heads / p.num_kv_heads; }
};

template <typename Shape>
void LaunchKernel(const Step<typename Shape::T>& step, const AttentionParameters<typename Shape::T>& p, int64_t tiles) {
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(p.num_kv_heads),
                  static_cast<unsigned>(p.num_splits));
  if constexpr (requires { Shape::kWarpgroups; }) {
    MOED_LAUNCH_DEPENDENT(FlashWarpgroupKernel<Shape>, grid, Shape::kThreads, Shape::SharedBytes(), step.ctx.stream, p);
  } else if constexpr (requires { Shape::kHeadDim; }) {
    MOED_LAUNCH_DEPENDENT(FlashKernel<Shape>, grid, Shape::kThreads, Shape::SharedBytes(), step.ctx.stream, p);
  } else {
    MOED_LAUNCH_DEPENDENT(FlashLatentKernel<Shape>, grid, Shape::kThreads, Shape::SharedBytes(), step.ctx.stream, p);
  }
}

// Sequences with more than one token; where results must not depend on how many there are, all sequences. How many
// tiles of rows they have is known on the device only.
template <typename Shape>
void Prefill(const Step<typename Shape::T>& step) {
  AttentionParameters<typename Shape::T> p = step.p;
  p.num_splits = 1;
  p.split_positions = static_cast<int>(step.max_context);
  p.takes_all = step.ctx.batch_invariant;
  const int64_t sequences = std::min<int64_t>(p.num_sequences, p.takes_all ? step.num_tokens : step.num_tokens / 2);
  LaunchKernel<Shape>(step, p, step.num_tokens * step.group() / Shape::kRows + sequences);
}

// Into how many positions `blocks` blocks of a kernel are cut each, so that all of the device is used to the end. Each
// part costs as much as kPartCost positions by itself; kMultiprocessors is that of large devices.
template <typename Shape>
int64_t PositionsOfPart(int64_t blocks, int64_t max_context) {
  constexpr int64_t kUnit = 64, kMinPart = 128, kPartCost = 192, kMultiprocessors = 132;
  constexpr int64_t kBlocksAtOnce = kMultiprocessors * Shape::kMinBlocks;
  int64_t best_part = 0, best_cost = INT64_MAX;
  for (int64_t parts = 1; parts == 1 || parts * kMinPart <= max_context + kMinPart; ++parts) {
    const int64_t part = CeilDiv(CeilDiv(max_context, parts), kUnit) * kUnit;
    const int64_t cost = CeilDiv(blocks * parts, kBlocksAtOnce) * (part + kPartCost);
    if (cost < best_cost) best_cost = cost, best_part = part;
  }
  return best_part;
}

// Sequences with one token.
template <typename Shape>
void Decode(const Step<typename Shape::T>& step) {
  AttentionParameters<typename Shape::T> p = step.p;
  const int64_t tiles =
      std::min<int64_t>(p.num_sequences, step.num_tokens) * CeilDiv(step.group(), int64_t{Shape::kRows});
  const int64_t part = PositionsOfPart<Shape>(tiles * p.num_kv_heads, step.max_context);
  p.split_positions = static_cast<int>(part);
  p.num_splits = static_cast<int>(CeilDiv(step.max_context, part));
  if (p.num_splits > 1) p.partials = AllocatePartials(step.ctx, p, p.num_sequences);
  LaunchKernel<Shape>(step, p, tiles);
  if (p.num_splits == 1) return;
  const int heads_of_block = kCombineThreads / (p.v_head_dim / 4);
  const dim3 grid(static_cast<unsigned>(p.num_sequences), static_cast<unsigned>(CeilDiv(p.num_heads, heads_of_block)));
  MOED_LAUNCH_DEPENDENT(FlashCombineKernel<typename Shape::T>, grid, kCombineThreads, 0, step.ctx.stream, p);
}

// Whether there is something for Prefill, or for Decode.
template <typename T>
bool NeedsPrefill(const Step<T>& step) {
  return step.num_tokens > step.p.num_sequences || step.ctx.batch_invariant;
}
template <typename T>
bool MayNeedDecode(const Step<T>& step) {
  return (step.p.num_sequences > 1 || step.num_tokens == 1) && !step.ctx.batch_invariant;
}

template <int kHeadDim, typename T>
void AttendHeads(const Step<T>& step) {
  if (NeedsPrefill(step)) {
    if (std::is_same_v<T, BFloat16> && MayUseWgmma(step.ctx)) {
      if constexpr (std::is_same_v<T, BFloat16>) Prefill<WarpgroupShape<kHeadDim>>(step);
    } else {
      Prefill<PrefillShape<T, kHeadDim>>(step);
    }
  }
  if (MayNeedDecode(step)) Decode<DecodeShape<T, kHeadDim>>(step);
}

template <typename T>
void AttendLatents(const Step<T>& step) {
  if (NeedsPrefill(step)) Prefill<LatentShape<T, Phase::kPrefill, 2>>(step);
  if (!MayNeedDecode(step)) return;
  if (step.group() <= 16) {
    Decode<LatentShape<T, Phase::kDecode, 1>>(step);
  } else {
    Decode<LatentShape<T, Phase::kDecode, 2>>(step);
  }
}

// False, and nothing done, where heads have another size or pages lie otherwise than these bodies need, or a latent is
// of integers.
template <typename T>
bool Attend(const Step<T>& step) {
  const AttentionParameters<T>& p = step.p;
  const auto is_aligned = [](const void* address) { return reinterpret_cast<uintptr_t>(address) % 16 == 0; };
  constexpr int64_t kElements = 16 / sizeof(T);  // what a copy moves
  if (!is_aligned(p.k_pages) || !is_aligned(p.v_pages) || p.v_row_stride % kElements != 0) return false;
  if (p.num_page_rows > INT32_MAX) return false;  // of the tables in shared memory
  if (p.k_head_dim == 64 && p.v_head_dim == 64) {
    AttendHeads<64>(step);
    return true;
  }
  if (p.k_head_dim == 128 && p.v_head_dim == 128) {
    AttendHeads<128>(step);
    return true;
  }
  const bool is_latent = p.v_pages == p.k_pages;
  if constexpr (!std::is_same_v<T, int8_t>) {
    if (is_latent && p.k_head_dim == 576 && p.v_head_dim == 512) {
      AttendLatents(step);
      return true;
    }
  }
  return false;
}

}  // namespace moed::kernels::flash

#endif  // KERNELS_PAGED_ATTENTION_FLASH_LAUNCH_CUDA_H_
