#include "tensor/buffer.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <utility>

#include "base/numa.h"
#include "tensor/cuda_memory.h"

namespace moed {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kHugePage = size_t{2} << 20;

// AddressSanitizer watches what its own allocator gives.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kMapsLargeBuffers = false;
#elif defined(__has_feature)
constexpr bool kMapsLargeBuffers = !__has_feature(address_sanitizer);
#else
constexpr bool kMapsLargeBuffers = true;
#endif

}  // namespace

absl::StatusOr<Buffer> Buffer::Allocate(size_t bytes, Device device) {
  Buffer buffer;
  buffer.device_ = device;
  buffer.size_ = bytes;
  if (device.type == DeviceType::kCuda) {
    MOED_ASSIGN_OR_RETURN(buffer.data_, AllocateCuda(bytes, device));
    buffer.kind_ = Kind::kCuda;
    return buffer;
  }
  if (kMapsLargeBuffers && bytes >= kHugePage) {
    void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) return ResourceExhausted("cannot get {} bytes of memory: {}", bytes, std::strerror(errno));
    madvise(data, bytes, MADV_HUGEPAGE);  // a hint: what it answers does not matter
    SpreadOverNumaNodes(data, bytes);
    buffer.data_ = data;
    buffer.kind_ = Kind::kMapped;
    return buffer;
  }
  const size_t rounded = (bytes + kAlignment) / kAlignment * kAlignment;  // never zero
  buffer.data_ = std::aligned_alloc(kAlignment, rounded);
  if (buffer.data_ == nullptr) return ResourceExhausted("cannot get {} bytes of memory", bytes);
  std::memset(buffer.data_, 0, rounded);
  return buffer;
}

absl::StatusOr<Buffer> Buffer::AllocatePinned(size_t bytes) {
  Buffer buffer;
  buffer.size_ = bytes;
  MOED_ASSIGN_OR_RETURN(buffer.data_, moed::AllocatePinned(bytes));
  buffer.kind_ = Kind::kPinned;
  return buffer;
}

absl::StatusOr<Buffer> Buffer::MoveTo(Buffer host, Device device) {
  if (device.type == DeviceType::kCpu) return host;
  MOED_ASSIGN_OR_RETURN(Buffer buffer, Allocate(host.size(), device));
  MOED_RETURN_IF_ERROR(CopyToCuda(buffer.data(), host.data(), host.size(), device));
  return buffer;
}

Buffer::~Buffer() {
  if (data_ == nullptr) return;
  switch (kind_) {
    case Kind::kHeap:
      std::free(data_);
      break;
    case Kind::kMapped:
      munmap(data_, size_);
      break;
    case Kind::kCuda:
      FreeCuda(data_, device_);
      break;
    case Kind::kPinned:
      FreePinned(data_);
      break;
  }
}

Buffer::Buffer(Buffer&& other) noexcept { *this = std::move(other); }

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(kind_, other.kind_);
  std::swap(device_, other.device_);
  return *this;
}

}  // namespace moed
