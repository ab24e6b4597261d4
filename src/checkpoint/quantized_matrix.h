// The quantised matrices that safetensors checkpoints hold, put together from their tensors.
#ifndef MOED_CHECKPOINT_QUANTIZED_MATRIX_H_
#define MOED_CHECKPOINT_QUANTIZED_MATRIX_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "checkpoint/quantization_config.h"
#include "checkpoint/weight_matrix.h"
#include "tensor/tensor_view.h"

namespace moed {

// Where the tensors of a matrix come from.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  virtual bool Has(std::string_view name) const = 0;
  // Any tensor as it lies in the file; types of 8 bits that are none of ours, such as F8_E4M3, as kU8. NOT_FOUND.
  virtual absl::StatusOr<TensorView> GetRaw(std::string_view name) = 0;
};

// The names of the tensors that make up the weight `name` ("….q_proj.weight"), for all methods; some are not there.
std::vector<std::string> QuantizedTensorNames(std::string_view name);

// The matrix `name` [rows, columns] from its tensors:
//
//   fp8                 .weight F8_E4M3 [n, k], .weight_scale_inv [ceil(n / block), ceil(k / block)] or one for all
//   compressed-tensors  .weight I8 or F8_E4M3 [n, k], or .weight_packed I32 [n, k * bits / 32]; .weight_scale [n,
//   groups],
//                       [n] or one for all; .weight_zero_point of the same shape, packed along n where the weights are
//                       packed; .weight_g_idx [k]
//   awq                 .qweight I32 [k, n / 8], .qzeros I32 [groups, n / 8], .scales [groups, n]; the outputs of a
//   word in
//                       the order 0, 2, 4, 6, 1, 3, 5, 7
//   gptq                .qweight I32 [k * bits / 32, n], .qzeros I32 [groups, n * bits / 32], .scales [groups, n],
//                       .g_idx I32 [k]
//
// NOT_FOUND names the tensor that is missing, INVALID_ARGUMENT one of another shape, type or value than the others ask
// for.
absl::StatusOr<WeightMatrix> OpenQuantizedMatrix(const QuantizationConfig& config, TensorSource& source,
                                                 std::string_view name, int64_t rows, int64_t columns);

// Matrix `index` [rows, columns] of the `count` of a stack: from the same tensors with one dimension [count] before the
// others; with mxfp4 from NAME_blocks U8 [count, rows, columns / 32, 16] and NAME_scales U8 [count, rows, columns /
// 32], where the low half of a byte is the earlier element.
absl::StatusOr<WeightMatrix> OpenQuantizedStack(const QuantizationConfig& config, TensorSource& source,
                                                std::string_view name, int64_t index, int64_t count, int64_t rows,
                                                int64_t columns);

// The value of an E4M3 number (OCP 8-bit floating point 1.0): no infinities, 0x7f and 0xff are NaN.
float Fp8E4m3ToFloat(uint8_t bits);

}  // namespace moed

#endif  // MOED_CHECKPOINT_QUANTIZED_MATRIX_H_
