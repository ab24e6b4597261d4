#include "cli/npy_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/logging.h"

namespace moed {
namespace {

static_assert(std::endian::native == std::endian::little, "the header says little-endian");

// Magic, version, length and a Python dict, padded so that the data begin at a multiple of 64.
std::string Header(int64_t rows, int64_t columns) {
  std::string dict = fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}", rows, columns);
  constexpr size_t kPrefix = 10;
  dict.append(63 - (kPrefix + dict.size()) % 64, ' ');
  dict += '\n';
  std::string header("\x93NUMPY\x01\x00", 8);
  header += static_cast<char>(dict.size() & 0xFF);
  header += static_cast<char>(dict.size() >> 8);
  return header + dict;
}

absl::Status WriteAll(int file, const void* data, size_t size, int64_t offset, const std::string& path) {
  for (const char* bytes = static_cast<const char*>(data); size > 0;) {
    const ssize_t written = pwrite(file, bytes, size, offset);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return Unavailable("{} cannot be written: {}", path, std::strerror(errno));
    bytes += written;
    offset += written;
    size -= static_cast<size_t>(written);
  }
  return absl::OkStatus();
}

}  // namespace

NpyWriter::NpyWriter(std::string path, int file, int64_t rows, int64_t columns, int64_t data_offset)
    : path_(std::move(path)), file_(file), rows_(rows), columns_(columns), data_offset_(data_offset) {}

NpyWriter::~NpyWriter() { close(file_); }

absl::StatusOr<std::unique_ptr<NpyWriter>> NpyWriter::Create(const std::string& path, int64_t rows, int64_t columns) {
  const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (file < 0) return Unavailable("{} cannot be written: {}", path, std::strerror(errno));
  const std::string header = Header(rows, columns);
  std::unique_ptr<NpyWriter> writer(new NpyWriter(path, file, rows, columns, std::ssize(header)));
  MOED_RETURN_IF_ERROR(WriteAll(file, header.data(), header.size(), 0, path));
  return writer;
}

absl::Status NpyWriter::WriteRow(int64_t row, std::span<const float> values) {
  MOED_CHECK(row >= 0 && row < rows_ && std::ssize(values) == columns_, "row {}", row);
  const int64_t row_bytes = columns_ * static_cast<int64_t>(sizeof(float));
  return WriteAll(file_, values.data(), values.size_bytes(), data_offset_ + row * row_bytes, path_);
}

}  // namespace moed
