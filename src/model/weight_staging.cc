#include "model/weight_staging.h"

#include <cstring>
#include <utility>

namespace moed {

absl::StatusOr<WeightStaging::Region*> WeightStaging::NextRegion(size_t bytes) {
  if (stream_ == nullptr) {
    MOED_ASSIGN_OR_RETURN(stream_, CudaStream::Create(device_));
  }
  Region& region = regions_[num_begun_++ % regions_.size()];
  if (!region.sent) {
    MOED_ASSIGN_OR_RETURN(region.sent, CudaEvent::Create());
  }
  MOED_RETURN_IF_ERROR(region.sent->Wait());
  if (region.host.size() < bytes) {
    region.host = Buffer();
    MOED_ASSIGN_OR_RETURN(region.host, Buffer::AllocatePinned(bytes));
  }
  return &region;
}

absl::StatusOr<void*> WeightStaging::Begin(size_t bytes) {
  MOED_ASSIGN_OR_RETURN(Buffer buffer, Buffer::Allocate(bytes, device_));
  buffers_.push_back(std::move(buffer));
  if (device_.type == DeviceType::kCpu) return buffers_.back().data();
  MOED_ASSIGN_OR_RETURN(Region* const region, NextRegion(bytes));
  std::memset(region->host.data(), 0, bytes);
  return region->host.data();
}

absl::StatusOr<std::ptrdiff_t> WeightStaging::End() {
  if (device_.type == DeviceType::kCpu) return 0;
  Region& region = regions_[(num_begun_ - 1) % regions_.size()];
  const Buffer& target = buffers_.back();
  stream_->Copy(target.data(), region.host.data(), target.size());
  region.sent->Record(stream_.get());
  return static_cast<char*>(target.data()) - static_cast<char*>(region.host.data());
}

absl::StatusOr<std::vector<Buffer>> WeightStaging::Finish() {
  if (stream_ != nullptr) MOED_RETURN_IF_ERROR(stream_->Synchronize());
  return std::move(buffers_);
}

}  // namespace moed
