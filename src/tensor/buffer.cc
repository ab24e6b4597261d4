#include "tensor/buffer.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <utility>

namespace moed {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kHugePage = size_t{2} << 20;

}  // namespace

absl::StatusOr<Buffer> Buffer::Allocate(size_t bytes, Device device) {
  if (device.type != DeviceType::kCpu) return Unimplemented("memory on a CUDA device is not in this build");
  Buffer buffer;
  buffer.device_ = device;
  buffer.size_ = bytes;
  if (bytes >= kHugePage) {
    void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) return ResourceExhausted("cannot get {} bytes of memory: {}", bytes, std::strerror(errno));
    madvise(data, bytes, MADV_HUGEPAGE);  // a hint: what it answers does not matter
    buffer.data_ = data;
    buffer.mapped_ = true;
    return buffer;
  }
  const size_t rounded = (bytes + kAlignment) / kAlignment * kAlignment;  // never zero
  buffer.data_ = std::aligned_alloc(kAlignment, rounded);
  if (buffer.data_ == nullptr) return ResourceExhausted("cannot get {} bytes of memory", bytes);
  std::memset(buffer.data_, 0, rounded);
  return buffer;
}

Buffer::~Buffer() {
  if (data_ == nullptr) return;
  if (mapped_) {
    munmap(data_, size_);
  } else {
    std::free(data_);
  }
}

Buffer::Buffer(Buffer&& other) noexcept { *this = std::move(other); }

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(mapped_, other.mapped_);
  std::swap(device_, other.device_);
  return *this;
}

}  // namespace moed
