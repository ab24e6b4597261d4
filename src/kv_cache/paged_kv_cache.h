// The bytes of the KV cache; who owns which block is BlockManager's business.
#ifndef MOED_KV_CACHE_PAGED_KV_CACHE_H_
#define MOED_KV_CACHE_PAGED_KV_CACHE_H_

#include <span>
#include <vector>

#include "base/status.h"
#include "kernels/common/key_layout.h"
#include "kv_cache/cache_spec.h"
#include "tensor/buffer.h"
#include "tensor/cuda_stream.h"
#include "tensor/tensor_view.h"

namespace moed {

// Pages of one layer, in the layout that kv_write and paged_attention take.
struct LayerCache {
  int32_t group = 0;
  kernels::KeyLayout key_layout = kernels::KeyLayout::kRows;
  TensorView k_pages;  // spec.dtype [num_blocks, num_kv_heads, block_size, k_head_dim]
  TensorView v_pages;  // spec.dtype [num_blocks, num_kv_heads, block_size, v_head_dim]; with v_in_k a part of k_pages
  // f32 [num_blocks, num_kv_heads, block_size], with integers alone; with v_in_k one and the same
  TensorView k_scales, v_scales;
};

// Allocated once; not thread-safe (the engine's thread owns it).
class PagedKvCache {
 public:
  // specs: [num_layers]. Every group gets num_blocks blocks. RESOURCE_EXHAUSTED when the memory is not there, with the
  // bytes asked for.
  static absl::StatusOr<PagedKvCache> Create(std::span<const CacheSpec> specs, int32_t block_size, int32_t num_blocks,
                                             Device device);

  const LayerCache& layer(int32_t index) const { return layers_[index]; }
  const std::vector<CacheGroup>& groups() const { return groups_; }
  int32_t block_size() const { return block_size_; }
  int32_t num_blocks() const { return num_blocks_; }

  // Bytes of one block over all layers of `group`.
  int64_t BytesPerBlock(int32_t group) const;

  // Where the block lies: a piece for each array of each layer of the group, BytesPerBlock together.
  std::vector<std::span<char>> Pieces(int32_t group, int32_t block) const;

  // Copies block `source` over block `destination` in all layers of the group; on a GPU in `stream`.
  void CopyBlock(int32_t group, int32_t source, int32_t destination, CudaStream* stream = nullptr) const;

 private:
  PagedKvCache() = default;
  absl::Status AllocateLayer(const CacheSpec& spec, Device device, LayerCache* layer);
  absl::Status Allocate(TensorView* pages);

  int32_t block_size_ = 0;
  int32_t num_blocks_ = 0;
  std::vector<CacheGroup> groups_;
  std::vector<LayerCache> layers_;
  std::vector<Buffer> buffers_;
};

}  // namespace moed

#endif  // MOED_KV_CACHE_PAGED_KV_CACHE_H_
