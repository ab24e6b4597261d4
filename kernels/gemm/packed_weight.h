// Weights laid out for the micro-kernels, packed once at load.
#ifndef KERNELS_GEMM_PACKED_WEIGHT_H_
#define KERNELS_GEMM_PACKED_WEIGHT_H_

#include <string_view>

#include "base/status.h"
#include "kernels/gemm/weight_format.h"
#include "tensor/tensor_view.h"

namespace moed::kernels {

// What becomes of a row of x before it is multiplied with a weight, beyond what the weight's format asks for: as the
// makers of some checkpoints quantised it when they chose the weights. A magnitude a is the row's largest.
enum class ActivationRounding : uint8_t {
  kNone,
  kInt8Row,   // integers from -128 to 127, nearest to x / s, times s = a / 127.5
  kFp8Row,    // the values of E4M3 (OCP 8-bit floating point 1.0) nearest to x / s, times s = a / 448
  kFp8Block,  // likewise with a scale for each 128 inputs
};
std::string_view ActivationRoundingName(ActivationRounding rounding);

// Borrowed memory of PackedBytes(n, k, format) bytes, aligned to 64, the same on every device: panels of kPanel
// outputs, contiguous, outputs padded with zeros to whole panels; inside a panel k runs outermost, so that a kernel
// streams it once:
//   kF32   [k][kPanel]
//   kBF16  [ceil(k / 2)][kPanel][2]   pairs along k, as the bf16 dot product takes them; an odd k is padded with zero
//   kInt8  for each group, padded to a multiple of 8 inputs:
//            [inputs / 4][kPanel][4] bytes q + 128, then [kPanel] scales
//   kInt4  for each group, padded likewise:
//            [inputs / 8][kPanel][4] bytes, input i of 8 in the low half of byte i % 4 for i < 4, else in the high
//            half, q + 8, then [kPanel] scales
// A weight is q * scale, -128 <= q < 128 or -8 <= q < 8. Integers are stored without sign, as the 8-bit dot products
// want one of their operands. Scales are fp16 in units of kScaleUnit: exact for those of fp16 and bf16 checkpoints.
struct PackedWeight {
  static constexpr int64_t kPanel = 32;
  static constexpr float kScaleUnit = 0x1p-10f;

  const void* data = nullptr;
  int64_t n = 0;  // outputs
  int64_t k = 0;  // inputs
  WeightFormat format;
  // Of integer weights: kNone or kInt8Row, whose integers then are the ones that the kernels multiply. The CUDA bodies
  // take kNone.
  ActivationRounding activations = ActivationRounding::kNone;
};

// Bytes that the packed form of an [n, k] matrix takes.
size_t PackedBytes(int64_t n, int64_t k, WeightFormat format);

// Packs `source` (f32, bf16 or f16 [n, k], rows may be strided) as `format` into `destination`, and returns its
// description. Narrower floats are rounded to nearest even. Integers are scaled by group: int8 so that the largest
// magnitude is 127, int4 so that the squared error of the group is small. INVALID_ARGUMENT where a weight to be made an
// integer is not finite or beyond 8000 (int8) or 450 (int4). Thread-safe.
absl::StatusOr<PackedWeight> PackWeight(const TensorView& source, WeightFormat format, void* destination);

// For several matrices of the same k, one under the other (Q, K and V): packs `source` [rows, k] as the outputs
// [first_row, first_row + rows) of an [n, k] matrix at `destination`, which starts as zeros.
absl::Status PackWeightRows(const TensorView& source, int64_t first_row, int64_t n, WeightFormat format,
                            void* destination);

// The bytes from one of `count` weights of a shape and format to the next, which bodies that find a weight by its
// number on the device ask for; stops the program unless they are the same throughout.
int64_t WeightDistance(const PackedWeight* weights, int64_t count);

// The element that the packed form holds for (output, input), rounded as it is there; for references and tests.
float PackedElement(const PackedWeight& weight, int64_t output, int64_t input);

// INVALID_ARGUMENT, naming `name`, unless `weight` is a packed [n, k] matrix that the bodies can read.
absl::Status CheckPackedWeight(std::string_view name, const PackedWeight& weight, int64_t n, int64_t k);

// Where things lie in an integer panel.
struct IntegerLayout {
  int64_t group_size;
  int64_t bytes_per_8_inputs;  // of the kPanel outputs

  MOED_ALWAYS_INLINE explicit IntegerLayout(WeightFormat format)
      : group_size(format.group_size),
        bytes_per_8_inputs((format.type == WeightFormat::Type::kInt8 ? 8 : 4) * PackedWeight::kPanel) {}

  static constexpr int64_t kScaleBytes = PackedWeight::kPanel * 2;

  MOED_ALWAYS_INLINE bool is_int4() const { return bytes_per_8_inputs == 4 * PackedWeight::kPanel; }

  MOED_ALWAYS_INLINE static int64_t Padded(int64_t inputs) { return (inputs + 7) / 8 * 8; }
  MOED_ALWAYS_INLINE int64_t NumGroups(int64_t k) const { return (k + group_size - 1) / group_size; }
  // Inputs of group `group`, padded.
  MOED_ALWAYS_INLINE int64_t GroupInputs(int64_t k, int64_t group) const {
    const int64_t left = k - group * group_size;
    return left < group_size ? Padded(left) : group_size;
  }
  // Bytes of a group's integers; its scales follow.
  MOED_ALWAYS_INLINE int64_t DataBytes(int64_t inputs) const { return inputs / 8 * bytes_per_8_inputs; }
  MOED_ALWAYS_INLINE int64_t GroupOffset(int64_t group) const { return group * (DataBytes(group_size) + kScaleBytes); }
  MOED_ALWAYS_INLINE int64_t PanelBytes(int64_t k) const {
    const int64_t last = NumGroups(k) - 1;
    return GroupOffset(last) + DataBytes(GroupInputs(k, last)) + kScaleBytes;
  }
};

}  // namespace moed::kernels

#endif  // KERNELS_GEMM_PACKED_WEIGHT_H_
