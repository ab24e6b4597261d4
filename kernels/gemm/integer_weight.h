// Integer weights: from floats to packed groups and back.
#ifndef KERNELS_GEMM_INTEGER_WEIGHT_H_
#define KERNELS_GEMM_INTEGER_WEIGHT_H_

#include "kernels/gemm/packed_weight.h"

namespace moed::kernels {

// Quantises row[0, k), the weights of output `output`, and writes them to their places in an integer matrix.
absl::Status PackIntegerRow(const float* row, int64_t output, int64_t k, WeightFormat format, void* destination);

// The weight that the packed form holds.
float IntegerElement(const PackedWeight& weight, int64_t output, int64_t input);

}  // namespace moed::kernels

#endif  // KERNELS_GEMM_INTEGER_WEIGHT_H_
