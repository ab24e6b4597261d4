// A matrix of weights made integers, in memory.
#ifndef MOED_MODEL_INTEGER_MATRIX_H_
#define MOED_MODEL_INTEGER_MATRIX_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/thread_pool.h"
#include "checkpoint/weight_matrix.h"
#include "kernels/gemm/integer_weight.h"

namespace moed {

class IntegerMatrix final : public QuantizedMatrix {
 public:
  // Sums over all elements of what was quantised.
  struct SquareSums {
    double difference = 0, value = 0;
  };

  // Quantises `source` in `threads` as `format` says, an integer one. Where something is known of the inputs, as
  // QuantizeIntegerRows does it, else as PackWeight. Errors as PackWeight's.
  static absl::StatusOr<std::shared_ptr<const IntegerMatrix>> Make(const WeightMatrix& source,
                                                                   kernels::WeightFormat format,
                                                                   const kernels::InputStatistics& inputs,
                                                                   ThreadPool* threads);

  int64_t rows() const override { return rows_; }
  int64_t columns() const override { return columns_; }
  std::string ToString() const override { return format_.ToString(); }
  void Dequantize(int64_t begin, int64_t end, float* out) const override;
  const IntegerScheme* integers() const override { return &scheme_; }
  void ReadIntegers(int64_t begin, int64_t end, int8_t* codes, float* scales, int16_t* zeros) const override;

  const int8_t* codes(int64_t row) const { return codes_.data() + row * columns_; }
  const float* scales(int64_t row) const { return scales_.data() + row * groups_; }
  const SquareSums& sums() const { return sums_; }

 private:
  IntegerMatrix(int64_t rows, int64_t columns, kernels::WeightFormat format);

  int64_t rows_, columns_, groups_;
  kernels::WeightFormat format_;
  IntegerScheme scheme_;
  std::vector<int8_t> codes_;  // [rows, columns]
  std::vector<float> scales_;  // [rows, groups]
  SquareSums sums_;
};

}  // namespace moed

#endif  // MOED_MODEL_INTEGER_MATRIX_H_
