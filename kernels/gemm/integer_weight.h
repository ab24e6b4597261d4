// Integer weights: from floats to integers, to packed groups and back.
#ifndef KERNELS_GEMM_INTEGER_WEIGHT_H_
#define KERNELS_GEMM_INTEGER_WEIGHT_H_

#include <span>

#include "kernels/gemm/packed_weight.h"

namespace moed::kernels {

// Quantises row[0, k) as PackWeight does: codes [k] and the scale of each group, [ceil(k / group_size)], exactly as the
// packed form holds it. Errors as PackWeight's.
absl::Status QuantizeIntegerRow(const float* row, int64_t k, WeightFormat format, int8_t* codes, float* scales);

// What is known of the rows x that a matrix is multiplied with: which of a weight's errors matter, and how the error of
// one is made up for by others.
struct InputStatistics {
  std::span<const float> squares;  // [k]: means of x_i^2
  // [k, k], upper triangular: U with U^T U = (mean of x x^T)^-1, for a mean that was made regular. Empty: each weight
  // by itself.
  std::span<const float> factor;
};

// Likewise of rows [count, k], so that the products with the known inputs change least, instead of the weights: scales
// are chosen for the squared error weighted with `squares`, and with a factor the error of each weight is taken off the
// weights behind it, as GPTQ does it (Frantar et al. 2022, arXiv:2210.17323). Changes `rows`. A row's results do not
// depend on the other rows.
absl::Status QuantizeIntegerRows(float* rows, int64_t count, int64_t k, WeightFormat format,
                                 const InputStatistics& inputs, int8_t* codes, float* scales);

// Writes integers that are there already, codes [k], as output `output` of an integer matrix. Input i is scaled by
// scales[i / scale_inputs], where scale_inputs is a multiple of the format's group size or at least k. INVALID_ARGUMENT
// for a scale that is not finite or beyond 63.9 in magnitude; others are rounded to the packed form's, if need be.
absl::Status PackIntegerCodes(const int8_t* codes, const float* scales, int64_t scale_inputs, int64_t output, int64_t k,
                              WeightFormat format, void* destination);

// Quantises row[0, k), the weights of output `output`, and writes them to their places in an integer matrix.
absl::Status PackIntegerRow(const float* row, int64_t output, int64_t k, WeightFormat format, void* destination);

// The weight that the packed form holds.
float IntegerElement(const PackedWeight& weight, int64_t output, int64_t input);

}  // namespace moed::kernels

#endif  // KERNELS_GEMM_INTEGER_WEIGHT_H_
