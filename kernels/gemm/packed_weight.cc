#include "kernels/gemm/packed_weight.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

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

template <typename To>
absl::Status PackRowsOfAnyType(const TensorView& source, int64_t first_row, void* destination) {
  switch (source.dtype) {
    case DType::kF32:
      PackRows<To, float>(source, first_row, destination);
      return absl::OkStatus();
    case DType::kBF16:
      PackRows<To, BFloat16>(source, first_row, destination);
      return absl::OkStatus();
    case DType::kF16:
      PackRows<To, Half>(source, first_row, destination);
      return absl::OkStatus();
    default:
      return InvalidArgument("weight is {}; it must be fp32, bf16 or fp16", source.ToString());
  }
}

bool IsPackable(DType dtype) { return dtype == DType::kF32 || dtype == DType::kBF16; }

}  // namespace

size_t PackedBytes(int64_t n, int64_t k, DType dtype) {
  const int64_t padded_n = (n + kPanel - 1) / kPanel * kPanel;
  const int64_t padded_k = dtype == DType::kBF16 ? (k + 1) / 2 * 2 : k;
  return static_cast<size_t>(padded_n * padded_k) * DTypeSize(dtype);
}

absl::Status PackWeightRows(const TensorView& source, int64_t first_row, int64_t n, DType dtype, void* destination) {
  if (!IsPackable(dtype)) {
    return Unimplemented("weights cannot be packed as {}; fp32 and bf16 can", DTypeName(dtype));
  }
  if (source.rank != 2 || source.dim(1) < 1 || !source.HasUnitLastStride()) {
    return InvalidArgument("weight is {}; it must be [n, k] with k >= 1 and the elements of a row adjacent",
                           source.ToString());
  }
  if (first_row < 0 || first_row + source.dim(0) > n) {
    return InvalidArgument("rows [{}, {}) do not lie in a weight of {} outputs", first_row, first_row + source.dim(0),
                           n);
  }
  return dtype == DType::kF32 ? PackRowsOfAnyType<float>(source, first_row, destination)
                              : PackRowsOfAnyType<BFloat16>(source, first_row, destination);
}

absl::StatusOr<PackedWeight> PackWeight(const TensorView& source, DType dtype, void* destination) {
  if (source.rank == 2 && IsPackable(dtype)) {
    const bool has_padding = source.dim(0) % kPanel != 0 || (dtype == DType::kBF16 && source.dim(1) % 2 != 0);
    if (has_padding) std::memset(destination, 0, PackedBytes(source.dim(0), source.dim(1), dtype));
  }
  MOED_RETURN_IF_ERROR(PackWeightRows(source, 0, source.rank == 2 ? source.dim(0) : 0, dtype, destination));
  return PackedWeight{.data = destination, .n = source.dim(0), .k = source.dim(1), .dtype = dtype};
}

float PackedElement(const PackedWeight& weight, int64_t output, int64_t input) {
  if (weight.dtype == DType::kF32) {
    return static_cast<const float*>(weight.data)[PackedOffset<float>(weight.k, output, input)];
  }
  return ToFloat(static_cast<const BFloat16*>(weight.data)[PackedOffset<BFloat16>(weight.k, output, input)]);
}

absl::Status CheckPackedWeight(std::string_view name, const PackedWeight& weight, int64_t n, int64_t k) {
  if (!IsPackable(weight.dtype)) {
    return InvalidArgument("{} is packed as {}; it must be fp32 or bf16", name, DTypeName(weight.dtype));
  }
  if (weight.n != n || weight.k != k || k < 1) {
    return InvalidArgument("{} is [{}, {}]; it must be [{}, {}] with at least one input", name, weight.n, weight.k, n,
                           k);
  }
  if (weight.data == nullptr || reinterpret_cast<uintptr_t>(weight.data) % 64 != 0) {
    return InvalidArgument("{} lies at {}; it must point to packed memory aligned to 64 bytes", name, weight.data);
  }
  return absl::OkStatus();
}

}  // namespace moed::kernels
