// Where a tensor's bytes are and how they are laid out, without owning them.
#ifndef MOED_TENSOR_TENSOR_VIEW_H_
#define MOED_TENSOR_TENSOR_VIEW_H_

#include <cstdint>
#include <initializer_list>
#include <string>

#include "tensor/dtype.h"

// Inlined always: the CPU bodies of the ops are compiled for several instruction sets, and no copy of a shared inline
// function may leak from one of them into the rest of the program.
#define MOED_ALWAYS_INLINE [[gnu::always_inline]] inline

namespace moed {

enum class DeviceType : uint8_t { kCpu, kCuda };

struct Device {
  DeviceType type = DeviceType::kCpu;
  int index = 0;
  friend bool operator==(const Device&, const Device&) = default;
};

// Plain data; copying is free. Strides are in elements. A default-made view has no data: an optional argument left out.
struct TensorView {
  static constexpr int kMaxRank = 4;

  void* data = nullptr;
  int64_t shape[kMaxRank] = {};
  int64_t strides[kMaxRank] = {};
  int rank = 0;
  DType dtype = DType::kF32;
  Device device;

  TensorView() = default;
  // A contiguous (row-major) view.
  TensorView(void* pointer, std::initializer_list<int64_t> dims, DType type, Device where = {});

  // A contiguous view of elements that the caller promises only to read.
  template <typename T>
  static TensorView Of(const T* pointer, std::initializer_list<int64_t> dims) {
    return TensorView(const_cast<T*>(pointer), dims, DTypeOf<T>::value);
  }

  MOED_ALWAYS_INLINE bool empty() const { return data == nullptr; }
  MOED_ALWAYS_INLINE int64_t dim(int i) const { return shape[i]; }
  MOED_ALWAYS_INLINE int64_t stride(int i) const { return strides[i]; }
  template <typename T>
  MOED_ALWAYS_INLINE T* As() const {
    return static_cast<T*>(data);
  }

  int64_t num_elements() const;
  size_t num_bytes() const { return static_cast<size_t>(num_elements()) * DTypeSize(dtype); }
  bool IsContiguous() const;
  // Whether the elements of the last dimension lie next to each other.
  bool HasUnitLastStride() const { return rank == 0 || shape[rank - 1] <= 1 || strides[rank - 1] == 1; }
  bool HasShape(std::initializer_list<int64_t> dims) const;

  // Rows [begin, end) of the first dimension.
  TensorView Rows(int64_t begin, int64_t end) const;
  // Elements [begin, end) of the last dimension, all rows: a strided view.
  TensorView Columns(int64_t begin, int64_t end) const;
  // The last dimension n * d seen as [n, d].
  TensorView SplitLast(int64_t n, int64_t d) const;

  // "bf16[3, 128]", for messages.
  std::string ToString() const;
};

}  // namespace moed

#endif  // MOED_TENSOR_TENSOR_VIEW_H_
