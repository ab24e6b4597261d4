#include "tensor/workspace.h"

#include <algorithm>

#include "base/logging.h"

namespace moed {
namespace {

constexpr size_t kAlignment = 64, kCudaAlignment = 256;
constexpr size_t kMinChunk = size_t{1} << 20;

// Where nothing is: the address of memory that is never touched.
void* Nowhere(size_t offset) { return reinterpret_cast<void*>(kCudaAlignment + offset); }

}  // namespace

absl::Status Workspace::AddChunk(size_t bytes) {
  auto buffer = Buffer::Allocate(bytes, device_);
  if (!buffer.ok()) return Annotate(buffer.status(), "scratch memory of a step");
  chunks_.push_back(std::move(buffer).value());
  return absl::OkStatus();
}

void* Workspace::Allocate(size_t bytes) {
  const size_t alignment = stream_ != nullptr ? kCudaAlignment : kAlignment;
  bytes = (bytes + alignment - 1) / alignment * alignment;
  if (stream_ != nullptr && stream_->is_measuring()) {
    void* const result = Nowhere(measured_);
    measured_ += bytes;
    peak_ = std::max(peak_, measured_);
    return result;
  }
  while (chunk_ < chunks_.size() && used_ + bytes > chunks_[chunk_].size()) {
    ++chunk_;
    used_ = 0;
  }
  if (chunk_ == chunks_.size()) {
    absl::Status grown = AddChunk(std::max({bytes, kMinChunk, capacity() / 2}));
    if (!grown.ok() && stream_ != nullptr) grown = AddChunk(bytes);
    if (!grown.ok() && stream_ != nullptr) {
      stream_->Fail(std::move(grown));
      return Nowhere(0);
    }
    MOED_CHECK(grown.ok(), "{}", grown.ToString());
    used_ = 0;
  }
  void* result = static_cast<char*>(chunks_[chunk_].data()) + used_;
  used_ += bytes;
  return result;
}

TensorView Workspace::Tensor(std::initializer_list<int64_t> shape, DType dtype) {
  TensorView view(nullptr, shape, dtype, device_);
  view.data = Allocate(view.num_bytes());
  return view;
}

absl::Status Workspace::Reserve(size_t bytes) {
  MOED_CHECK(chunk_ == 0 && used_ == 0, "workspace: reserved while in use");
  if (!chunks_.empty() && chunks_[0].size() >= bytes) return absl::OkStatus();
  chunks_.clear();
  return AddChunk(bytes);
}

size_t Workspace::capacity() const {
  size_t total = 0;
  for (const Buffer& chunk : chunks_) total += chunk.size();
  return total;
}

}  // namespace moed
