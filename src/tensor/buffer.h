// Owned memory on a device.
#ifndef MOED_TENSOR_BUFFER_H_
#define MOED_TENSOR_BUFFER_H_

#include <cstddef>
#include <cstdint>

#include "base/status.h"
#include "tensor/tensor_view.h"

namespace moed {

// Memory for weights and caches: aligned to 64 bytes (256 on a GPU), and on the host from 2 MiB on made of huge pages
// where the kernel gives them (fewer TLB misses when weights stream through), in turn from all NUMA nodes. Contents
// start as zero. Movable, freed on destruction.
class Buffer {
 public:
  Buffer() = default;
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;

  // RESOURCE_EXHAUSTED when there is not that much memory; UNIMPLEMENTED for a device that this build lacks.
  static absl::StatusOr<Buffer> Allocate(size_t bytes, Device device = {});
  // On the host, for copies to and from a GPU that run beside it. Contents are not initialised.
  static absl::StatusOr<Buffer> AllocatePinned(size_t bytes);
  // The bytes of a buffer of the host on `device`, when the call returns; itself where that is the host.
  static absl::StatusOr<Buffer> MoveTo(Buffer host, Device device);

  void* data() const { return data_; }
  size_t size() const { return size_; }
  Device device() const { return device_; }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
  enum class Kind : uint8_t { kHeap, kMapped, kCuda, kPinned } kind_ = Kind::kHeap;
  Device device_;
};

}  // namespace moed

#endif  // MOED_TENSOR_BUFFER_H_
