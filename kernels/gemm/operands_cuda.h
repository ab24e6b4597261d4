// The two sides of a product on the GPU. Weights stay in the panels of packed_weight.h, whose 32-bit words are already
// what a lane of mma.sync holds: two bf16 or four int8 of one output. Rows of activations are turned into the same
// words, padded with zeros, so that both sides are walked in steps of 8 words along k:
//
//   a step   32 bytes of a row: 16 inputs as bf16, 32 as int8
//            and their words for the kPanel outputs of a panel: 8 lines of 128 bytes (int4: 4, a word holds two)
//
// Inside a step lane member m = lane % 4 takes words 2m and 2m + 1 of both sides for the two halves of the
// instruction's k. That is another order of k than the instruction's own; the sum is over the same products.
#ifndef KERNELS_GEMM_OPERANDS_CUDA_H_
#define KERNELS_GEMM_OPERANDS_CUDA_H_

#include "kernels/common/cuda.h"
#include "kernels/common/ptx.h"
#include "kernels/gemm/packed_weight.h"
#include "tensor/exec_context.h"

namespace moed::kernels {

constexpr int kPanelOutputs = static_cast<int>(PackedWeight::kPanel);
constexpr int kStepBytes = 32;                 // of a row
constexpr int kLineBytes = kPanelOutputs * 4;  // a word of each output
constexpr int kBf16GroupSteps = 4;             // that count as a group where there are no scales
static_assert(kPanelOutputs == 32, "a quad of words for each of the 8 groups of lanes");

// How the steps of k lie in a panel. Groups share a scale; bf16, which has none, counts 64 inputs as a group.
struct PanelLayout {
  PanelLayout() = default;
  PanelLayout(WeightFormat format, int64_t k);

  __device__ __forceinline__ int LinesOf(int group) const {
    return group + 1 < num_groups ? lines_per_group : lines_in_last_group;
  }
  __device__ __forceinline__ int num_steps() const { return num_groups * steps_per_group; }

  int num_groups = 0, steps_per_group = 0;
  int lines_per_group = 0, lines_in_last_group = 0;
  int64_t group_bytes = 0, panel_bytes = 0;
};

// Rows of activations as they are multiplied: row r of head h starts at data + r * row_bytes + h * head_bytes. Integers
// have the scale of group g at scales[r * row_scales + h * head_scales + g]; weights' units are in it already.
struct OperandRows {
  const char* data = nullptr;
  int64_t row_bytes = 0, head_bytes = 0;
  const float* scales = nullptr;
  int64_t row_scales = 0, head_scales = 0;

  __device__ __forceinline__ OperandRows Head(int head) const {
    OperandRows rows = *this;
    rows.data += head * head_bytes;
    if (scales != nullptr) rows.scales += head * head_scales;
    return rows;
  }
};

// Turns x (f32 [m, k] or [m, heads, k]) into what weights of `format` are multiplied with, in the workspace: bf16
// rounded to nearest even, or integers with a scale for each group, as gemm.h says. Rows of floats stay where they are.
OperandRows PrepareRows(const ExecContext& ctx, const TensorView& x, WeightFormat format);

// Rows of floats as they are; what weights of floats are multiplied with, and those that RoundingBf16Words reads.
OperandRows FloatRows(const TensorView& x);
bool CanRoundWhileReading(const TensorView& x, WeightFormat format);

// Bytes that a row of k inputs takes when prepared.
int64_t PreparedRowBytes(WeightFormat format, int64_t k);

// ------------------------------------------------------------------------------------------- formats of the weights

struct Bf16Words {
  using Sum = float;
  static constexpr bool kIsInteger = false;
  static constexpr bool kRowsAreFloats = false;
  static constexpr int kLinesPerStep = 8;

  // The quads of words that a lane has for the two halves of a step's k, from its lines of the panel.
  static __device__ __forceinline__ void Unpack(const uint4 (&lines)[2], uint4 (&words)[2]) {
    words[0] = lines[0];
    words[1] = lines[1];
  }
  // For k in its own order: the line of a step in which its word i lies, and that word, from the line.
  static __device__ __forceinline__ int LineOfWord(int i) { return i; }
  static __device__ __forceinline__ unsigned UnpackWord(unsigned line, int /*i*/) { return line; }
  static __device__ __forceinline__ void Multiply(Sum (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    ptx::MmaBf16(d, a, b);
  }
};

// The same with rows of floats that are rounded as they are read, for so few of them that this costs less than to write
// and read the rounded ones.
struct RoundingBf16Words : Bf16Words {
  static constexpr bool kRowsAreFloats = true;
};

struct Int8Words {
  using Sum = int;
  static constexpr bool kIsInteger = true;
  static constexpr bool kRowsAreFloats = false;
  static constexpr int kLinesPerStep = 8;

  static __device__ __forceinline__ uint4 Signed(const uint4& raised) {
    constexpr unsigned kSigns = 0x80808080u;
    return make_uint4(raised.x ^ kSigns, raised.y ^ kSigns, raised.z ^ kSigns, raised.w ^ kSigns);
  }
  static __device__ __forceinline__ void Unpack(const uint4 (&lines)[2], uint4 (&words)[2]) {
    words[0] = Signed(lines[0]);
    words[1] = Signed(lines[1]);
  }
  static __device__ __forceinline__ int LineOfWord(int i) { return i; }
  static __device__ __forceinline__ unsigned UnpackWord(unsigned line, int /*i*/) { return line ^ 0x80808080u; }
  static __device__ __forceinline__ void Multiply(Sum (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    ptx::MmaS8(d, a, b);
  }
};

// Each integer becomes 16 times itself, in the upper half of a byte; the scales of the rows make up for it.
struct Int4Words {
  using Sum = int;
  static constexpr bool kIsInteger = true;
  static constexpr bool kRowsAreFloats = false;
  static constexpr int kLinesPerStep = 4;

  static __device__ __forceinline__ unsigned Upper(unsigned raised) { return (raised & 0xf0f0f0f0u) ^ 0x80808080u; }
  static __device__ __forceinline__ void Unpack(const uint4 (&lines)[2], uint4 (&words)[2]) {
    const uint4& line = lines[0];
    words[0] = make_uint4(Upper(line.x << 4), Upper(line.y << 4), Upper(line.z << 4), Upper(line.w << 4));
    words[1] = make_uint4(Upper(line.x), Upper(line.y), Upper(line.z), Upper(line.w));
  }
  static __device__ __forceinline__ int LineOfWord(int i) { return i / 2; }
  static __device__ __forceinline__ unsigned UnpackWord(unsigned line, int i) {
    return Upper(i % 2 == 0 ? line << 4 : line);
  }
  static __device__ __forceinline__ void Multiply(Sum (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    ptx::MmaS8(d, a, b);
  }
};

// Weights of floats are multiplied on the ordinary units, without steps.
struct F32Words {};

// Lines of a step that hold the words of a lane: two, or one where a word holds both halves.
template <typename Words>
constexpr int kLinesPerLane = Words::kLinesPerStep / 4;

// body(Words()) with what `format` is made of.
template <typename Body>
void WithWords(WeightFormat format, const Body& body) {
  switch (format.type) {
    case WeightFormat::Type::kF32:
      return body(F32Words());
    case WeightFormat::Type::kBF16:
      return body(Bf16Words());
    case WeightFormat::Type::kInt8:
      return body(Int8Words());
    case WeightFormat::Type::kInt4:
      return body(Int4Words());
  }
}

__device__ __forceinline__ unsigned ElementOf(const uint4& quad, int i) {
  return i == 0 ? quad.x : i == 1 ? quad.y : i == 2 ? quad.z : quad.w;
}

// The scales of outputs [first, first + N) of a panel's group, in units that the rows' scales make up for.
template <int N>
__device__ __forceinline__ void LoadWeightScales(const char* panel, const PanelLayout& layout, int group, int first,
                                                 float (&scales)[N]) {
  const char* place = panel + group * layout.group_bytes + layout.LinesOf(group) * kLineBytes;
  const Half* stored = reinterpret_cast<const Half*>(place) + first;
#pragma unroll
  for (int i = 0; i < N; ++i) scales[i] = LoadFloat(stored + i);
}

}  // namespace moed::kernels

#endif  // KERNELS_GEMM_OPERANDS_CUDA_H_
