// Element access for the reference bodies: any strides, any float type, no care for speed.
#ifndef KERNELS_COMMON_REFERENCE_H_
#define KERNELS_COMMON_REFERENCE_H_

#include <type_traits>

#include "base/logging.h"
#include "tensor/dtype.h"
#include "tensor/tensor_view.h"

namespace moed::kernels::reference {

// The offset, in elements, of the element at `index...`.
template <typename... Index>
int64_t Offset(const TensorView& tensor, Index... index) {
  const int64_t indices[] = {static_cast<int64_t>(index)...};
  int64_t offset = 0;
  for (int i = 0; i < static_cast<int>(sizeof...(index)); ++i) offset += indices[i] * tensor.stride(i);
  return offset;
}

template <typename T, typename... Index>
T& At(const TensorView& tensor, Index... index) {
  return tensor.As<T>()[Offset(tensor, index...)];
}

// An element of a tensor of floats of any width.
template <typename... Index>
float ReadFloat(const TensorView& tensor, Index... index) {
  const int64_t offset = Offset(tensor, index...);
  switch (tensor.dtype) {
    case DType::kF32:
      return tensor.As<float>()[offset];
    case DType::kBF16:
      return ToFloat(tensor.As<BFloat16>()[offset]);
    case DType::kF16:
      return ToFloat(tensor.As<Half>()[offset]);
    default:
      MOED_CHECK(false, "{} is not a tensor of floats", tensor.ToString());
  }
}

// Rounds `value` to the tensor's type, to nearest even.
template <typename... Index>
void WriteFloat(float value, const TensorView& tensor, Index... index) {
  const int64_t offset = Offset(tensor, index...);
  switch (tensor.dtype) {
    case DType::kF32:
      tensor.As<float>()[offset] = value;
      return;
    case DType::kBF16:
      tensor.As<BFloat16>()[offset] = ToBFloat16(value);
      return;
    case DType::kF16:
      tensor.As<Half>()[offset] = ToHalf(value);
      return;
    default:
      MOED_CHECK(false, "{} is not a tensor of floats", tensor.ToString());
  }
}

}  // namespace moed::kernels::reference

#endif  // KERNELS_COMMON_REFERENCE_H_
