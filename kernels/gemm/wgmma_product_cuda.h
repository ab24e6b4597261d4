// The product of many rows with the panels of a weight by warpgroups (wgmma, sm_90a), for weights of bf16 and of
// integers in groups of whole stages. The weights are the instruction's A, which comes from registers and may so have
// its outputs in any order: each warp takes the words that it needs from the panels' lines as they are. The rows of
// activations are its B, which it reads from shared memory. So d is [outputs, rows].
//
// A block takes kTokens rows and 8 panels in four pairs; stages of 128 bytes of each row come through shared memory by
// cp.async, two of them under way. A warp has half of the outputs of a pair's two panels, each panel's in one product,
// so that a thread holds gate and up of the same outputs where a pair is made of the two.
#ifndef KERNELS_GEMM_WGMMA_PRODUCT_CUDA_H_
#define KERNELS_GEMM_WGMMA_PRODUCT_CUDA_H_

#include "kernels/gemm/operands_cuda.h"

namespace moed::kernels {

// What a block computes: a tile of rows and a column of outputs.
struct BlockTile {
  int row_tile, column;
};

// Block `index` of row_tiles * columns. Blocks that run together share rows and weights, which come from the
// second-level cache then: the tiles of rows one after the other, each with all of a few columns.
__device__ __forceinline__ BlockTile TileOf(int index, int row_tiles, int columns) {
  constexpr int kColumnsTogether = 8;
  const int first = index / (row_tiles * kColumnsTogether) * kColumnsTogether;
  const int within = index - row_tiles * first;
  const int width = min(kColumnsTogether, columns - first);
  return {within / width, first + within % width};
}

// The panels of a block: pair i is made of first + i * distance and second + i * distance, as far as there are so many.
struct PanelPairs {
  const char *first, *second;
  int64_t distance;
  int num_first, num_second;
};

// Pairs of adjacent panels from `first` on, where so many are left.
__device__ __forceinline__ PanelPairs AdjacentPanels(const char* first, const PanelLayout& layout, int num_panels) {
  return {first, first + layout.panel_bytes, 2 * layout.panel_bytes, (num_panels + 1) / 2, num_panels / 2};
}

template <typename Words, int kTokens>
class WgmmaProduct {
 public:
  static constexpr int kRows = kTokens;
  static constexpr int kPairs = 4;
  static constexpr int kOutputs = 2 * kPairs * kPanelOutputs;
  static constexpr int kThreads = 256;

  // What a thread has of the outputs Output() and Output() + 1 of the panels of pair Pair(): as wgmma has it.
  struct Sums {
    float values[2][kTokens / 2];
  };

  static constexpr size_t SharedBytes() { return kAlignment + size_t{kStages} * (kStageBytes + kScaleBytes); }
  // Whether groups are made of whole stages.
  static bool Takes(const PanelLayout& layout) { return layout.steps_per_group % kStageSteps == 0; }

  // row_of(i) is the place of the block's row i in `x`, or -1 for a row of zeros.
  template <typename RowOf>
  __device__ __forceinline__ static void Run(const OperandRows& x, const RowOf& row_of, const PanelPairs& panels,
                                             const PanelLayout& layout, char* shared, Sums* sums);

  __device__ __forceinline__ static int Pair() { return Thread() / 64; }
  __device__ __forceinline__ static int Output() { return HalfOfPanel() * 16 + Lane() / 4 * 2; }

  // Calls body(row, first, second) with the results of each row of the block's that the calling thread has.
  template <typename Body>
  __device__ __forceinline__ static void ForEachRow(const Sums& sums, const Body& body);

 private:
  // Two stages are under way while one is multiplied; the one before it may still be read.
  static constexpr int kStages = 4;
  static constexpr int kStageSteps = 4;
  static constexpr int kStageRowBytes = kStageSteps * kStepBytes;
  static constexpr int kStageLines = kStageSteps * Words::kLinesPerStep;  // of a panel
  static constexpr int kAlignment = 1024;                                 // of the rows, for their swizzle
  static constexpr int kStageBytes = kTokens * kStageRowBytes + 2 * kPairs * kStageLines * kLineBytes;
  static_assert(kStageRowBytes == 128 && kStageBytes % kAlignment == 0);

  // The scales of a stage: of rows, those of a thread together, padded to lie in different banks; and of the panels.
  static constexpr int kRowScalesOfMember = kTokens / 4 + 4;
  static constexpr int kPanelScaleBytes = kPanelOutputs * 2;
  static constexpr int kRowScaleBytes = 4 * kRowScalesOfMember * 4;
  static constexpr int kScaleBytes = Words::kIsInteger ? kRowScaleBytes + 2 * kPairs * kPanelScaleBytes : 0;

  // What a thread copies of a stage: a quad of some rows and of a line of each panel.
  static constexpr int kQuads = 128 / 16;
  static constexpr int kRowsAtOnce = kThreads / kQuads;
  static constexpr int kRowCopies = kTokens / kRowsAtOnce;
  static constexpr int kPairsAtOnce = kThreads / kQuads / kStageLines;

  // The line of the panels that a thread copies: computed once where there are registers for it, which integers leave
  // none of.
  struct LineCopies {
    const char* from[2];  // in the first and the second panel of its first pair
    int64_t distance;     // to those of its next pair
    uint32_t to;          // in a stage
    int line;             // of the stage's lines of a panel
    uint32_t exist;       // bits of panels that there are: [slot][pair of its own]
  };

  // The copies of a stage come in parts, between which there is other work: rows, first panels and second ones.
  static constexpr int kParts = 3;
  struct Copies {
    uint32_t rows[kRowCopies];  // where they start, in quads, or kNoRow
    // Where the stage starts in the panels.
    int group, step_in_group;
    LineCopies lines;  // of floats
  };
  static constexpr uint32_t kNoRow = ~0u;

  template <typename RowOf>
  __device__ __forceinline__ static Copies StartCopies(const OperandRows& x, const RowOf& row_of,
                                                       const PanelPairs& panels);
  __device__ __forceinline__ static LineCopies StartLines(const PanelPairs& panels);
  __device__ __forceinline__ static void CopyLines(const PanelLayout& layout, int slot, Copies* copies, char* stage);
  __device__ __forceinline__ static void CopyRows(const OperandRows& x, const Copies& copies, int stage, char* to);
  __device__ __forceinline__ static void CopyPanels(const PanelPairs& panels, const PanelLayout& layout, int slot,
                                                    const Copies& copies, char* stage);
  template <typename RowOf>
  __device__ __forceinline__ static void CopyScales(const OperandRows& x, const RowOf& row_of, const PanelPairs& panels,
                                                    const PanelLayout& layout, int group, char* scales);

  // The thread's part of A for a step and a panel of its pair.
  __device__ __forceinline__ static void LoadWords(const char* stage, int step, int slot, unsigned (&words)[4]);
  template <typename CopyPart, typename NextStage>
  __device__ __forceinline__ static void AddFloats(const char* stage, unsigned (&words)[4][2][4], Sums* sums,
                                                   const CopyPart& copy_part, const NextStage& next_stage);
  template <typename CopyPart>
  __device__ __forceinline__ static void AddIntegers(const char* stage, const char* scales, Sums* sums,
                                                     const CopyPart& copy_part);
  __device__ __forceinline__ static void AddScaled(const char* scales, int slot, const int (&products)[kTokens / 2],
                                                   float (&sums)[kTokens / 2]);

  __device__ __forceinline__ static char* Stage(char* shared, int stage) {
    return shared + stage % kStages * kStageBytes;
  }
  __device__ __forceinline__ static char* Scales(char* shared, int stage) {
    return shared + kStages * kStageBytes + stage % kStages * kScaleBytes;
  }
  // Lines that the lanes of a warp read at once differ in their last two bits, the quads in the first.
  __device__ __forceinline__ static int Swizzled(int line, int quad) {
    return line * kLineBytes + ((quad ^ line % 4 * 2) * 16);
  }

  __device__ __forceinline__ static int Thread() { return static_cast<int>(threadIdx.x); }
  __device__ __forceinline__ static int Lane() { return Thread() % 32; }
  // Which half of the outputs of its panels the warp has.
  __device__ __forceinline__ static int HalfOfPanel() { return Thread() / 32 % 2; }
};

template <typename Words, int kTokens>
template <typename RowOf>
__device__ __forceinline__ typename WgmmaProduct<Words, kTokens>::Copies WgmmaProduct<Words, kTokens>::StartCopies(
    const OperandRows& x, const RowOf& row_of, const PanelPairs& panels) {
  Copies copies;
#pragma unroll
  for (int i = 0; i < kRowCopies; ++i) {
    const int place = row_of(Thread() / kQuads + i * kRowsAtOnce);
    const auto quad = static_cast<uint32_t>(place * (x.row_bytes / 16) + Thread() % kQuads);
    copies.rows[i] = place < 0 ? kNoRow : quad;
  }
  copies.group = copies.step_in_group = 0;
  if constexpr (!Words::kIsInteger) copies.lines = StartLines(panels);
  return copies;
}

template <typename Words, int kTokens>
__device__ __forceinline__ typename WgmmaProduct<Words, kTokens>::LineCopies WgmmaProduct<Words, kTokens>::StartLines(
    const PanelPairs& panels) {
  LineCopies lines;
  const int quad = Thread() % kQuads;
  lines.line = Thread() / kQuads % kStageLines;
  const int first_pair = Thread() / kQuads / kStageLines;
  const int64_t offset = first_pair * panels.distance + lines.line * kLineBytes + quad * 16;
  lines.from[0] = panels.first + offset;
  lines.from[1] = panels.second + offset;
  lines.distance = kPairsAtOnce * panels.distance;
  lines.to = kTokens * kStageRowBytes + first_pair * 2 * kStageLines * kLineBytes + Swizzled(lines.line, quad);
  lines.exist = 0;
#pragma unroll
  for (int pair = 0; pair < kPairs; pair += kPairsAtOnce) {
    if (first_pair + pair < panels.num_first) lines.exist |= 1u << pair;
    if (first_pair + pair < panels.num_second) lines.exist |= 1u << (kPairs + pair);
  }
  return lines;
}

// Of floats, whose stages are whole groups and lie one after the other.
template <typename Words, int kTokens>
__device__ __forceinline__ void WgmmaProduct<Words, kTokens>::CopyLines(const PanelLayout& layout, int slot,
                                                                        Copies* copies, char* stage) {
  LineCopies& lines = copies->lines;
  const uint32_t exist = lines.line < layout.LinesOf(copies->group) ? lines.exist : 0;
  char* const to = stage + lines.to + slot * kStageLines * kLineBytes;
  const char* from = lines.from[slot];
#pragma unroll
  for (int pair = 0; pair < kPairs; pair += kPairsAtOnce) {
    ptx::CpAsync16(to + pair * 2 * kStageLines * kLineBytes, from, (exist >> (slot * kPairs + pair) & 1) != 0);
    from += lines.distance;
  }
  lines.from[slot] += kStageLines * kLineBytes;
}

template <typename Words, int kTokens>
__device__ __forceinline__ void WgmmaProduct<Words, kTokens>::CopyRows(const OperandRows& x, const Copies& copies,
                                                                       int stage, char* to) {
  const int thread = ptx::Recompute(Thread());
  const int first_row = thread / kQuads;
  const char* data = x.data + stage * kStageRowBytes;
  to += first_row * kStageRowBytes + (thread % kQuads ^ first_row % 8) * 16;
#pragma unroll
  for (int i = 0; i < kRowCopies; ++i) {
    ptx::CpAsync16(to + i * kRowsAtOnce * kStageRowBytes, data + static_cast<uint64_t>(copies.rows[i]) * 16,
                   copies.rows[i] != kNoRow);
  }
}

template <typename Words, int kTokens>
__device__ __forceinline__ void WgmmaProduct<Words, kTokens>::CopyPanels(const PanelPairs& panels,
                                                                         const PanelLayout& layout, int slot,
                                                                         const Copies& copies, char* stage) {
  const int thread = ptx::Recompute(Thread());
  const int line = thread / kQuads % kStageLines;
  const int first_pair = thread / kQuads / kStageLines;
  const int line_in_group = copies.step_in_group * Words::kLinesPerStep + line;
  const int pairs = slot == 0 ? panels.num_first : panels.num_second;
  const int pairs_here = line_in_group < layout.LinesOf(copies.group) ? pairs : 0;
  const char* from = (slot == 0 ? panels.first : panels.second) + first_pair * panels.distance +
                     copies.group * layout.group_bytes + line_in_group * kLineBytes + thread % kQuads * 16;
  char* to = stage + kTokens * kStageRowBytes + (first_pair * 2 + slot) * kStageLines * kLineBytes +
             Swizzled(line, thread % kQuads);
#pragma unroll
  for (int pair = 0; pair < kPairs; pair += kPairsAtOnce) {
    ptx::CpAsync16(to + pair * 2 * kStageLines * kLineBytes, from, first_pair + pair < pairs_here);
    from += kPairsAtOnce * panels.distance;
  }
}

template <typename Words, int kTokens>
template <typename RowOf>
__device__ __forceinline__ void WgmmaProduct<Words, kTokens>::CopyScales(const OperandRows& x, const RowOf& row_of,
                                                                         const PanelPairs& panels,
                                                                         const PanelLayout& layout, int group,
                                                                         char* scales) {
  const int thread = ptx::Recompute(Thread());
  if (thread < kTokens) {
    const int place = thread % 8 / 2 * kRowScalesOfMember + thread / 8 * 2 + thread % 2;
    const int row = row_of(thread);
    ptx::CpAsync4(scales + place * 4, x.scales + row * x.row_scales + group, row >= 0);
  }
  constexpr int kQuadsOfPanel = kPanelScaleBytes / 16;
  const int quad = kThreads - 1 - thread;  // of the last threads: the first have the rows'
  if (quad < 2 * kPairs * kQuadsOfPanel) {
    const int panel = quad / kQuadsOfPanel;
    const char* from = (panel % 2 == 0 ? panels.first : panels.second) + panel / 2 * panels.distance +
                       group * layout.group_bytes + layout.LinesOf(group) * kLineBytes;
    ptx::CpAsync16(scales + kRowScaleBytes + quad * 16, from + quad % kQuadsOfPanel * 16,
                   panel / 2 < (panel % 2 == 0 ? panels.num_first : panels.num_second));
  }
  __syncwarp();  // wgmma's instructions are for whole warps
}

template <typename Words, int kTokens>
__device__ __forceinline__ void WgmmaProduct<Words, kTokens>::LoadWords(const char* stage, int step, int slot,
                                                                        unsigned (&words)[4]) {
  const char* lines =
      stage + kTokens * kStageRowBytes + (Pair() * 2 + slot) * kStageLines * kLineBytes + Lane() / 4 % 2 * 8;
  const int quad = HalfOfPanel() * 4 + Lane() / 8;
  const int member = Lane() % 4;
  // Words `member` and `member` + 4 of the step, of the two outputs.
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int line = step * Words::kLinesPerStep + Words::LineOfWord(member) + i * Words::kLinesPerStep / 2;
    const uint2 pair = *reinterpret_cast<const uint2*>(lines + Swizzled(line, quad));
    words[2 * i] = Words::UnpackWord(pair.x, member);
    words[2 * i + 1] = Words::UnpackWord(pair.y, member);
  }
}

// A step's products run while the words of the next are loaded, from one stage to the next too. ptxas lets products run
// on only where words are loaded before the products of the step before are started, to registers that no product reads
// which may still run.
template <typename Words, int kTokens>
template <typename CopyPart, typename NextStage>
__device__ __forceinline__ void WgmmaProduct<Words, kTokens>::AddFloats(const char* stage, unsigned (&words)[4][2][4],
                                                                        Sums* sums, const CopyPart& copy_part,
                                                                        const NextStage& next_stage) {
#pragma unroll
  for (int step = 0; step < kStageSteps; ++step) {
    const int next = (step + 1) % kStageSteps;
    const char* from = next > 0 ? stage : next_stage();
#pragma unroll
    for (int slot = 0; slot < 2; ++slot) LoadWords(from, next, slot, words[next][slot]);
    ptx::WgmmaFence();
#pragma unroll
    for (int slot = 0; slot < 2; ++slot) {
      ptx::WgmmaBf16<kTokens>(sums->values[slot], words[step][slot], stage + step * kStepBytes, true);
    }
    ptx::WgmmaCommit();
    if (step < kParts) copy_part(step);
    ptx::WgmmaWait<2>();
  }
}

// One panel of the pair after the other, so that the registers hold one's integers. The other warpgroup keeps the
// tensor cores busy while this one scales.
template <typename Words, int kTokens>
template <typename CopyPart>
__device__ __forceinline__ void WgmmaProduct<Words, kTokens>::AddIntegers(const char* stage, const char* scales,
                                                                          Sums* sums, const CopyPart& copy_part) {
#pragma unroll
  for (int slot = 0; slot < 2; ++slot) {
    unsigned words[3][4];
    int products[kTokens / 2];
    LoadWords(stage, 0, slot, words[0]);
#pragma unroll
    for (int step = 0; step < kStageSteps; ++step) {
      if (step + 1 < kStageSteps) LoadWords(stage, step + 1, slot, words[(step + 1) % 3]);
      ptx::WgmmaFence();
      ptx::WgmmaS8<kTokens>(products, words[step % 3], stage + step * kStepBytes, step > 0);
      ptx::WgmmaCommit();
      if (step + 1 < kStageSteps) ptx::WgmmaWait<1>();
    }
#pragma unroll
    for (int part = slot * 2; part < kParts - 1 + slot; ++part) copy_part(part);
    ptx::WgmmaWait<0>();
    ptx::WgmmaResults(products);
    AddScaled(scales, slot, products, sums->values[slot]);
  }
}

template <typename Words, int kTokens>
__device__ __forceinline__ void WgmmaProduct<Words, kTokens>::AddScaled(const char* scales, int slot,
                                                                        const int (&products)[kTokens / 2],
                                                                        float (&sums)[kTokens / 2]) {
  const int thread = ptx::Recompute(Thread());
  const char* panel = scales + kRowScaleBytes + (thread / 64 * 2 + slot) * kPanelScaleBytes;
  const Half* stored = reinterpret_cast<const Half*>(panel) + (thread / 32 % 2 * 16 + thread % 32 / 4 * 2);
  const float outputs[2] = {LoadFloat(stored), LoadFloat(stored + 1)};
  const auto* rows = reinterpret_cast<const float4*>(scales) + thread % 4 * (kRowScalesOfMember / 4);
#pragma unroll
  for (int i = 0; i < kTokens / 16; ++i) {
    const float4 four = rows[i];
    const float row[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const int at = i * 8 + j;
      sums[at] += static_cast<float>(products[at]) * (outputs[j / 2 % 2] * row[j / 4 * 2 + j % 2]);
    }
  }
}

template <typename Words, int kTokens>
template <typename RowOf>
__device__ __forceinline__ void WgmmaProduct<Words, kTokens>::Run(const OperandRows& x, const RowOf& row_of,
                                                                  const PanelPairs& panels, const PanelLayout& layout,
                                                                  char* shared, Sums* sums) {
  shared += -reinterpret_cast<uintptr_t>(shared) % kAlignment;
  const int num_stages = layout.num_steps() / kStageSteps;
  Copies copies = StartCopies(x, row_of, panels);
  const auto copy_part = [&](int stage, int part) {
    if (stage < num_stages) {
      char* to = Stage(shared, stage);
      if (part == 0) CopyRows(x, copies, stage, to);
      if (part > 0 && Words::kIsInteger) CopyPanels(panels, layout, part - 1, copies, to);
      if (part > 0 && !Words::kIsInteger) CopyLines(layout, part - 1, &copies, to);
      if (Words::kIsInteger && part == 0) CopyScales(x, row_of, panels, layout, copies.group, Scales(shared, stage));
    }
    if (part + 1 < kParts) return;
    ptx::CpAsyncCommit();
    copies.step_in_group += kStageSteps;
    if (copies.step_in_group < layout.steps_per_group) return;
    copies.step_in_group = 0;
    ++copies.group;
  };
  for (int stage = 0; stage < kStages - 2; ++stage) {
#pragma unroll
    for (int part = 0; part < kParts; ++part) copy_part(stage, part);
  }
  const auto take_stage = [&](int stage) {
    ptx::CpAsyncWait<kStages - 3>();
    ptx::FenceProxyAsync();
    __syncthreads();  // the stage is here for all, and nobody reads the last one but one any more
    return Stage(shared, stage);
  };
  *sums = {};
  if constexpr (Words::kIsInteger) {
    for (int stage = 0; stage < num_stages; ++stage) {
      AddIntegers(take_stage(stage), Scales(shared, stage), sums,
                  [&](int part) { copy_part(stage + kStages - 2, part); });
    }
  } else {
    unsigned words[kStageSteps][2][4];
    const char* here = take_stage(0);
#pragma unroll
    for (int slot = 0; slot < 2; ++slot) LoadWords(here, 0, slot, words[0][slot]);
    for (int stage = 0; stage < num_stages; ++stage) {
      const char* next = nullptr;
      AddFloats(
          here, words, sums, [&](int part) { copy_part(stage + kStages - 2, part); },
          [&] { return next = take_stage(stage + 1); });
      here = next;
    }
    ptx::WgmmaWait<0>();  // here, where the words that products may still read are alive
  }
  ptx::WgmmaResults(sums->values[0]);
  ptx::WgmmaResults(sums->values[1]);
  ptx::CpAsyncWait<0>();
}

template <typename Words, int kTokens>
template <typename Body>
__device__ __forceinline__ void WgmmaProduct<Words, kTokens>::ForEachRow(const Sums& sums, const Body& body) {
#pragma unroll
  for (int i = 0; i < kTokens / 8; ++i) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const float first[2] = {sums.values[0][i * 4 + j], sums.values[0][i * 4 + 2 + j]};
      const float second[2] = {sums.values[1][i * 4 + j], sums.values[1][i * 4 + 2 + j]};
      body(i * 8 + Lane() % 4 * 2 + j, first, second);
    }
  }
}

}  // namespace moed::kernels

#endif  // KERNELS_GEMM_WGMMA_PRODUCT_CUDA_H_
