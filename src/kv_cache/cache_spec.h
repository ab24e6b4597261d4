// What one layer keeps of the positions it has seen.
#ifndef MOED_KV_CACHE_CACHE_SPEC_H_
#define MOED_KV_CACHE_CACHE_SPEC_H_

#include <cstdint>
#include <span>
#include <vector>

#include "tensor/dtype.h"

namespace moed {

// Declared by each layer. Layers of one spec form a group and share block tables; K and V heads may differ in size.
struct CacheSpec {
  int32_t num_kv_heads = 0;
  int32_t k_head_dim = 0;
  int32_t v_head_dim = 0;
  // The first v_head_dim elements of a key are its value, kept once: the compressed latent of MLA, to which the rotary
  // key is appended (DeepSeek-V2, arXiv:2405.04434).
  bool v_in_k = false;
  int32_t window = 0;         // only the last `window` positions are read; 0: all
  DType dtype = DType::kF32;  // kI8: integers with a float a row (head and position) that they are multiplied by

  friend bool operator==(const CacheSpec&, const CacheSpec&) = default;

  // Of one position in one layer.
  int64_t bytes_per_position() const {
    const int64_t elements = v_in_k ? k_head_dim : k_head_dim + v_head_dim;
    const int64_t scales = dtype == DType::kI8 ? (v_in_k ? 1 : 2) : 0;
    return num_kv_heads * (elements * static_cast<int64_t>(DTypeSize(dtype)) + scales * int64_t{sizeof(float)});
  }
};

// The layers that share one spec, in order.
struct CacheGroup {
  CacheSpec spec;
  std::vector<int32_t> layers;
};

// Groups in the order of their first layers; specs: [num_layers].
std::vector<CacheGroup> GroupLayers(std::span<const CacheSpec> specs);

}  // namespace moed

#endif  // MOED_KV_CACHE_CACHE_SPEC_H_
