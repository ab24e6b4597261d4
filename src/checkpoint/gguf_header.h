// The header of a GGUF file (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): metadata, and what tensors
// there are and where. All numbers are little-endian.
//
//   "GGUF", u32 version (2 or 3), u64 number of tensors, u64 number of metadata entries
//   each entry   string key, u32 type, value
//   each tensor  string name, u32 number of dimensions, u64 each, the innermost first; u32 type, u64 offset
//   the data     at the next multiple of general.alignment (32 where there is none); offsets count from here and are
//                multiples of the alignment
//
// A string is a u64 length and its bytes; an array a u32 type of its elements, a u64 count and the elements.
#ifndef MOED_CHECKPOINT_GGUF_HEADER_H_
#define MOED_CHECKPOINT_GGUF_HEADER_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/status.h"
#include "checkpoint/gguf_types.h"

namespace moed {

// An array of numbers or booleans, or one of strings.
struct GgufArray {
  std::variant<std::vector<int64_t>, std::vector<double>, std::vector<std::string_view>> elements;

  size_t size() const {
    return std::visit([](const auto& list) { return list.size(); }, elements);
  }
};

// Integers of all widths as int64_t (a u64 beyond its range is refused), floats as double. Texts are the file's own
// bytes.
using GgufValue = std::variant<bool, int64_t, double, std::string_view, GgufArray>;
using GgufMetadata = std::map<std::string_view, GgufValue>;

struct GgufTensor {
  std::string_view name;
  const GgufType* type;
  std::vector<int64_t> shape;  // the outermost dimension first, as everywhere else
  uint64_t offset;             // in the file
  uint64_t num_bytes;
};

// Refers to the bytes that it was parsed from.
struct GgufHeader {
  uint32_t version = 0;
  GgufMetadata metadata;
  std::vector<GgufTensor> tensors;  // in the order of their bytes in the file
};

// Reads and checks the header of a file whose bytes are `file`. Everything that it says is held against the format and
// the file's size: afterwards each tensor lies inside the file, has exactly the bytes that its shape and type need, and
// no two share a byte. Memory is bounded by 16 times the file's own size (an element of an array of bytes takes 8 here,
// a metadata entry of 13 bytes about 120). INVALID_ARGUMENT names key or tensor, the value and what would be right;
// UNIMPLEMENTED for version 1, big-endian files and types of tensors that are not known, by number.
absl::StatusOr<GgufHeader> ParseGgufHeader(std::string_view file);

}  // namespace moed

#endif  // MOED_CHECKPOINT_GGUF_HEADER_H_
