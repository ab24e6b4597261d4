#include "kernels/gemm/weight_format.h"

#include <fmt/format.h>

#include "base/logging.h"

namespace moed::kernels {

WeightFormat::WeightFormat(DType dtype) : type(dtype == DType::kF32 ? Type::kF32 : Type::kBF16) {
  MOED_CHECK(dtype == DType::kF32 || dtype == DType::kBF16, "weights cannot be packed as {}", DTypeName(dtype));
}

std::string WeightFormat::ToString() const {
  switch (type) {
    case Type::kF32:
      return "fp32";
    case Type::kBF16:
      return "bf16";
    case Type::kInt8:
      return fmt::format("int8 in groups of {}", group_size);
    case Type::kInt4:
      return fmt::format("int4 in groups of {}", group_size);
  }
  return "unknown";
}

}  // namespace moed::kernels
