// The product of many rows with the panels of a weight on the tensor cores (mma.sync), for weights of steps
// (operands_cuda.h). A block takes 32 kRowWarps rows and kTilePanels panels; stages of two steps of both come through
// shared memory by cp.async, kStages of them under way. A warp has 32 rows and two panels: the two need not follow each
// other, so that a warp can hold gate and up of the same outputs.
#ifndef KERNELS_GEMM_TILE_PRODUCT_CUDA_H_
#define KERNELS_GEMM_TILE_PRODUCT_CUDA_H_

#include "kernels/gemm/operands_cuda.h"

namespace moed::kernels {

constexpr int kTilePanels = 4;
constexpr int kWarpPanels = 2;
constexpr int kWarpRows = 32;

// A warp's results: [panel][16 rows][column of a quad][as mma.sync has them].
template <typename Sum>
struct WarpSums {
  Sum values[kWarpPanels][kWarpRows / 16][4][4];
};
using TileSums = WarpSums<float>;

template <typename Words, int kRowWarps>
class TileProduct {
 public:
  static constexpr int kRows = kRowWarps * kWarpRows;
  static constexpr int kThreads = kRowWarps * (kTilePanels / kWarpPanels) * 32;

  static constexpr size_t SharedBytes() { return size_t{kStages} * kStageBytes; }

  // row_of(i) is the place of the block's row i in `x`, or -1 for a row of zeros; panel_of(j) is its panel j, or null
  // for outputs that there are not.
  template <typename RowOf, typename PanelOf>
  __device__ __forceinline__ static void Run(const OperandRows& x, const RowOf& row_of, const PanelOf& panel_of,
                                             const PanelLayout& layout, char* shared, TileSums* sums);

  // Calls body(row, slot, output, left, right) with each eight results of a row that the calling thread has: those of
  // the outputs [output, output + 8) of panels `slot` and slot + 1 of the block's.
  template <typename Body>
  __device__ __forceinline__ static void ForEachEight(const TileSums& sums, const Body& body);

 private:
  static constexpr int kStages = 4;
  static constexpr int kStageSteps = 2;
  // Padded so that what the lanes of a warp read at once lies in different banks.
  static constexpr int kSharedRowBytes = kStageSteps * kStepBytes + 32;
  static constexpr int kSharedLineBytes = kLineBytes + (Words::kLinesPerStep == 8 ? 16 : 32);
  static constexpr int kStageLines = kStageSteps * Words::kLinesPerStep;
  static constexpr int kStageBytes = kRows * kSharedRowBytes + kTilePanels * kStageLines * kSharedLineBytes;

  // What a thread copies: a quad of words of some rows and of some lines, the same of each stage.
  static constexpr int kQuadsOfRow = kStageSteps * kStepBytes / 16;
  static constexpr int kQuadsOfLine = kLineBytes / 16;
  static constexpr int kRowCopies = kRows * kQuadsOfRow / kThreads;
  static constexpr int kPanelsAtOnce = kThreads / kQuadsOfLine / kStageLines;
  static constexpr int kPanelCopies = kTilePanels / kPanelsAtOnce;
  static_assert(kRowCopies * kThreads == kRows * kQuadsOfRow && kPanelCopies * kPanelsAtOnce == kTilePanels);

  struct Copies {
    const char* rows[kRowCopies];  // null: zeros
    const char* panels[kPanelCopies];
    // The step of the panels that the next stage takes.
    int group, step_in_group;
  };

  template <typename RowOf, typename PanelOf>
  __device__ __forceinline__ static Copies StartCopies(const OperandRows& x, const RowOf& row_of,
                                                       const PanelOf& panel_of, const PanelLayout& layout);
  __device__ __forceinline__ static void CopyStage(const PanelLayout& layout, int stage, char* shared, Copies* copies);
  template <typename Sum>
  __device__ __forceinline__ static void AddStep(const char* stage, int step, WarpSums<Sum>* sums);
  template <typename RowOf, typename PanelOf>
  __device__ __forceinline__ static void AddScaled(const OperandRows& x, const RowOf& row_of, const PanelOf& panel_of,
                                                   const PanelLayout& layout, int group, const WarpSums<int>& products,
                                                   TileSums* sums);

  __device__ __forceinline__ static int Thread() { return static_cast<int>(threadIdx.x); }
  __device__ __forceinline__ static int Lane() { return Thread() % 32; }
  // The first row of the warp, and the first of its panels, in the block's.
  __device__ __forceinline__ static int FirstRow() { return Thread() / 32 % kRowWarps * kWarpRows; }
  __device__ __forceinline__ static int FirstPanel() { return Thread() / 32 / kRowWarps * kWarpPanels; }
};

template <typename Words, int kRowWarps>
template <typename RowOf, typename PanelOf>
__device__ __forceinline__ typename TileProduct<Words, kRowWarps>::Copies TileProduct<Words, kRowWarps>::StartCopies(
    const OperandRows& x, const RowOf& row_of, const PanelOf& panel_of, const PanelLayout& layout) {
  Copies copies;
#pragma unroll
  for (int i = 0; i < kRowCopies; ++i) {
    const int quad = Thread() + i * kThreads;
    const int row = row_of(quad / kQuadsOfRow);
    copies.rows[i] = row < 0 ? nullptr : x.data + row * x.row_bytes + quad % kQuadsOfRow * 16;
  }
  const int line = Thread() / kQuadsOfLine;
#pragma unroll
  for (int i = 0; i < kPanelCopies; ++i) {
    const char* panel = panel_of(line / kStageLines + i * kPanelsAtOnce);
    copies.panels[i] = panel == nullptr ? nullptr : panel + Thread() % kQuadsOfLine * 16;
  }
  const int step = line % kStageLines / Words::kLinesPerStep;
  copies.group = step / layout.steps_per_group;
  copies.step_in_group = step % layout.steps_per_group;
  return copies;
}

template <typename Words, int kRowWarps>
__device__ __forceinline__ void TileProduct<Words, kRowWarps>::CopyStage(const PanelLayout& layout, int stage,
                                                                         char* shared, Copies* copies) {
  char* rows = shared + stage % kStages * kStageBytes;
  char* lines = rows + kRows * kSharedRowBytes;
#pragma unroll
  for (int i = 0; i < kRowCopies; ++i) {
    const int quad = Thread() + i * kThreads;
    const int step = stage * kStageSteps + quad % kQuadsOfRow * 16 / kStepBytes;
    const bool valid = copies->rows[i] != nullptr && step < layout.num_steps();
    const char* from = valid ? copies->rows[i] + static_cast<int64_t>(stage) * kStageSteps * kStepBytes : nullptr;
    ptx::CpAsync16(rows + quad / kQuadsOfRow * kSharedRowBytes + quad % kQuadsOfRow * 16, from, valid);
  }
  const int line = Thread() / kQuadsOfLine;
  const int line_in_group = copies->step_in_group * Words::kLinesPerStep + line % Words::kLinesPerStep;
  const bool exists = copies->group < layout.num_groups && line_in_group < layout.LinesOf(copies->group);
  const int64_t offset = copies->group * layout.group_bytes + line_in_group * kLineBytes;
#pragma unroll
  for (int i = 0; i < kPanelCopies; ++i) {
    const bool valid = exists && copies->panels[i] != nullptr;
    const int place = i * kPanelsAtOnce * kStageLines + line;
    ptx::CpAsync16(lines + place * kSharedLineBytes + Thread() % kQuadsOfLine * 16,
                   valid ? copies->panels[i] + offset : nullptr, valid);
  }
  copies->step_in_group += kStageSteps;
  while (copies->step_in_group >= layout.steps_per_group) {
    copies->step_in_group -= layout.steps_per_group;
    ++copies->group;
  }
}

template <typename Words, int kRowWarps>
template <typename Sum>
__device__ __forceinline__ void TileProduct<Words, kRowWarps>::AddStep(const char* stage, int step,
                                                                       WarpSums<Sum>* sums) {
  const int group = Lane() / 4;
  const int member = Lane() % 4;
  unsigned a[kWarpRows / 16][4];
#pragma unroll
  for (int i = 0; i < kWarpRows / 16; ++i) {
    const char* row = stage + (FirstRow() + i * 16 + group) * kSharedRowBytes + step * kStepBytes + member * 8;
    const uint2 upper = *reinterpret_cast<const uint2*>(row);
    const uint2 lower = *reinterpret_cast<const uint2*>(row + 8 * kSharedRowBytes);
    a[i][0] = upper.x;
    a[i][1] = lower.x;
    a[i][2] = upper.y;
    a[i][3] = lower.y;
  }
  const char* lines = stage + kRows * kSharedRowBytes;
#pragma unroll
  for (int panel = 0; panel < kWarpPanels; ++panel) {
    uint4 quads[2];
    uint4 words[2];
#pragma unroll
    for (int j = 0; j < kLinesPerLane<Words>; ++j) {
      const int line =
          (FirstPanel() + panel) * kStageLines + step * Words::kLinesPerStep + member * kLinesPerLane<Words> + j;
      quads[j] = *reinterpret_cast<const uint4*>(lines + line * kSharedLineBytes + group * 16);
    }
    Words::Unpack(quads, words);
#pragma unroll
    for (int column = 0; column < 4; ++column) {
      const unsigned b[2] = {ElementOf(words[0], column), ElementOf(words[1], column)};
#pragma unroll
      for (int i = 0; i < kWarpRows / 16; ++i) Words::Multiply(sums->values[panel][i][column], a[i], b);
    }
  }
}

// Adds a group's integers, scaled.
template <typename Words, int kRowWarps>
template <typename RowOf, typename PanelOf>
__device__ __forceinline__ void TileProduct<Words, kRowWarps>::AddScaled(const OperandRows& x, const RowOf& row_of,
                                                                         const PanelOf& panel_of,
                                                                         const PanelLayout& layout, int group,
                                                                         const WarpSums<int>& products,
                                                                         TileSums* sums) {
  float row_scales[kWarpRows / 16][2];
#pragma unroll
  for (int i = 0; i < kWarpRows / 16; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = row_of(FirstRow() + i * 16 + half * 8 + Lane() / 4);
      row_scales[i][half] = row < 0 ? 0.0f : x.scales[row * x.row_scales + group];
    }
  }
#pragma unroll
  for (int panel = 0; panel < kWarpPanels; ++panel) {
    const char* weight = panel_of(FirstPanel() + panel);
    if (weight == nullptr) continue;
    float scales[8];
    LoadWeightScales(weight, layout, group, Lane() % 4 * 8, scales);
#pragma unroll
    for (int i = 0; i < kWarpRows / 16; ++i) {
#pragma unroll
      for (int column = 0; column < 4; ++column) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          sums->values[panel][i][column][j] += static_cast<float>(products.values[panel][i][column][j]) *
                                               (scales[j % 2 * 4 + column] * row_scales[i][j / 2]);
        }
      }
    }
  }
}

template <typename Words, int kRowWarps>
template <typename RowOf, typename PanelOf>
__device__ __forceinline__ void TileProduct<Words, kRowWarps>::Run(const OperandRows& x, const RowOf& row_of,
                                                                   const PanelOf& panel_of, const PanelLayout& layout,
                                                                   char* shared, TileSums* sums) {
  Copies copies = StartCopies(x, row_of, panel_of, layout);
  const int num_stages = CeilDiv(layout.num_steps(), kStageSteps);
  for (int stage = 0; stage < kStages - 1; ++stage) {
    if (stage < num_stages) CopyStage(layout, stage, shared, &copies);
    ptx::CpAsyncCommit();
  }
  *sums = {};
  WarpSums<int> products = {};  // of a group of integers
  int step_in_group = 0;
  int group = 0;
  for (int stage = 0; stage < num_stages; ++stage) {
    ptx::CpAsyncWait<kStages - 2>();
    __syncthreads();  // this stage is here for all, and nobody reads the last one any more
    if (stage + kStages - 1 < num_stages) CopyStage(layout, stage + kStages - 1, shared, &copies);
    ptx::CpAsyncCommit();
    const char* here = shared + stage % kStages * kStageBytes;
#pragma unroll
    for (int step = 0; step < kStageSteps; ++step) {
      if constexpr (!Words::kIsInteger) {
        AddStep(here, step, sums);
      } else {
        AddStep(here, step, &products);
        if (++step_in_group < layout.steps_per_group) continue;
        if (group < layout.num_groups) AddScaled(x, row_of, panel_of, layout, group, products, sums);
        products = {};
        step_in_group = 0;
        ++group;
      }
    }
  }
  ptx::CpAsyncWait<0>();
}

template <typename Words, int kRowWarps>
template <typename Body>
__device__ __forceinline__ void TileProduct<Words, kRowWarps>::ForEachEight(const TileSums& sums, const Body& body) {
#pragma unroll
  for (int i = 0; i < kWarpRows / 16; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float eights[kWarpPanels][8];
#pragma unroll
      for (int panel = 0; panel < kWarpPanels; ++panel) {
#pragma unroll
        for (int j = 0; j < 8; ++j) eights[panel][j] = sums.values[panel][i][j % 4][half * 2 + j / 4];
      }
      body(FirstRow() + i * 16 + half * 8 + Lane() / 4, FirstPanel(), Lane() % 4 * 8, eights[0], eights[1]);
    }
  }
}

}  // namespace moed::kernels

#endif  // KERNELS_GEMM_TILE_PRODUCT_CUDA_H_
