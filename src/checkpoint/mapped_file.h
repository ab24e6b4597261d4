// A file seen as memory.
#ifndef MOED_CHECKPOINT_MAPPED_FILE_H_
#define MOED_CHECKPOINT_MAPPED_FILE_H_

#include <atomic>
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "base/status.h"

namespace moed {

// A read-only memory mapping of a whole file. Pages come from the disk when they are first touched and can be given
// back again, so a checkpoint larger than the free memory can still be packed piece by piece. Immutable after Open, so
// any number of threads may read. A file that another process truncates while it is mapped ends this one with SIGBUS:
// checkpoints are replaced by renaming, never written in place.
class MappedFile {
 public:
  // NOT_FOUND when there is no such file, INVALID_ARGUMENT when it is not a regular file, else the system's error.
  static absl::StatusOr<MappedFile> Open(const std::string& path);

  MappedFile() = default;
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  const std::string& path() const { return path_; }
  // Null when the file is empty.
  const char* data() const { return data_; }
  size_t size() const { return size_; }
  std::string_view contents() const { return {data_, size_}; }

  // Starts reading the bytes [offset, offset + size) from the disk in the background, in whole pieces of some
  // megabytes; comes back once the disk has taken the orders. What was asked for before is not asked for again.
  void WillNeed(size_t offset, size_t size) const;
  // Takes the pages that hold these bytes out of this process's memory; touching them again reads them again.
  void DontNeed(size_t offset, size_t size) const;

 private:
  void Advise(size_t offset, size_t size, int advice) const;

  std::string path_;
  char* data_ = nullptr;
  size_t size_ = 0;
  std::unique_ptr<std::atomic<bool>[]> asked_;  // which pieces WillNeed was called for
};

}  // namespace moed

#endif  // MOED_CHECKPOINT_MAPPED_FILE_H_
