// One row times a packed weight, for the references of the ops that multiply weights.
#ifndef KERNELS_GEMM_REFERENCE_PRODUCT_H_
#define KERNELS_GEMM_REFERENCE_PRODUCT_H_

#include <vector>

#include "kernels/gemm/packed_weight.h"

namespace moed::kernels::reference {

// What a row x [k] is multiplied as: as the weight's ActivationRounding says; where it says nothing, itself for a
// weight of floats, and for integer weights, in each group, the nearest of the 255 multiples of its largest magnitude /
// 127.
std::vector<double> AsMultiplied(const std::vector<float>& x, const PackedWeight& weight);

// [n]: x * weight^T.
std::vector<double> Product(const std::vector<float>& x, const PackedWeight& weight);

}  // namespace moed::kernels::reference

#endif  // KERNELS_GEMM_REFERENCE_PRODUCT_H_
