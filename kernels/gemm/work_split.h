// How a product is cut into pieces for the threads. For CPU bodies only (see simd.h).
#ifndef KERNELS_GEMM_WORK_SPLIT_H_
#define KERNELS_GEMM_WORK_SPLIT_H_

#include <cstdint>

#include "tensor/tensor_view.h"

namespace moed::kernels::MOED_ISA {

// An item is a group of panels times a block of row tiles. Items are handed out one by one, so there are a few for each
// thread: whoever is done early takes more, and all end together. The items of one group of panels follow each other,
// so that its weights come from memory once.
class WorkSplit {
 public:
  struct Item {
    int64_t panel_begin, panel_end;
    int64_t tile_begin, tile_end;
  };

  MOED_ALWAYS_INLINE WorkSplit(int64_t num_panels, int64_t panel_bytes, int64_t num_tiles, int num_threads)
      : num_panels_(num_panels), num_tiles_(num_tiles) {
    const int64_t wanted_items = num_threads == 1 ? 1 : num_threads * kItemsPerThread;
    // With many tiles a group stays in the second-level cache while the rows pass, each tile used for all its panels.
    const int64_t fitting = num_tiles > 1 ? kCachedPanelBytes / panel_bytes : kMaxGroup;
    group_ = Clamp(num_panels / wanted_items, 1, Clamp(fitting, 1, kMaxGroup));
    num_groups_ = (num_panels + group_ - 1) / group_;
    num_blocks_ = Clamp((wanted_items + num_groups_ - 1) / num_groups_, 1, num_tiles);
  }

  MOED_ALWAYS_INLINE int64_t num_items() const { return num_groups_ * num_blocks_; }
  MOED_ALWAYS_INLINE Item item(int64_t i) const {
    const int64_t group = i / num_blocks_, block = i % num_blocks_;
    const int64_t panel_end = (group + 1) * group_;
    return {group * group_, panel_end < num_panels_ ? panel_end : num_panels_, num_tiles_ * block / num_blocks_,
            num_tiles_ * (block + 1) / num_blocks_};
  }

 private:
  static constexpr int64_t kItemsPerThread = 4;
  static constexpr int64_t kMaxGroup = 4;
  static constexpr int64_t kCachedPanelBytes = 512 << 10;

  MOED_ALWAYS_INLINE static int64_t Clamp(int64_t value, int64_t low, int64_t high) {
    return value < low ? low : value > high ? high : value;
  }

  int64_t num_panels_, num_tiles_;
  int64_t group_, num_groups_, num_blocks_;
};

}  // namespace moed::kernels::MOED_ISA

#endif  // KERNELS_GEMM_WORK_SPLIT_H_
