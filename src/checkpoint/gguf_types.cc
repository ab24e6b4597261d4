#include "checkpoint/gguf_types.h"

#include <array>
#include <cstring>

namespace moed {
namespace {

// Elements of a super-block, the unit of the K types.
constexpr int kSuperBlock = 256;

float ReadHalf(const uint8_t* bytes) {
  Half half;
  std::memcpy(&half, bytes, sizeof(half));
  return ToFloat(half);
}

// ---- Plain elements, as blocks of one ----

void F32(const uint8_t* block, float* out) { std::memcpy(out, block, sizeof(float)); }
void F16(const uint8_t* block, float* out) { *out = ReadHalf(block); }
void BF16(const uint8_t* block, float* out) {
  BFloat16 value;
  std::memcpy(&value, block, sizeof(value));
  *out = ToFloat(value);
}

// ---- Blocks of 32: a scale (and a minimum), and codes: element i < 16 in the low half of byte i, i + 16 in the high
// ----

constexpr int kBlock = 32;

int Nibble(const uint8_t* bytes, int i) { return i < 16 ? bytes[i] & 15 : bytes[i - 16] >> 4; }
// Bit i of 32 that lie in the order of their numbers.
int Bit(const uint8_t* bytes, int i) { return bytes[i / 8] >> (i % 8) & 1; }

// Scale, 16 bytes of nibbles.
void Q4_0Integers(const uint8_t* block, int8_t* codes, float* scale) {
  *scale = ReadHalf(block);
  for (int i = 0; i < kBlock; ++i) codes[i] = static_cast<int8_t>(Nibble(block + 2, i) - 8);
}
// Scale, 32 fifth bits, nibbles.
void Q5_0Integers(const uint8_t* block, int8_t* codes, float* scale) {
  *scale = ReadHalf(block);
  for (int i = 0; i < kBlock; ++i) {
    codes[i] = static_cast<int8_t>((Nibble(block + 6, i) | Bit(block + 2, i) << 4) - 16);
  }
}
// Scale, 32 signed bytes.
void Q8_0Integers(const uint8_t* block, int8_t* codes, float* scale) {
  *scale = ReadHalf(block);
  std::memcpy(codes, block + 2, kBlock);
}
template <void (*kRead)(const uint8_t*, int8_t*, float*)>
void ScaledIntegers(const uint8_t* block, float* out) {
  int8_t codes[kBlock];
  float scale;
  kRead(block, codes, &scale);
  for (int i = 0; i < kBlock; ++i) out[i] = scale * static_cast<float>(codes[i]);
}

void Q4_1(const uint8_t* block, float* out) {
  const float scale = ReadHalf(block), minimum = ReadHalf(block + 2);
  for (int i = 0; i < kBlock; ++i) out[i] = scale * static_cast<float>(Nibble(block + 4, i)) + minimum;
}
void Q5_1(const uint8_t* block, float* out) {
  const float scale = ReadHalf(block), minimum = ReadHalf(block + 2);
  for (int i = 0; i < kBlock; ++i) {
    out[i] = scale * static_cast<float>(Nibble(block + 8, i) | Bit(block + 4, i) << 4) + minimum;
  }
}

constexpr std::array<int8_t, 16> kIq4Values = {-127, -104, -83, -65, -49, -35, -22, -10,
                                               1,    13,   25,  38,  53,  69,  89,  113};
void IQ4_NL(const uint8_t* block, float* out) {
  const float scale = ReadHalf(block);
  for (int i = 0; i < kBlock; ++i) out[i] = scale * static_cast<float>(kIq4Values[Nibble(block + 2, i)]);
}

// An exponent (E8M0) and nibbles (E2M1), OCP Microscaling Formats 1.0. The values are doubled and the scale is halved,
// so that both are exact.
constexpr std::array<int8_t, 16> kFp4TwiceValues = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
void MXFP4(const uint8_t* block, float* out) {
  const uint32_t exponent = block[0];
  const uint32_t bits = exponent < 2 ? 0x00200000u << exponent : (exponent - 1) << 23;
  float half_scale;
  std::memcpy(&half_scale, &bits, sizeof(bits));
  for (int i = 0; i < kBlock; ++i) out[i] = half_scale * static_cast<float>(kFp4TwiceValues[Nibble(block + 1, i)]);
}

// ---- Super-blocks: scales that are quantised themselves ----

// 16 parts of 16: scales and minima of 4 bits, codes of 2: 32 elements of a byte's 1st, 2nd, 3rd, 4th pair of bits.
void Q2_K(const uint8_t* block, float* out) {
  const uint8_t* const scales = block;
  const uint8_t* const codes = block + 16;
  const float d = ReadHalf(block + 80), d_min = ReadHalf(block + 82);
  for (int i = 0; i < kSuperBlock; ++i) {
    const float scale = d * static_cast<float>(scales[i / 16] & 15);
    const float minimum = d_min * static_cast<float>(scales[i / 16] >> 4);
    const int code = codes[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3;
    out[i] = scale * static_cast<float>(code) - minimum;
  }
}

// 16 parts of 16: scales of 6 bits, codes of 2 bits and of a third in a mask.
void Q3_K(const uint8_t* block, float* out) {
  const uint8_t* const mask = block;
  const uint8_t* const codes = block + 32;
  const uint8_t* const scales = block + 96;
  const float d = ReadHalf(block + 108);
  for (int i = 0; i < kSuperBlock; ++i) {
    const int part = i / 16;
    const int low = part < 8 ? scales[part] & 15 : scales[part - 8] >> 4;
    const int high = scales[8 + part % 4] >> (part / 4 * 2) & 3;
    const float scale = d * static_cast<float>((low | high << 4) - 32);
    const int code = codes[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3;
    const int third = mask[i % 32] >> (i / 32) & 1;
    out[i] = scale * static_cast<float>(code - (third == 1 ? 0 : 4));
  }
}

// The 8 scales and minima of 6 bits in 12 bytes that Q4_K and Q5_K share.
void ReadScaleAndMinimum(const uint8_t* bytes, int part, int* scale, int* minimum) {
  if (part < 4) {
    *scale = bytes[part] & 63;
    *minimum = bytes[part + 4] & 63;
  } else {
    *scale = (bytes[part + 4] & 15) | (bytes[part - 4] >> 2 & 48);
    *minimum = bytes[part + 4] >> 4 | (bytes[part] >> 2 & 48);
  }
}

template <bool kFifthBit>
void Q4_KOrQ5_K(const uint8_t* block, float* out) {
  const float d = ReadHalf(block), d_min = ReadHalf(block + 2);
  const uint8_t* const fifth = block + 16;
  const uint8_t* const codes = block + (kFifthBit ? 48 : 16);
  for (int part = 0; part < 8; ++part) {
    int scale_code, minimum_code;
    ReadScaleAndMinimum(block + 4, part, &scale_code, &minimum_code);
    const float scale = d * static_cast<float>(scale_code), minimum = d_min * static_cast<float>(minimum_code);
    for (int i = 0; i < 32; ++i) {
      int code = codes[part / 2 * 32 + i] >> (part % 2 * 4) & 15;
      if (kFifthBit) code |= (fifth[i] >> part & 1) << 4;
      out[part * 32 + i] = scale * static_cast<float>(code) - minimum;
    }
  }
}

// 16 parts of 16: scales of 8 bits, codes of 4 and 2 bits.
void Q6_K(const uint8_t* block, float* out) {
  const uint8_t* const low = block;
  const uint8_t* const high = block + 128;
  const auto* const scales = reinterpret_cast<const int8_t*>(block + 192);
  const float d = ReadHalf(block + 208);
  for (int i = 0; i < kSuperBlock; ++i) {
    const int8_t scale = scales[i / 16];
    const int low_code = low[i / 128 * 64 + i % 64] >> (i / 64 % 2 * 4) & 15;
    const int high_code = high[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3;
    out[i] = d * static_cast<float>(scale) * static_cast<float>((low_code | high_code << 4) - 32);
  }
}

// 8 parts of 32: scales of 6 bits, codes that stand for the values of IQ4_NL.
void IQ4_XS(const uint8_t* block, float* out) {
  const float d = ReadHalf(block);
  const int high_bits = block[2] | block[3] << 8;
  for (int part = 0; part < 8; ++part) {
    const int low = block[4 + part / 2] >> (part % 2 * 4) & 15;
    const int high = high_bits >> (2 * part) & 3;
    const float scale = d * static_cast<float>((low | high << 4) - 32);
    const uint8_t* const codes = block + 8 + part * 16;
    for (int i = 0; i < 32; ++i) out[part * 32 + i] = scale * static_cast<float>(kIq4Values[Nibble(codes, i)]);
  }
}

constexpr GgufType kTypes[] = {
    {0, "F32", 1, 4, F32, DType::kF32},
    {1, "F16", 1, 2, F16, DType::kF16},
    {30, "BF16", 1, 2, BF16, DType::kBF16},
    {2, "Q4_0", 32, 18, ScaledIntegers<Q4_0Integers>, std::nullopt, 4, Q4_0Integers},
    {3, "Q4_1", 32, 20, Q4_1, std::nullopt},
    {6, "Q5_0", 32, 22, ScaledIntegers<Q5_0Integers>, std::nullopt, 5, Q5_0Integers},
    {7, "Q5_1", 32, 24, Q5_1, std::nullopt},
    {8, "Q8_0", 32, 34, ScaledIntegers<Q8_0Integers>, std::nullopt, 8, Q8_0Integers},
    {10, "Q2_K", 256, 84, Q2_K, std::nullopt},
    {11, "Q3_K", 256, 110, Q3_K, std::nullopt},
    {12, "Q4_K", 256, 144, Q4_KOrQ5_K<false>, std::nullopt},
    {13, "Q5_K", 256, 176, Q4_KOrQ5_K<true>, std::nullopt},
    {14, "Q6_K", 256, 210, Q6_K, std::nullopt},
    {20, "IQ4_NL", 32, 18, IQ4_NL, std::nullopt},
    {23, "IQ4_XS", 256, 136, IQ4_XS, std::nullopt},
    {39, "MXFP4", 32, 17, MXFP4, std::nullopt},
    // Known by size, so that a file that holds one can be listed and checked.
    {9, "Q8_1", 32, 40, nullptr, std::nullopt},
    {15, "Q8_K", 256, 292, nullptr, std::nullopt},
    {16, "IQ2_XXS", 256, 66, nullptr, std::nullopt},
    {17, "IQ2_XS", 256, 74, nullptr, std::nullopt},
    {18, "IQ3_XXS", 256, 98, nullptr, std::nullopt},
    {19, "IQ1_S", 256, 50, nullptr, std::nullopt},
    {21, "IQ3_S", 256, 110, nullptr, std::nullopt},
    {22, "IQ2_S", 256, 82, nullptr, std::nullopt},
    {24, "I8", 1, 1, nullptr, DType::kI8},
    {25, "I16", 1, 2, nullptr, std::nullopt},
    {26, "I32", 1, 4, nullptr, DType::kI32},
    {27, "I64", 1, 8, nullptr, DType::kI64},
    {28, "F64", 1, 8, nullptr, std::nullopt},
    {29, "IQ1_M", 256, 56, nullptr, std::nullopt},
    {34, "TQ1_0", 256, 54, nullptr, std::nullopt},
    {35, "TQ2_0", 256, 66, nullptr, std::nullopt},
    {40, "NVFP4", 64, 36, nullptr, std::nullopt},
    {41, "Q1_0", 128, 18, nullptr, std::nullopt},
};

}  // namespace

const GgufType* FindGgufType(uint32_t id) {
  for (const GgufType& type : kTypes) {
    if (type.id == id) return &type;
  }
  return nullptr;
}

const GgufType* FindGgufType(std::string_view name) {
  for (const GgufType& type : kTypes) {
    if (type.name == name) return &type;
  }
  return nullptr;
}

}  // namespace moed
