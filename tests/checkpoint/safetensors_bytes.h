// Makes the bytes of safetensors files by hand, right and wrong ones.
#ifndef MOED_TESTS_CHECKPOINT_SAFETENSORS_BYTES_H_
#define MOED_TESTS_CHECKPOINT_SAFETENSORS_BYTES_H_

#include <cstdint>
#include <string>
#include <string_view>

namespace moed::testing {

inline std::string LittleEndian64(uint64_t value) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(value >> (8 * i));
  return bytes;
}

// The length of `header`, the header, and `data_size` bytes that count up from 0.
inline std::string SafetensorsBytes(std::string_view header, size_t data_size) {
  std::string bytes = LittleEndian64(header.size());
  bytes += header;
  for (size_t i = 0; i < data_size; ++i) bytes += static_cast<char>(i);
  return bytes;
}

}  // namespace moed::testing

#endif  // MOED_TESTS_CHECKPOINT_SAFETENSORS_BYTES_H_
