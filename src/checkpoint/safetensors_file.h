// Tensors read from a safetensors file without copying them.
#ifndef MOED_CHECKPOINT_SAFETENSORS_FILE_H_
#define MOED_CHECKPOINT_SAFETENSORS_FILE_H_

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/status.h"
#include "checkpoint/mapped_file.h"
#include "checkpoint/safetensors_header.h"
#include "tensor/buffer.h"
#include "tensor/tensor_view.h"

namespace moed {

// A memory-mapped safetensors file. Thread-safe.
class SafetensorsFile {
 public:
  // Maps `path` and checks its whole header (safetensors_header.h). Errors begin with the path.
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Open(const std::string& path);

  const std::string& path() const { return file_.path(); }
  // In the order of their bytes in the file.
  const std::vector<SafetensorsEntry>& entries() const { return header_.entries; }
  const std::map<std::string, std::string>& metadata() const { return header_.metadata; }

  // What the header says of `name`; null when it is not in the file.
  const SafetensorsEntry* Find(std::string_view name) const;

  // A contiguous CPU view of the tensor, to be read only, valid until Release(name) or the end of this object.
  // Its data is aligned to its element size, whatever the file does: the format does not ask for alignment, so a tensor
  // that lies crooked in the file is copied once (files written by the common libraries have none).
  // NOT_FOUND, or UNIMPLEMENTED for a type that we do not take and for more than TensorView::kMaxRank dimensions.
  absl::StatusOr<TensorView> Get(std::string_view name);

  // The same of any type of at most 8 bits an element as kU8, whose meaning the caller knows (F8_E4M3, F8_E8M0).
  // `read_ahead`: its bytes are about to be read.
  absl::StatusOr<TensorView> GetRaw(std::string_view name, bool read_ahead = true);

  // Says that the tensor has been packed and its memory can go. Views of it must not be used afterwards; Get gives a
  // new one. Unknown names are ignored.
  void Release(std::string_view name);

  // Starts reading the tensors whose names begin with `prefix` from the disk.
  void WillNeed(std::string_view prefix) const;

 private:
  SafetensorsFile(MappedFile file, SafetensorsHeader header);
  absl::StatusOr<TensorView> View(const SafetensorsEntry& entry, DType dtype, bool read_ahead);

  MappedFile file_;
  SafetensorsHeader header_;
  std::unordered_map<std::string_view, const SafetensorsEntry*> by_name_;
  std::mutex mutex_;
  std::unordered_map<const SafetensorsEntry*, Buffer> aligned_copies_;  // guarded by mutex_
};

}  // namespace moed

#endif  // MOED_CHECKPOINT_SAFETENSORS_FILE_H_
