#include "model/integer_matrix.h"

#include <fmt/format.h>

#include <algorithm>
#include <mutex>

#include "kernels/gemm/packed_weight.h"

namespace moed {

using kernels::WeightFormat;

namespace {

// Rows that are quantised at a time, in one thread.
constexpr int64_t kRowsAtOnce = 32;

}  // namespace

IntegerMatrix::IntegerMatrix(int64_t rows, int64_t columns, WeightFormat format)
    : rows_(rows),
      columns_(columns),
      groups_(kernels::IntegerLayout(format).NumGroups(columns)),
      format_(format),
      scheme_{.bits = format.type == WeightFormat::Type::kInt4 ? 4 : 8, .group_size = format.group_size},
      codes_(rows * columns),
      scales_(rows * groups_) {}

absl::StatusOr<std::shared_ptr<const IntegerMatrix>> IntegerMatrix::Make(const WeightMatrix& source,
                                                                         WeightFormat format,
                                                                         const kernels::InputStatistics& inputs,
                                                                         ThreadPool* threads) {
  const int64_t rows = source.rows(), columns = source.columns();
  std::shared_ptr<IntegerMatrix> matrix(new IntegerMatrix(rows, columns, format));
  const int64_t chunks = (rows + kRowsAtOnce - 1) / kRowsAtOnce;
  std::vector<SquareSums> chunk_sums(chunks);  // so that their sum does not depend on the threads
  std::mutex mutex;
  absl::Status first_error;
  const auto quantize = [&](int64_t chunk) {
    const int64_t begin = chunk * kRowsAtOnce, count = std::min(rows - begin, kRowsAtOnce);
    std::vector<float> values(count * columns);
    source.Read(begin, begin + count, values.data());
    std::vector<float> changed = values;
    int8_t* const codes = matrix->codes_.data() + begin * columns;
    float* const scales = matrix->scales_.data() + begin * matrix->groups_;
    const absl::Status status =
        kernels::QuantizeIntegerRows(changed.data(), count, columns, format, inputs, codes, scales);
    if (!status.ok()) {
      const std::lock_guard lock(mutex);
      if (first_error.ok()) first_error = Annotate(status, fmt::format("outputs from {} on", begin));
      return;
    }
    for (int64_t i = 0; i < count * columns; ++i) {
      const float scale = scales[i / columns * matrix->groups_ + i % columns / format.group_size];
      const double difference = values[i] - static_cast<double>(codes[i]) * scale;
      chunk_sums[chunk].difference += difference * difference;
      chunk_sums[chunk].value += static_cast<double>(values[i]) * values[i];
    }
  };
  threads->ParallelFor(chunks, 1, [&](int64_t first, int64_t end, int) {
    for (int64_t chunk = first; chunk < end; ++chunk) quantize(chunk);
  });
  MOED_RETURN_IF_ERROR(first_error);
  for (const SquareSums& sums : chunk_sums) {
    matrix->sums_.difference += sums.difference;
    matrix->sums_.value += sums.value;
  }
  return matrix;
}

void IntegerMatrix::Dequantize(int64_t begin, int64_t end, float* out) const {
  for (int64_t row = begin; row < end; ++row, out += columns_) {
    for (int64_t i = 0; i < columns_; ++i) {
      out[i] = static_cast<float>(codes(row)[i]) * scales(row)[i / format_.group_size];
    }
  }
}

void IntegerMatrix::ReadIntegers(int64_t begin, int64_t end, int8_t* codes_out, float* scales_out,
                                 int16_t* zeros) const {
  std::copy_n(codes(begin), (end - begin) * columns_, codes_out);
  std::copy_n(scales(begin), (end - begin) * groups_, scales_out);
  std::fill_n(zeros, (end - begin) * groups_, int16_t{0});
}

}  // namespace moed
