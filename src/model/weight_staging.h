// The way of weights to where they are computed with.
#ifndef MOED_MODEL_WEIGHT_STAGING_H_
#define MOED_MODEL_WEIGHT_STAGING_H_

#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "base/status.h"
#include "tensor/buffer.h"
#include "tensor/cuda_stream.h"

namespace moed {

// Hands out regions of host memory, one after the other, to be filled with weights. On the CPU a region is where the
// weights stay. For a GPU it is pinned, and sent to the device while the next one is filled: there are two, by turns.
class WeightStaging {
 public:
  explicit WeightStaging(Device device) : device_(device) {}

  // A fresh region of zeros, of `bytes`. RESOURCE_EXHAUSTED.
  absl::StatusOr<void*> Begin(size_t bytes);

  // Sends off the region that Begin() gave last. What lies at `p` in it is, or will be, at `p` + the result.
  absl::StatusOr<std::ptrdiff_t> End();

  // Waits until all is where it belongs, and gives away the memory there.
  absl::StatusOr<std::vector<Buffer>> Finish();

  Device device() const { return device_; }

 private:
  struct Region {
    Buffer host;                    // pinned
    std::optional<CudaEvent> sent;  // the device has it all
  };

  absl::StatusOr<Region*> NextRegion(size_t bytes);

  Device device_;
  std::vector<Buffer> buffers_;  // where the weights stay
  std::array<Region, 2> regions_;
  std::unique_ptr<CudaStream> stream_;  // the last, so that it goes first: what it copies from must be there till then
  size_t num_begun_ = 0;
};

}  // namespace moed

#endif  // MOED_MODEL_WEIGHT_STAGING_H_
