// The element types of GGUF tensors, and what their blocks stand for (ggml's quantisation formats,
// https://github.com/ggml-org/ggml, as the `gguf` Python package dequantises them).
#ifndef MOED_CHECKPOINT_GGUF_TYPES_H_
#define MOED_CHECKPOINT_GGUF_TYPES_H_

#include <cstdint>
#include <optional>
#include <string_view>

#include "tensor/dtype.h"

namespace moed {

// Tensors are rows of blocks: `block_bytes` bytes stand for `block_size` elements that lie side by side.
struct GgufType {
  uint32_t id;
  std::string_view name;  // "Q4_K"
  uint32_t block_size;
  uint32_t block_bytes;
  // One block to fp32, to the bit as the gguf package does it; null for types whose size alone is known here.
  void (*dequantize)(const uint8_t* block, float* out);
  // The type of plain elements (block_size 1).
  std::optional<DType> dtype;
  // Where elements are scale * code with one scale a block: the bits of a code, else 0; and how to read them.
  int bits = 0;
  void (*read_integers)(const uint8_t* block, int8_t* codes, float* scale) = nullptr;
};

// Null for a number that stands for no type, or for one that ggml has withdrawn.
const GgufType* FindGgufType(uint32_t id);
// By name; null when there is none.
const GgufType* FindGgufType(std::string_view name);

}  // namespace moed

#endif  // MOED_CHECKPOINT_GGUF_TYPES_H_
