#include "checkpoint/weight_matrix.h"

#include <cstring>

#include "base/logging.h"

namespace moed {
namespace {

// Rows of another matrix in an order of their own.
class RowSelection final : public QuantizedMatrix {
 public:
  RowSelection(WeightMatrix source, std::vector<int32_t> rows) : source_(std::move(source)), rows_(std::move(rows)) {}

  int64_t rows() const override { return std::ssize(rows_); }
  int64_t columns() const override { return source_.columns(); }
  std::string ToString() const override {
    return std::string(source_.is_plain() ? DTypeName(source_.plain().dtype) : source_.quantized().ToString());
  }
  void Dequantize(int64_t begin, int64_t end, float* out) const override {
    for (int64_t row = begin; row < end; ++row, out += columns()) source_.Read(rows_[row], rows_[row] + 1, out);
  }
  const IntegerScheme* integers() const override { return source_.integers(); }
  ActivationScheme activations() const override { return source_.activations(); }
  void ReadIntegers(int64_t begin, int64_t end, int8_t* codes, float* scales, int16_t* zeros) const override {
    const int64_t groups = (columns() + integers()->group_size - 1) / integers()->group_size;
    for (int64_t row = begin; row < end; ++row, codes += columns(), scales += groups, zeros += groups) {
      source_.quantized().ReadIntegers(rows_[row], rows_[row] + 1, codes, scales, zeros);
    }
  }

 private:
  WeightMatrix source_;
  std::vector<int32_t> rows_;
};

}  // namespace

void QuantizedMatrix::ReadIntegers(int64_t, int64_t, int8_t*, float*, int16_t*) const {
  MOED_CHECK(false, "{} does not consist of integers", ToString());
}

void ConvertToFloat(const void* from, DType dtype, int64_t count, float* to) {
  switch (dtype) {
    case DType::kF32:
      std::memcpy(to, from, count * sizeof(float));
      return;
    case DType::kBF16:
      for (int64_t i = 0; i < count; ++i) to[i] = ToFloat(static_cast<const BFloat16*>(from)[i]);
      return;
    case DType::kF16:
      for (int64_t i = 0; i < count; ++i) to[i] = ToFloat(static_cast<const Half*>(from)[i]);
      return;
    default:
      MOED_CHECK(false, "{} is no type of plain weights", DTypeName(dtype));
  }
}

void WeightMatrix::Read(int64_t begin, int64_t end, float* out) const {
  if (!is_plain()) return quantized_->Dequantize(begin, end, out);
  const auto* base = static_cast<const char*>(plain_.data);
  const auto size = static_cast<int64_t>(DTypeSize(plain_.dtype));
  for (int64_t row = begin; row < end; ++row, out += columns()) {
    ConvertToFloat(base + row * plain_.stride(0) * size, plain_.dtype, columns(), out);
  }
}

WeightMatrix WeightMatrix::SelectRows(std::vector<int32_t> rows) const {
  return WeightMatrix(std::make_shared<RowSelection>(*this, std::move(rows)));
}

}  // namespace moed
