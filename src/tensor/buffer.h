// Owned memory on a device.
#ifndef MOED_TENSOR_BUFFER_H_
#define MOED_TENSOR_BUFFER_H_

#include <cstddef>

#include "base/status.h"
#include "tensor/tensor_view.h"

namespace moed {

// Memory for weights and caches: aligned to 64 bytes, and from 2 MiB on made of huge pages where the kernel gives them
// (fewer TLB misses when weights stream through). Contents start as zero. Movable, freed on destruction.
class Buffer {
 public:
  Buffer() = default;
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;

  // RESOURCE_EXHAUSTED when there is not that much memory; UNIMPLEMENTED for a device that this build lacks.
  static absl::StatusOr<Buffer> Allocate(size_t bytes, Device device = {});

  void* data() const { return data_; }
  size_t size() const { return size_; }
  Device device() const { return device_; }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
  bool mapped_ = false;
  Device device_;
};

}  // namespace moed

#endif  // MOED_TENSOR_BUFFER_H_
