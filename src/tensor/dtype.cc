#include "tensor/dtype.h"

#include <array>
#include <utility>

namespace moed {

size_t DTypeSize(DType dtype) {
  switch (dtype) {
    case DType::kI8:
    case DType::kU8:
      return 1;
    case DType::kF16:
    case DType::kBF16:
      return 2;
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kI64:
      return 8;
  }
  return 0;
}

std::string_view DTypeName(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "fp32";
    case DType::kF16:
      return "fp16";
    case DType::kBF16:
      return "bf16";
    case DType::kI8:
      return "int8";
    case DType::kU8:
      return "uint8";
    case DType::kI32:
      return "int32";
    case DType::kI64:
      return "int64";
  }
  return "unknown";
}

std::optional<DType> ParseDType(std::string_view name) {
  static constexpr std::array<std::pair<std::string_view, DType>, 14> kNames = {{
      {"fp32", DType::kF32},
      {"float32", DType::kF32},
      {"float", DType::kF32},
      {"fp16", DType::kF16},
      {"float16", DType::kF16},
      {"half", DType::kF16},
      {"bf16", DType::kBF16},
      {"bfloat16", DType::kBF16},
      {"int8", DType::kI8},
      {"uint8", DType::kU8},
      {"int32", DType::kI32},
      {"int64", DType::kI64},
      {"i32", DType::kI32},
      {"i64", DType::kI64},
  }};
  for (const auto& [known, dtype] : kNames) {
    if (known == name) return dtype;
  }
  return std::nullopt;
}

float ToFloat(Half value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t exponent = (value.bits >> 10) & 0x1fu;
  const uint32_t mantissa = value.bits & 0x3ffu;
  uint32_t bits;
  if (exponent == 0x1f) {
    bits = sign | 0x7f800000u | (mantissa << 13);
  } else if (exponent != 0) {
    bits = sign | ((exponent + 112) << 23) | (mantissa << 13);
  } else {
    // Zero or subnormal: mantissa / 2^24 is exact in float.
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    std::memcpy(&bits, &magnitude, sizeof(bits));
    bits |= sign;
  }
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}

Half ToHalf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  bits &= 0x7fffffffu;
  if (bits > 0x7f800000u) return Half{static_cast<uint16_t>(sign | 0x7e00u)};
  if (bits >= 0x47800000u) return Half{static_cast<uint16_t>(sign | 0x7c00u)};
  if (bits < 0x38800000u) {
    // Subnormal result: adding 0.5 makes the float unit round at the last place of a half subnormal.
    float magnitude;
    std::memcpy(&magnitude, &bits, sizeof(magnitude));
    magnitude += 0.5f;
    std::memcpy(&bits, &magnitude, sizeof(bits));
    return Half{static_cast<uint16_t>(sign | (bits - 0x3f000000u))};
  }
  bits += 0xfffu + ((bits >> 13) & 1);
  return Half{static_cast<uint16_t>(sign | ((bits - 0x38000000u) >> 13))};
}

}  // namespace moed
