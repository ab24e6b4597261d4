#include "kernels/gemm/packed_weight.h"

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>

#include "base/logging.h"
#include "kernels/gemm/integer_weight.h"

namespace moed::kernels {
namespace {

constexpr int64_t kPanel = PackedWeight::kPanel;
// Inputs that one pass over the rows of a panel takes: the part of the panel that it fills stays in the first cache.
constexpr int64_t kBlock = 64;

template <typename To, typename From>
To Convert(From value) {
  if constexpr (std::is_same_v<To, From>) {
    return value;
  } else if constexpr (std::is_same_v<To, float>) {
    return ToFloat(value);
  } else if constexpr (std::is_same_v<From, float>) {
    return ToBFloat16(value);
  } else {
    return ToBFloat16(ToFloat(value));
  }
}

// Position of element (output, input) in a packed matrix, in elements.
template <typename To>
int64_t PackedOffset(int64_t k, int64_t output, int64_t input) {
  const int64_t panel = output / kPanel, lane = output % kPanel;
  if constexpr (std::is_same_v<To, float>) {
    return (panel * k + input) * kPanel + lane;
  } else {
    return (panel * ((k + 1) / 2) + input / 2) * kPanel * 2 + lane * 2 + input % 2;
  }
}

template <typename To, typename From>
void PackRows(const TensorView& source, int64_t first_row, void* destination) {
  const int64_t end_row = first_row + source.dim(0), k = source.dim(1);
  To* const packed = static_cast<To*>(destination);
  for (int64_t begin = first_row; begin < end_row;) {
    const int64_t end = std::min(end_row, (begin / kPanel + 1) * kPanel);
    for (int64_t block = 0; block < k; block += kBlock) {
      const int64_t block_end = std::min(k, block + kBlock);
      for (int64_t row = begin; row < end; ++row) {
        const From* const from = source.As<From>() + (row - first_row) * source.stride(0);
        // Within a row of a panel, inputs (bf16: pairs of inputs) lie a fixed step apart.
        constexpr int64_t kGroup = std::is_same_v<To, float> ? 1 : 2;
        To* to = packed + PackedOffset<To>(k, row, block);
        for (int64_t i = block; i < block_end; i += kGroup, to += kGroup * kPanel) {
          to[0] = Convert<To>(from[i]);
          if (kGroup == 2 && i + 1 < k) to[kGroup - 1] = Convert<To>(from[i + 1]);
        }
      }
    }
    begin = end;
  }
}

template <typename From>
absl::Status PackIntegerRows(const TensorView& source, int64_t first_row, WeightFormat format, void* destination) {
  const int64_t k = source.dim(1);
  std::vector<float> converted(k);
  for (int64_t row = 0; row < source.dim(0); ++row) {
    const From* const from = source.As<From>() + row * source.stride(0);
    for (int64_t i = 0; i < k; ++i) converted[i] = Convert<float>(from[i]);
    if (absl::Status status = PackIntegerRow(converted.data(), first_row + row, k, format, destination); !status.ok()) {
      return Annotate(status, fmt::format("output {}", row));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckFormat(WeightFormat format) {
  const bool fits = format.is_integer()
                        ? format.group_size >= 8 && format.group_size <= 1024 && format.group_size % 8 == 0
                        : format.group_size == 0;
  if (fits) return absl::OkStatus();
  return InvalidArgument("weights cannot be packed as {}; a group has 8 to 1024 inputs, a multiple of 8",
                         format.ToString());
}

absl::Status CheckSource(const TensorView& source, WeightFormat format) {
  MOED_RETURN_IF_ERROR(CheckFormat(format));
  if (source.rank != 2 || source.dim(1) < 1 || !source.HasUnitLastStride()) {
    return InvalidArgument("weight is {}; it must be [n, k] with k >= 1 and the elements of a row adjacent",
                           source.ToString());
  }
  return absl::OkStatus();
}

template <typename From>
absl::Status PackRowsAs(const TensorView& source, int64_t first_row, WeightFormat format, void* destination) {
  if (format.is_integer()) return PackIntegerRows<From>(source, first_row, format, destination);
  if (format.type == WeightFormat::Type::kF32) {
    PackRows<float, From>(source, first_row, destination);
  } else {
    PackRows<BFloat16, From>(source, first_row, destination);
  }
  return absl::OkStatus();
}

int64_t PanelBytes(int64_t k, WeightFormat format) {
  switch (format.type) {
    case WeightFormat::Type::kF32:
      return k * kPanel * 4;
    case WeightFormat::Type::kBF16:
      return (k + 1) / 2 * kPanel * 4;
    default:
      return IntegerLayout(format).PanelBytes(k);
  }
}

}  // namespace

std::string_view ActivationRoundingName(ActivationRounding rounding) {
  constexpr std::string_view kNames[] = {"none", "int8 by row", "fp8 by row", "fp8 by blocks of a row"};
  return kNames[static_cast<size_t>(rounding)];
}

size_t PackedBytes(int64_t n, int64_t k, WeightFormat format) {
  return static_cast<size_t>((n + kPanel - 1) / kPanel * PanelBytes(k, format));
}

absl::Status PackWeightRows(const TensorView& source, int64_t first_row, int64_t n, WeightFormat format,
                            void* destination) {
  MOED_RETURN_IF_ERROR(CheckSource(source, format));
  if (first_row < 0 || first_row + source.dim(0) > n) {
    return InvalidArgument("rows [{}, {}) do not lie in a weight of {} outputs", first_row, first_row + source.dim(0),
                           n);
  }
  switch (source.dtype) {
    case DType::kF32:
      return PackRowsAs<float>(source, first_row, format, destination);
    case DType::kBF16:
      return PackRowsAs<BFloat16>(source, first_row, format, destination);
    case DType::kF16:
      return PackRowsAs<Half>(source, first_row, format, destination);
    default:
      return InvalidArgument("weight is {}; it must be fp32, bf16 or fp16", source.ToString());
  }
}

absl::StatusOr<PackedWeight> PackWeight(const TensorView& source, WeightFormat format, void* destination) {
  MOED_RETURN_IF_ERROR(CheckSource(source, format));
  const int64_t n = source.dim(0), k = source.dim(1);
  const bool has_padding = n % kPanel != 0 || (format.type == WeightFormat::Type::kBF16 && k % 2 != 0);
  if (has_padding) std::memset(destination, 0, PackedBytes(n, k, format));
  MOED_RETURN_IF_ERROR(PackWeightRows(source, 0, n, format, destination));
  return PackedWeight{.data = destination, .n = n, .k = k, .format = format};
}

int64_t WeightDistance(const PackedWeight* weights, int64_t count) {
  const auto at = [&](int64_t i) { return static_cast<const char*>(weights[i].data); };
  const int64_t distance = count > 1 ? at(1) - at(0) : 0;
  for (int64_t i = 1; i < count; ++i) {
    MOED_CHECK(at(i) - at(i - 1) == distance,
               "weight {} lies {} bytes after the one before, the second {} after the first", i, at(i) - at(i - 1),
               distance);
  }
  return distance;
}

float PackedElement(const PackedWeight& weight, int64_t output, int64_t input) {
  if (weight.format.is_integer()) return IntegerElement(weight, output, input);
  if (weight.format.type == WeightFormat::Type::kF32) {
    return static_cast<const float*>(weight.data)[PackedOffset<float>(weight.k, output, input)];
  }
  return ToFloat(static_cast<const BFloat16*>(weight.data)[PackedOffset<BFloat16>(weight.k, output, input)]);
}

absl::Status CheckPackedWeight(std::string_view name, const PackedWeight& weight, int64_t n, int64_t k) {
  MOED_RETURN_IF_ERROR(Annotate(CheckFormat(weight.format), name));
  if (weight.n != n || weight.k != k || k < 1) {
    return InvalidArgument("{} is [{}, {}]; it must be [{}, {}] with at least one input", name, weight.n, weight.k, n,
                           k);
  }
  if (weight.format.is_integer() && weight.activations != ActivationRounding::kNone &&
      weight.activations != ActivationRounding::kInt8Row) {
    return InvalidArgument("{} is {} with activations rounded to {}; integers take none or int8 by row", name,
                           weight.format.ToString(), ActivationRoundingName(weight.activations));
  }
  if (weight.data == nullptr || reinterpret_cast<uintptr_t>(weight.data) % 64 != 0) {
    return InvalidArgument("{} lies at {}; it must point to packed memory aligned to 64 bytes", name, weight.data);
  }
  return absl::OkStatus();
}

}  // namespace moed::kernels
