// How keys lie in the pages of a cache.
#ifndef KERNELS_COMMON_KEY_LAYOUT_H_
#define KERNELS_COMMON_KEY_LAYOUT_H_

#include <cstdint>

#include "tensor/tensor_view.h"

namespace moed::kernels {

// The keys of one block and head, block_size rows of k_head_dim elements.
enum class KeyLayout : uint8_t {
  kRows,  // [block_size, k_head_dim]
  // [words, block_size] of 32 bits: word w of a row are its elements from w * KeyWordElements() on, and the same word
  // of all positions lies side by side, as a CPU's vectors multiply them (the layout of keys in vLLM's first paged
  // attention, Kwon et al. 2023, arXiv:2309.06180, with words of 16 bytes there). On the CPU alone, for rows of whole
  // words and blocks of a multiple of kKeyWordPositions; values cannot be a part of such keys.
  kWords,
};
inline constexpr int64_t kKeyWordPositions = 16;

MOED_ALWAYS_INLINE int64_t KeyWordElements(DType dtype) { return 4 / static_cast<int64_t>(DTypeSize(dtype)); }

// Whether pages of that shape and type can have keys in words.
MOED_ALWAYS_INLINE bool FitsKeyWords(const TensorView& k_pages) {
  return k_pages.device.type == DeviceType::kCpu && k_pages.dim(2) % kKeyWordPositions == 0 &&
         k_pages.dim(3) % KeyWordElements(k_pages.dtype) == 0;
}

// Where element i of the key of `position` lies in its block and head, as the indices that rows would have.
struct KeyPlace {
  int64_t position, i;
};
MOED_ALWAYS_INLINE KeyPlace PlaceOfKey(const TensorView& k_pages, KeyLayout layout, int64_t position, int64_t i) {
  if (layout == KeyLayout::kRows) return {position, i};
  const int64_t elements = KeyWordElements(k_pages.dtype);
  const int64_t place = (i / elements * k_pages.dim(2) + position) * elements + i % elements;
  return {place / k_pages.dim(3), place % k_pages.dim(3)};
}

}  // namespace moed::kernels

#endif  // KERNELS_COMMON_KEY_LAYOUT_H_
