// How the elements of a packed weight are stored.
#ifndef KERNELS_GEMM_WEIGHT_FORMAT_H_
#define KERNELS_GEMM_WEIGHT_FORMAT_H_

#include <cstdint>
#include <string>

#include "tensor/dtype.h"

namespace moed::kernels {

// A float type, or integers with a scale for each group of inputs of an output.
struct WeightFormat {
  enum class Type : uint8_t { kF32, kBF16, kInt8, kInt4 };

  static constexpr int32_t kDefaultGroup = 128;

  WeightFormat() = default;
  WeightFormat(DType dtype);  // NOLINT: kF32 and kBF16 are formats as they are
  constexpr WeightFormat(Type type, int32_t group_size) : type(type), group_size(group_size) {}

  static constexpr WeightFormat F32() { return {Type::kF32, 0}; }
  static constexpr WeightFormat BF16() { return {Type::kBF16, 0}; }
  static constexpr WeightFormat Int8(int32_t group_size = kDefaultGroup) { return {Type::kInt8, group_size}; }
  static constexpr WeightFormat Int4(int32_t group_size = kDefaultGroup) { return {Type::kInt4, group_size}; }
  bool is_integer() const { return type == Type::kInt8 || type == Type::kInt4; }
  // "fp32", "bf16", "int8 in groups of 128".
  std::string ToString() const;

  bool operator==(const WeightFormat&) const = default;

  Type type = Type::kF32;
  // Inputs that share a scale: a multiple of 8 up to 1024; 0 for floats. The last group of an output may be shorter.
  int32_t group_size = 0;
};

}  // namespace moed::kernels

#endif  // KERNELS_GEMM_WEIGHT_FORMAT_H_
