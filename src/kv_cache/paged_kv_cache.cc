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
      cache.layers_[layer].group = static_cast<int32_t>(g);
      MOED_RETURN_IF_ERROR(cache.AllocateLayer(spec, device, &cache.layers_[layer]));
    }
  }
  return cache;
}

absl::Status PagedKvCache::AllocateLayer(const CacheSpec& spec, Device device, LayerCache* layer) {
  const auto allocate = [&](int32_t head_dim, TensorView* pages, TensorView* scales) -> absl::Status {
    *pages = TensorView(nullptr, {num_blocks_, spec.num_kv_heads, block_size_, head_dim}, spec.dtype, device);
    MOED_RETURN_IF_ERROR(Allocate(pages));
    if (spec.dtype != DType::kI8) return absl::OkStatus();
    *scales = TensorView(nullptr, {num_blocks_, spec.num_kv_heads, block_size_}, DType::kF32, device);
    return Allocate(scales);
  };
  MOED_RETURN_IF_ERROR(allocate(spec.k_head_dim, &layer->k_pages, &layer->k_scales));
  if (!spec.v_in_k) {
    if (kernels::FitsKeyWords(layer->k_pages)) layer->key_layout = kernels::KeyLayout::kWords;
    return allocate(spec.v_head_dim, &layer->v_pages, &layer->v_scales);
  }
  layer->v_pages = layer->k_pages.Columns(0, spec.v_head_dim);
  layer->v_scales = layer->k_scales;
  return absl::OkStatus();
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

std::vector<std::span<char>> PagedKvCache::Pieces(int32_t group, int32_t block) const {
  MOED_CHECK(block >= 0 && block < num_blocks_);
  std::vector<std::span<char>> pieces;
  for (int32_t layer : groups_[group].layers) {
    const LayerCache& cache = layers_[layer];
    for (const TensorView* pages : {&cache.k_pages, &cache.k_scales, &cache.v_pages, &cache.v_scales}) {
      const bool in_keys = pages == &cache.v_pages || pages == &cache.v_scales;
      if (pages->empty() || (groups_[group].spec.v_in_k && in_keys)) continue;
      const size_t bytes = pages->num_bytes() / num_blocks_;
      pieces.emplace_back(pages->As<char>() + block * bytes, bytes);
    }
  }
  return pieces;
}

void PagedKvCache::CopyBlock(int32_t group, int32_t source, int32_t destination, CudaStream* stream) const {
  const std::vector<std::span<char>> from = Pieces(group, source), to = Pieces(group, destination);
  for (size_t i = 0; i < from.size(); ++i) {
    if (stream != nullptr) {
      stream->Copy(to[i].data(), from[i].data(), from[i].size());
    } else {
      std::memcpy(to[i].data(), from[i].data(), from[i].size());
    }
  }
}

}  // namespace moed
