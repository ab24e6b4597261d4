// Writes safetensors files (the format: safetensors_header.h).
#ifndef MOED_CHECKPOINT_SAFETENSORS_WRITER_H_
#define MOED_CHECKPOINT_SAFETENSORS_WRITER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"
#include "tensor/tensor_view.h"

namespace moed {

// Writes one file whose tensors need not be in memory together: their names, types and shapes are given first, then the
// data of each in any order. The file appears under its name only when Finish succeeds; before, its bytes are in
// "<path>.partial", which is removed when the writer ends without Finish. Not thread-safe.
class SafetensorsWriter {
 public:
  struct Spec {
    std::string name;
    DType dtype;
    std::vector<int64_t> shape;
  };

  // Lays the tensors out by falling element size, so that all are aligned, and writes the header. INVALID_ARGUMENT for
  // a name that occurs twice, is not UTF-8 or is "__metadata__", and for a negative or overflowing shape; else the
  // system's error.
  static absl::StatusOr<std::unique_ptr<SafetensorsWriter>> Create(
      const std::string& path, std::vector<Spec> specs, const std::map<std::string, std::string>& metadata = {});
  ~SafetensorsWriter();

  // Writes the data of one tensor: a contiguous CPU view of exactly the declared type and shape. Each tensor once.
  absl::Status Write(std::string_view name, const TensorView& tensor);

  // Completes the file. FAILED_PRECONDITION names a tensor that was never written.
  absl::Status Finish();

 private:
  struct Slot;
  using Slots = std::map<std::string, Slot, std::less<>>;

  SafetensorsWriter(std::string path, int fd);
  static absl::StatusOr<std::string> HeaderBytes(const std::string& path, const Slots& slots,
                                                 const std::map<std::string, std::string>& metadata);
  std::string partial_path() const { return path_ + ".partial"; }

  std::string path_;
  int fd_;
  Slots slots_;
};

// Writes tensors that are all in memory to one file.
absl::Status WriteSafetensors(const std::string& path, const std::vector<std::pair<std::string, TensorView>>& tensors,
                              const std::map<std::string, std::string>& metadata = {});

}  // namespace moed

#endif  // MOED_CHECKPOINT_SAFETENSORS_WRITER_H_
