// Weights laid out for the micro-kernels, packed once at load.
#ifndef KERNELS_GEMM_PACKED_WEIGHT_H_
#define KERNELS_GEMM_PACKED_WEIGHT_H_

#include "base/status.h"
#include "tensor/tensor_view.h"

namespace moed::kernels {

// Borrowed memory of PackedBytes(n, k, dtype) bytes, aligned to 64. On the CPU: panels of kPanel outputs, contiguous,
// outputs padded with zeros to whole panels; inside a panel k runs outermost, so that a kernel streams it once:
//   kF32   [k][kPanel]
//   kBF16  [ceil(k / 2)][kPanel][2]   pairs along k, as the bf16 dot product takes them; an odd k is padded with zero
struct PackedWeight {
  static constexpr int64_t kPanel = 32;

  const void* data = nullptr;
  int64_t n = 0;  // outputs
  int64_t k = 0;  // inputs
  DType dtype = DType::kF32;
};

// Bytes that the packed form of an [n, k] matrix takes; dtype is kF32 or kBF16.
size_t PackedBytes(int64_t n, int64_t k, DType dtype);

// Packs `source` (f32, bf16 or f16 [n, k], rows may be strided) as `dtype` into `destination`, rounding to nearest even
// where dtype is narrower, and returns its description. UNIMPLEMENTED for another dtype. Thread-safe.
absl::StatusOr<PackedWeight> PackWeight(const TensorView& source, DType dtype, void* destination);

// For several matrices of the same k, one under the other (Q, K and V): packs `source` [rows, k] as the outputs
// [first_row, first_row + rows) of an [n, k] matrix at `destination`, which starts as zeros.
absl::Status PackWeightRows(const TensorView& source, int64_t first_row, int64_t n, DType dtype, void* destination);

// The element that the packed form holds for (output, input), rounded as it is there; for references and tests.
float PackedElement(const PackedWeight& weight, int64_t output, int64_t input);

// INVALID_ARGUMENT, naming `name`, unless `weight` is a packed [n, k] matrix on the CPU that the bodies can read.
absl::Status CheckPackedWeight(std::string_view name, const PackedWeight& weight, int64_t n, int64_t k);

}  // namespace moed::kernels

#endif  // KERNELS_GEMM_PACKED_WEIGHT_H_
