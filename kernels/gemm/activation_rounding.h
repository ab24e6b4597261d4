// Rows of activations rounded as a weight's ActivationRounding says.
#ifndef KERNELS_GEMM_ACTIVATION_ROUNDING_H_
#define KERNELS_GEMM_ACTIVATION_ROUNDING_H_

#include "kernels/gemm/packed_weight.h"

namespace moed::kernels {

// Points rounded[i] at rows[i] [k], rounded, for i < count: memory of the calling thread, until it calls this again. A
// row (a block) with an infinity or a NaN becomes NaN.
void RoundActivations(ActivationRounding rounding, const float* const* rows, int count, int64_t k,
                      const float** rounded);

}  // namespace moed::kernels

#endif  // KERNELS_GEMM_ACTIVATION_ROUNDING_H_
