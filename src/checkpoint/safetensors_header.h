// The header of a safetensors file (https://github.com/huggingface/safetensors): what tensors there are, and where.
//
//   8 bytes   N, little-endian: the length of the header
//   N bytes   JSON: {"__metadata__": {"key": "value", …}, "NAME": {"dtype": "BF16", "shape": [3, 4],
//             "data_offsets": [BEGIN, END]}, …}, padded with spaces
//   the rest  the tensors, row-major and little-endian; offsets count from here, without holes or overlaps
#ifndef MOED_CHECKPOINT_SAFETENSORS_HEADER_H_
#define MOED_CHECKPOINT_SAFETENSORS_HEADER_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "tensor/dtype.h"

namespace moed {

// One tensor as the header declares it.
struct SafetensorsEntry {
  std::string name;
  std::string dtype_name;      // the format's own word: "BF16", "F8_E4M3", …
  std::optional<DType> dtype;  // nothing when the format knows the type and we do not take it yet
  std::vector<int64_t> shape;  // empty for a scalar
  uint64_t offset = 0;         // of the first byte, from the start of the file
  uint64_t num_bytes = 0;
};

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  // in the order of their bytes in the file
  std::map<std::string, std::string> metadata;
};

// The longest header that is read, as in the reference implementation.
inline constexpr uint64_t kMaxSafetensorsHeaderBytes = 100'000'000;

// Reads and checks the header of a file whose bytes are `file`. Everything that the header says is held against the
// format and against the file's size: afterwards each entry lies inside the file, has exactly the bytes that its shape
// and type need, and no two share a byte. Memory is bounded by a small multiple of the header's own length.
// INVALID_ARGUMENT names the tensor, the value and what would be right.
absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view file);

// The format's word for one of our types: "F32" for DType::kF32.
std::string_view SafetensorsDTypeName(DType dtype);

}  // namespace moed

#endif  // MOED_CHECKPOINT_SAFETENSORS_HEADER_H_
