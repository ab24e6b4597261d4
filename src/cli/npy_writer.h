// NumPy's file format for one matrix.
#ifndef MOED_CLI_NPY_WRITER_H_
#define MOED_CLI_NPY_WRITER_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/status.h"

namespace moed {

// Writes float32 [rows, columns] in format 1.0
// (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html), row by row in any order, so that no more
// than a row is in memory. Not thread-safe.
class NpyWriter {
 public:
  // UNAVAILABLE when the file cannot be written.
  static absl::StatusOr<std::unique_ptr<NpyWriter>> Create(const std::string& path, int64_t rows, int64_t columns);
  ~NpyWriter();
  NpyWriter(const NpyWriter&) = delete;
  NpyWriter& operator=(const NpyWriter&) = delete;

  // values: [columns]
  absl::Status WriteRow(int64_t row, std::span<const float> values);

 private:
  NpyWriter(std::string path, int file, int64_t rows, int64_t columns, int64_t data_offset);

  const std::string path_;
  const int file_;
  const int64_t rows_;
  const int64_t columns_;
  const int64_t data_offset_;
};

}  // namespace moed

#endif  // MOED_CLI_NPY_WRITER_H_
