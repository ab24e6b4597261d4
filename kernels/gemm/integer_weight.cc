#include "kernels/gemm/integer_weight.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace moed::kernels {
namespace {

constexpr int64_t kPanel = PackedWeight::kPanel;
constexpr int64_t kMaxGroup = 1024;

struct Range {
  int32_t low, high;
};
Range RangeOf(WeightFormat::Type type) { return type == WeightFormat::Type::kInt8 ? Range{-128, 127} : Range{-8, 7}; }

// To nearest even, for |x| < 2^22: the compiler turns this into vector code where it would call a function otherwise.
inline float Round(float x) {
  constexpr float kMagic = 12582912.0f;
  return (x + kMagic) - kMagic;
}

// The scale as it is stored.
Half ToStoredScale(float scale) { return ToHalf(scale / PackedWeight::kScaleUnit); }
float FromStoredScale(Half scale) { return ToFloat(scale) * PackedWeight::kScaleUnit; }
constexpr float kLargestScale = 65504 * PackedWeight::kScaleUnit;

// Integers of a group under `scale`, as floats.
void Quantize(const float* x, int64_t n, float scale, Range range, float* q) {
  const float inverse = scale == 0 ? 0 : 1 / scale;
  const float low = static_cast<float>(range.low), high = static_cast<float>(range.high);
  for (int64_t i = 0; i < n; ++i) q[i] = Round(std::min(std::max(x[i] * inverse, low), high));
}

// How much the error of each weight of a group counts: alike, or as it is said.
struct Alike {
  float operator[](int64_t) const { return 1.0f; }
};
struct Weighted {
  const float* weights;
  float operator[](int64_t i) const { return weights[i]; }
};

template <typename Importance>
float SquaredError(const float* x, const float* q, int64_t n, float scale, const Importance& importance) {
  float sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += importance[i] * (x[i] - q[i] * scale) * (x[i] - q[i] * scale);
  return sum;
}

// The scale with which q comes nearest to x, by least squares.
template <typename Importance>
float BestScale(const float* x, const float* q, int64_t n, float otherwise, const Importance& importance) {
  float xq = 0, qq = 0;
  for (int64_t i = 0; i < n; ++i) xq += importance[i] * x[i] * q[i], qq += importance[i] * q[i] * q[i];
  return qq > 0 ? xq / qq : otherwise;
}

// With few levels it pays to look for the scale: full range to either side, or clipping the largest a little.
template <typename Importance>
float SearchScale(const float* x, int64_t n, float largest, Range range, const Importance& importance, float* q) {
  const float full = largest / static_cast<float>(range.low);  // the largest magnitude takes the lowest integer
  float best = full, best_error = std::numeric_limits<float>::infinity();
  constexpr float kOtherSide = -8.0f / 7;  // the largest magnitude takes the highest integer
  for (const float factor : {1.0f, 0.93f, 0.86f, 0.79f, kOtherSide, 0.92f * kOtherSide, 0.84f * kOtherSide}) {
    for (float scale = full * factor, previous = 0; scale != previous;) {
      scale = FromStoredScale(ToStoredScale(scale));
      Quantize(x, n, scale, range, q);
      const float error = SquaredError(x, q, n, scale, importance);
      if (error < best_error) best = scale, best_error = error;
      if (previous != 0) break;
      previous = scale;
      scale = BestScale(x, q, n, scale, importance);
    }
  }
  return best;
}

// Chooses the scale of a group; q is scratch.
template <typename Importance>
absl::StatusOr<Half> ChooseScale(const float* x, int64_t n, WeightFormat::Type type, const Importance& importance,
                                 float* q) {
  const Range range = RangeOf(type);
  float low = 0, high = 0, poison = 0;
  for (int64_t i = 0; i < n; ++i) {
    low = std::min(low, x[i]);
    high = std::max(high, x[i]);
    poison += x[i] * 0.0f;
  }
  const float largest = -low > high ? low : high;
  const float limit = kLargestScale * static_cast<float>(range.high);
  if (!(poison == 0) || std::abs(largest) > limit) {
    return InvalidArgument("a weight is {}; as {} it must be finite and at most {} in magnitude",
                           poison == 0 ? largest : poison, type == WeightFormat::Type::kInt8 ? "int8" : "int4", limit);
  }
  return ToStoredScale(type == WeightFormat::Type::kInt8 ? std::abs(largest) / static_cast<float>(range.high)
                                                         : SearchScale(x, n, largest, range, importance, q));
}

absl::StatusOr<Half> ChooseScale(const float* x, int64_t n, WeightFormat::Type type, std::span<const float> squares,
                                 float* q) {
  if (squares.empty()) return ChooseScale(x, n, type, Alike(), q);
  return ChooseScale(x, n, type, Weighted{squares.data()}, q);
}

std::span<const float> Part(std::span<const float> all, int64_t first, int64_t count) {
  return all.empty() ? all : all.subspan(first, count);
}

// The group of (output, group index) in the packed matrix, from its first byte.
char* GroupOf(void* data, const IntegerLayout& layout, int64_t k, int64_t output, int64_t group) {
  return static_cast<char*>(data) + output / kPanel * layout.PanelBytes(k) + layout.GroupOffset(group);
}

// Writes one output's codes [padded] of a group and their scale.
void WriteGroup(const int8_t* codes, int64_t padded, Half scale, const IntegerLayout& layout, WeightFormat::Type type,
                int64_t lane, char* group) {
  auto* const bytes = reinterpret_cast<uint8_t*>(group) + lane * 4;
  if (type == WeightFormat::Type::kInt8) {
    for (int64_t i = 0; i < padded; ++i) bytes[i / 4 * kPanel * 4 + i % 4] = static_cast<uint8_t>(codes[i] + 128);
  } else {
    for (int64_t i = 0; i < padded; i += 8) {
      for (int64_t j = 0; j < 4; ++j) {
        bytes[i / 8 * kPanel * 4 + j] = static_cast<uint8_t>((codes[i + j] + 8) | (codes[i + 4 + j] + 8) << 4);
      }
    }
  }
  std::memcpy(group + layout.DataBytes(padded) + lane * 2, &scale, sizeof(scale));
}

}  // namespace

namespace {

// Of one row, each weight by itself.
absl::Status QuantizeRow(const float* row, int64_t k, WeightFormat format, std::span<const float> squares,
                         int8_t* codes, float* scales) {
  alignas(64) float q[kMaxGroup];
  for (int64_t first = 0; first < k; first += format.group_size) {
    const int64_t n = std::min<int64_t>(format.group_size, k - first);
    MOED_ASSIGN_OR_RETURN(const Half scale, ChooseScale(row + first, n, format.type, Part(squares, first, n), q));
    Quantize(row + first, n, FromStoredScale(scale), RangeOf(format.type), q);
    for (int64_t i = 0; i < n; ++i) codes[first + i] = static_cast<int8_t>(static_cast<int32_t>(q[i]));
    *scales++ = FromStoredScale(scale);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status QuantizeIntegerRow(const float* row, int64_t k, WeightFormat format, int8_t* codes, float* scales) {
  return QuantizeRow(row, k, format, {}, codes, scales);
}

absl::Status QuantizeIntegerRows(float* rows, int64_t count, int64_t k, WeightFormat format,
                                 const InputStatistics& inputs, int8_t* codes, float* scales) {
  const int64_t groups = IntegerLayout(format).NumGroups(k);
  if (inputs.factor.empty()) {
    for (int64_t r = 0; r < count; ++r) {
      MOED_RETURN_IF_ERROR(QuantizeRow(rows + r * k, k, format, inputs.squares, codes + r * k, scales + r * groups));
    }
    return absl::OkStatus();
  }
  alignas(64) float q[kMaxGroup];
  for (int64_t group = 0, first = 0; group < groups; ++group, first += format.group_size) {
    const int64_t n = std::min<int64_t>(format.group_size, k - first);
    for (int64_t r = 0; r < count; ++r) {
      MOED_ASSIGN_OR_RETURN(const Half scale,
                            ChooseScale(rows + r * k + first, n, format.type, Part(inputs.squares, first, n), q));
      scales[r * groups + group] = FromStoredScale(scale);
    }
    // Input by input for all rows, so that a line of the factor is read once.
    for (int64_t i = first; i < first + n; ++i) {
      const float* const line = inputs.factor.data() + i * k;
      for (int64_t r = 0; r < count; ++r) {
        float* const row = rows + r * k;
        const float scale = scales[r * groups + group];
        Quantize(row + i, 1, scale, RangeOf(format.type), q);
        codes[r * k + i] = static_cast<int8_t>(static_cast<int32_t>(q[0]));
        const float error = (row[i] - q[0] * scale) / line[i];
        for (int64_t j = i + 1; j < k; ++j) row[j] -= error * line[j];
      }
    }
  }
  return absl::OkStatus();
}

absl::Status PackIntegerCodes(const int8_t* codes, const float* scales, int64_t scale_inputs, int64_t output, int64_t k,
                              WeightFormat format, void* destination) {
  const IntegerLayout layout(format);
  int8_t padded_codes[kMaxGroup];
  for (int64_t group = 0; group < layout.NumGroups(k); ++group) {
    const int64_t first = group * format.group_size, n = std::min<int64_t>(format.group_size, k - first);
    const int64_t padded = layout.GroupInputs(k, group);
    const float scale = scales[first / scale_inputs];
    if (!(std::abs(scale) <= kLargestScale)) {
      return InvalidArgument("the scale of output {}, input {} is {}; it must be finite and at most {} in magnitude",
                             output, first, scale, kLargestScale);
    }
    std::copy_n(codes + first, n, padded_codes);
    std::fill(padded_codes + n, padded_codes + padded, int8_t{0});
    WriteGroup(padded_codes, padded, ToStoredScale(scale), layout, format.type, output % kPanel,
               GroupOf(destination, layout, k, output, group));
  }
  return absl::OkStatus();
}

absl::Status PackIntegerRow(const float* row, int64_t output, int64_t k, WeightFormat format, void* destination) {
  std::vector<int8_t> codes(k);
  std::vector<float> scales(IntegerLayout(format).NumGroups(k));
  MOED_RETURN_IF_ERROR(QuantizeIntegerRow(row, k, format, codes.data(), scales.data()));
  return PackIntegerCodes(codes.data(), scales.data(), format.group_size, output, k, format, destination);
}

float IntegerElement(const PackedWeight& weight, int64_t output, int64_t input) {
  const IntegerLayout layout(weight.format);
  const int64_t group = input / layout.group_size, i = input % layout.group_size, lane = output % kPanel;
  const char* const data = GroupOf(const_cast<void*>(weight.data), layout, weight.k, output, group);
  const auto* const bytes = reinterpret_cast<const uint8_t*>(data) + lane * 4;
  Half scale;
  std::memcpy(&scale, data + layout.DataBytes(layout.GroupInputs(weight.k, group)) + lane * 2, sizeof(scale));
  if (weight.format.type == WeightFormat::Type::kInt8) {
    const int code = bytes[i / 4 * kPanel * 4 + i % 4] - 128;
    return static_cast<float>(code) * FromStoredScale(scale);
  }
  const uint8_t pair = bytes[i / 8 * kPanel * 4 + i % 4];
  const int code = (i % 8 < 4 ? pair & 15 : pair >> 4) - 8;
  return static_cast<float>(code) * FromStoredScale(scale);
}

}  // namespace moed::kernels
