#include "tensor/workspace.h"

#include <algorithm>

#include "base/logging.h"

namespace moed {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kMinChunk = size_t{1} << 20;

}  // namespace

void* Workspace::Allocate(size_t bytes) {
  bytes = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  while (chunk_ < chunks_.size() && used_ + bytes > chunks_[chunk_].size()) {
    ++chunk_;
    used_ = 0;
  }
  if (chunk_ == chunks_.size()) {
    auto buffer = Buffer::Allocate(std::max(bytes, std::max(kMinChunk, capacity() / 2)), device_);
    MOED_CHECK(buffer.ok(), "workspace: {}", buffer.status().ToString());
    chunks_.push_back(std::move(buffer).value());
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

size_t Workspace::capacity() const {
  size_t total = 0;
  for (const Buffer& chunk : chunks_) total += chunk.size();
  return total;
}

}  // namespace moed
