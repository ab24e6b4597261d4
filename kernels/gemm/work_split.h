// How a product is cut into pieces for the threads. For CPU bodies only (see simd.h).
#ifndef KERNELS_GEMM_WORK_SPLIT_H_
#define KERNELS_GEMM_WORK_SPLIT_H_

#include <cstdint>

#include "tensor/tensor_view.h"

namespace moed::kernels::MOED_ISA {

// An item is a group of panels times a block of row tiles. Items are handed out one by one, so there are a few for each
// thread: whoever is done early takes more, and all end together. The items of one block follow each other: its tiles
// stay in the second-level cache while the weights pass. How it is cut never changes a result.
class WorkSplit {
 public:
  struct Item {
    int64_t panel_begin, panel_end;
    int64_t tile_begin, tile_end;
  };

  // For `num_products` products with that many panels each, whose rows make up to max_tiles tiles of tile_bytes each.
  MOED_ALWAYS_INLINE WorkSplit(int64_t num_panels, int64_t max_tiles, int64_t tile_bytes, int num_threads,
                               int64_t num_products = 1)
      : num_panels_(num_panels) {
    const int64_t wanted_items = num_threads == 1 ? 1 : CeilDiv(num_threads * kItemsPerThread, num_products);
    group_size_ = Clamp(num_panels / wanted_items, 1, kMaxGroup);
    num_groups_ = CeilDiv(num_panels, group_size_);
    const int64_t block_tiles = Clamp(kBlockBytes / tile_bytes, kMinBlockTiles, max_tiles);
    const int64_t wanted_blocks = CeilDiv(wanted_items, num_groups_), small_blocks = CeilDiv(max_tiles, block_tiles);
    num_blocks_ = Clamp(wanted_blocks > small_blocks ? wanted_blocks : small_blocks, 1, max_tiles);
  }

  // Items of one product.
  MOED_ALWAYS_INLINE int64_t num_items() const { return num_groups_ * num_blocks_; }
  // Item i of a product with num_tiles tiles; where these are few, it may have none.
  MOED_ALWAYS_INLINE Item item(int64_t i, int64_t num_tiles) const {
    const int64_t block = i / num_groups_;
    Item item = group(i % num_groups_, num_tiles);
    item.tile_begin = num_tiles * block / num_blocks_;
    item.tile_end = num_tiles * (block + 1) / num_blocks_;
    return item;
  }

  // The same, cut into groups of panels only.
  MOED_ALWAYS_INLINE int64_t num_groups() const { return num_groups_; }
  MOED_ALWAYS_INLINE Item group(int64_t i, int64_t num_tiles) const {
    const int64_t panel_end = (i + 1) * group_size_;
    return {i * group_size_, panel_end < num_panels_ ? panel_end : num_panels_, 0, num_tiles};
  }
  // Panels of a group at most.
  MOED_ALWAYS_INLINE int64_t group_size() const { return group_size_; }

 private:
  static constexpr int64_t kItemsPerThread = 8;
  static constexpr int64_t kMaxGroup = 4;
  // Tiles of a block: part of a second-level cache, but enough rows that reading the weights again costs little.
  static constexpr int64_t kBlockBytes = 256 << 10;
  static constexpr int64_t kMinBlockTiles = 6;

  MOED_ALWAYS_INLINE static int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
  MOED_ALWAYS_INLINE static int64_t Clamp(int64_t value, int64_t low, int64_t high) {
    return value < low ? low : value > high ? high : value;
  }

  int64_t num_panels_;
  int64_t group_size_, num_groups_, num_blocks_;
};

}  // namespace moed::kernels::MOED_ISA

#endif  // KERNELS_GEMM_WORK_SPLIT_H_
