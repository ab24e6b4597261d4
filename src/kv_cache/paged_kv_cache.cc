#include "kv_cache/paged_kv_cache.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/logging.h"

namespace moed {

std::vector<CacheGroup> GroupLayers(std::span<const CacheSpec> specs) {
  std::vector<CacheGroup> groups;
  for (size_t layer = 0; layer < specs.size(); ++layer) {
    auto group =
        std::find_if(groups.begin(), groups.end(), [&](const CacheGroup& g) { return g.spec == specs[layer]; });
    if (group == groups.end()) group = groups.insert(groups.end(), CacheGroup{specs[layer], {}});
    group->layers.push_back(static_cast<int32_t>(layer));
  }
  return groups;
}

absl::StatusOr<PagedKvCache> PagedKvCache::Create(std::span<const CacheSpec> specs, int32_t block_size,
                                                  int32_t num_blocks, Device device) {
  MOED_CHECK(block_size >= 1 && num_blocks >= 1, "{} blocks of {}", num_blocks, block_size);
  PagedKvCache cache;
  cache.block_size_ = block_size;
  cache.num_blocks_ = num_blocks;
  cache.groups_ = GroupLayers(specs);
  cache.layers_.resize(specs.size());
  for (size_t g = 0; g < cache.groups_.size(); ++g) {
    const CacheSpec& spec = cache.groups_[g].spec;
    for (int32_t layer : cache.groups_[g].layers) {
      LayerCache& pages = cache.layers_[layer];
      pages.group = static_cast<int32_t>(g);
      pages.k_pages =
          TensorView(nullptr, {num_blocks, spec.num_kv_heads, block_size, spec.k_head_dim}, spec.dtype, device);
      MOED_RETURN_IF_ERROR(cache.Allocate(&pages.k_pages));
      if (spec.v_in_k) {
        pages.v_pages = pages.k_pages.Columns(0, spec.v_head_dim);
        continue;
      }
      pages.v_pages =
          TensorView(nullptr, {num_blocks, spec.num_kv_heads, block_size, spec.v_head_dim}, spec.dtype, device);
      MOED_RETURN_IF_ERROR(cache.Allocate(&pages.v_pages));
    }
  }
  return cache;
}

absl::Status PagedKvCache::Allocate(TensorView* pages) {
  auto buffer = Buffer::Allocate(pages->num_bytes(), pages->device);
  if (!buffer.ok()) return Annotate(buffer.status(), fmt::format("KV cache of {} blocks", num_blocks_));
  pages->data = buffer->data();
  buffers_.push_back(std::move(buffer).value());
  return absl::OkStatus();
}

int64_t PagedKvCache::BytesPerBlock(int32_t group) const {
  const CacheGroup& g = groups_[group];
  return g.spec.bytes_per_position() * block_size_ * static_cast<int64_t>(g.layers.size());
}

void PagedKvCache::CopyBlock(int32_t group, int32_t source, int32_t destination) {
  for (int32_t layer : groups_[group].layers) {
    for (const TensorView* pages : {&layers_[layer].k_pages, &layers_[layer].v_pages}) {
      if (groups_[group].spec.v_in_k && pages == &layers_[layer].v_pages) continue;  // a part of the keys
      const size_t bytes = pages->num_bytes() / num_blocks_;
      char* base = pages->As<char>();
      std::memcpy(base + destination * bytes, base + source * bytes, bytes);
    }
  }
}

}  // namespace moed
