// The sentences of which every op's Check() is made. Not for the files compiled for several instruction sets.
#ifndef KERNELS_COMMON_CHECK_H_
#define KERNELS_COMMON_CHECK_H_

#include <algorithm>
#include <initializer_list>
#include <string>
#include <string_view>

#include "base/status.h"
#include "kernels/common/key_layout.h"
#include "tensor/tensor_view.h"

namespace moed::kernels {

// A dimension that may have any size.
inline constexpr int64_t kAnySize = -1;

// OK when `tensor` has one of `dtypes`, the shape `dims` and its last dimension's elements next to each other;
// otherwise INVALID_ARGUMENT that tells what it is and what it must be.
inline absl::Status CheckTensor(std::string_view name, const TensorView& tensor, std::initializer_list<DType> dtypes,
                                std::initializer_list<int64_t> dims) {
  const bool right_dtype = std::find(dtypes.begin(), dtypes.end(), tensor.dtype) != dtypes.end();
  bool right_shape = static_cast<int>(dims.size()) == tensor.rank;
  for (int i = 0; right_shape && i < tensor.rank; ++i) {
    const int64_t wanted = dims.begin()[i];
    right_shape = wanted == kAnySize ? tensor.dim(i) >= 0 : tensor.dim(i) == wanted;
  }
  if (!right_dtype || !right_shape) {
    std::string expected;
    for (DType dtype : dtypes) {
      if (!expected.empty()) expected += " or ";
      expected += DTypeName(dtype);
    }
    expected += '[';
    for (const int64_t* dim = dims.begin(); dim != dims.end(); ++dim) {
      if (dim != dims.begin()) expected += ", ";
      expected += *dim == kAnySize ? "any" : std::to_string(*dim);
    }
    return InvalidArgument("{} is {}; it must be {}]", name, tensor.ToString(), expected);
  }
  if (tensor.empty() && tensor.num_elements() > 0) {
    return InvalidArgument("{} is {} without memory; it must point to its elements", name, tensor.ToString());
  }
  if (!tensor.HasUnitLastStride()) {
    return InvalidArgument("{} has a last stride of {}; elements of a row must lie next to each other", name,
                           tensor.stride(tensor.rank - 1));
  }
  return absl::OkStatus();
}

// For tensors that are indexed as one block of memory.
inline absl::Status CheckContiguous(std::string_view name, const TensorView& tensor) {
  if (tensor.IsContiguous()) return absl::OkStatus();
  return InvalidArgument("{} {} has gaps between its rows; it must be contiguous", name, tensor.ToString());
}

// Of pages [num_blocks, num_heads, block_size, head_dim] of a KV cache: integers have a scale a row, floats none.
inline absl::Status CheckScales(std::string_view name, const TensorView& scales, const TensorView& pages) {
  if (pages.dtype != DType::kI8) {
    if (scales.rank == 0) return absl::OkStatus();
    return InvalidArgument("{} is {}; pages of {} have no scales", name, scales.ToString(), DTypeName(pages.dtype));
  }
  MOED_RETURN_IF_ERROR(CheckTensor(name, scales, {DType::kF32}, {pages.dim(0), pages.dim(1), pages.dim(2)}));
  return CheckContiguous(name, scales);
}

// OK when keys can lie in those pages as `layout` says.
inline absl::Status CheckKeyLayout(const TensorView& k_pages, const TensorView& v_pages, KeyLayout layout) {
  if (layout == KeyLayout::kRows) return absl::OkStatus();
  if (!FitsKeyWords(k_pages)) {
    return InvalidArgument(
        "k_pages {} has keys in words; blocks must be a multiple of {} and rows of {} elements, on the CPU",
        k_pages.ToString(), kKeyWordPositions, KeyWordElements(k_pages.dtype));
  }
  if (v_pages.rank > 0 && (v_pages.data == k_pages.data || !v_pages.IsContiguous())) {
    return InvalidArgument("v_pages is a part of k_pages, whose keys are in words; these must be rows");
  }
  return absl::OkStatus();
}

}  // namespace moed::kernels

#endif  // KERNELS_COMMON_CHECK_H_
