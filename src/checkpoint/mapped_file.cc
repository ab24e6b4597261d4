#include "checkpoint/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

namespace moed {
namespace {

constexpr size_t kPieceBytes = size_t{4} << 20;
size_t NumPieces(size_t bytes) { return (bytes + kPieceBytes - 1) / kPieceBytes; }

}  // namespace

absl::StatusOr<MappedFile> MappedFile::Open(const std::string& path) {
  // Without O_NONBLOCK, opening a pipe that lies there by the name of a file would wait for a writer.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return absl::ErrnoToStatus(errno, fmt::format("{}: cannot open", path));
  struct stat info;
  if (fstat(fd, &info) != 0) {
    const int error = errno;
    close(fd);
    return absl::ErrnoToStatus(error, fmt::format("{}: cannot stat", path));
  }
  if (!S_ISREG(info.st_mode)) {
    close(fd);
    return InvalidArgument("{}: not a regular file", path);
  }
  MappedFile file;
  file.path_ = path;
  file.size_ = static_cast<size_t>(info.st_size);
  if (file.size_ > 0) {
    void* data = mmap(nullptr, file.size_, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED) {
      const int error = errno;
      close(fd);
      return absl::ErrnoToStatus(error, fmt::format("{}: cannot map {} bytes", path, file.size_));
    }
    file.data_ = static_cast<char*>(data);
    file.asked_ = std::make_unique<std::atomic<bool>[]>(NumPieces(file.size_));
  }
  close(fd);
  return file;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(data_, size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      asked_(std::move(other.asked_)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(asked_, other.asked_);
  return *this;
}

void MappedFile::WillNeed(size_t offset, size_t size) const {
  if (size == 0 || offset >= size_) return;
  const size_t end = NumPieces(offset + std::min(size, size_ - offset));
  for (size_t piece = offset / kPieceBytes; piece < end; ++piece) {
    if (!asked_[piece].exchange(true)) Advise(piece * kPieceBytes, kPieceBytes, MADV_WILLNEED);
  }
}

void MappedFile::DontNeed(size_t offset, size_t size) const { Advise(offset, size, MADV_DONTNEED); }

// Widens the range to whole pages: a neighbour's bytes on a shared page are read again when they are touched. Advice is
// only a hint, so its failure is not an error.
void MappedFile::Advise(size_t offset, size_t size, int advice) const {
  if (size == 0 || offset >= size_) return;
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t begin = offset / page * page;
  const size_t end = std::min(size_, offset + std::min(size, size_ - offset));
  madvise(data_ + begin, end - begin, advice);
}

}  // namespace moed
