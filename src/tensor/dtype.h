// Element types, and the 16-bit floats as plain bits with exact conversions.
#ifndef MOED_TENSOR_DTYPE_H_
#define MOED_TENSOR_DTYPE_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>

namespace moed {

enum class DType : uint8_t { kF32, kF16, kBF16, kI8, kU8, kI32, kI64 };

// Bytes of one element.
size_t DTypeSize(DType dtype);
// "fp32", "fp16", "bf16", "int8", "uint8", "int32", "int64": the words of our flags and messages.
std::string_view DTypeName(DType dtype);
// Takes the names above and the common others: "float32", "float", "half", "float16", "bfloat16".
std::optional<DType> ParseDType(std::string_view name);

// IEEE 754 binary16 and bfloat16, for storage; arithmetic is done in float.
struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

inline float ToFloat(BFloat16 value) {
  const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}

// Rounds to nearest even; a NaN stays a (quiet) NaN.
inline BFloat16 ToBFloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  if ((bits & 0x7fffffffu) > 0x7f800000u) return BFloat16{static_cast<uint16_t>((bits >> 16) | 0x40)};
  bits += 0x7fffu + ((bits >> 16) & 1);
  return BFloat16{static_cast<uint16_t>(bits >> 16)};
}

float ToFloat(Half value);
// Rounds to nearest even, overflows to infinity.
Half ToHalf(float value);

// The DType of a C++ element type.
template <typename T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::kF32;
};
template <>
struct DTypeOf<Half> {
  static constexpr DType value = DType::kF16;
};
template <>
struct DTypeOf<BFloat16> {
  static constexpr DType value = DType::kBF16;
};
template <>
struct DTypeOf<int8_t> {
  static constexpr DType value = DType::kI8;
};
template <>
struct DTypeOf<uint8_t> {
  static constexpr DType value = DType::kU8;
};
template <>
struct DTypeOf<int32_t> {
  static constexpr DType value = DType::kI32;
};
template <>
struct DTypeOf<int64_t> {
  static constexpr DType value = DType::kI64;
};

}  // namespace moed

#endif  // MOED_TENSOR_DTYPE_H_
