// Makes the bytes of GGUF files (src/checkpoint/gguf_header.h describes them), right and wrong ones.
#ifndef MOED_TESTS_SUPPORT_GGUF_WRITER_H_
#define MOED_TESTS_SUPPORT_GGUF_WRITER_H_

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace moed::testing {

class GgufWriter {
 public:
  explicit GgufWriter(uint32_t version = 3) : version_(version) {}

  // Metadata of the format's types 4 (u32), 6 (f32), 7 (bool), 8 (string) and 9 (array).
  void AddInt(std::string_view key, uint32_t value) { Entry(key, 4, Raw(value)); }
  void AddFloat(std::string_view key, float value) { Entry(key, 6, Raw(value)); }
  void AddBool(std::string_view key, bool value) { Entry(key, 7, std::string(1, value ? '\1' : '\0')); }
  void AddString(std::string_view key, std::string_view value) { Entry(key, 8, String(value)); }
  void AddStrings(std::string_view key, const std::vector<std::string>& values) {
    std::string bytes = Raw<uint32_t>(8) + Raw<uint64_t>(values.size());
    for (const std::string& value : values) bytes += String(value);
    Entry(key, 9, bytes);
  }
  template <typename T>  // float or int32_t
  void AddArray(std::string_view key, const std::vector<T>& values) {
    std::string bytes = Raw<uint32_t>(std::is_same_v<T, float> ? 6 : 5) + Raw<uint64_t>(values.size());
    for (const T value : values) bytes += Raw(value);
    Entry(key, 9, bytes);
  }
  // Any entry, its value as it shall lie in the file.
  void Entry(std::string_view key, uint32_t type, std::string_view value) {
    entries_ += String(key) + Raw(type) + std::string(value);
    ++num_entries_;
  }

  // A tensor of the format's type `type`, its shape the outermost dimension first, behind those before it.
  void AddTensor(std::string_view name, const std::vector<int64_t>& shape, uint32_t type, std::string_view data) {
    DeclareTensor(name, shape, type, data_.size());
    data_ += data;
    data_.resize((data_.size() + kAlignment - 1) / kAlignment * kAlignment);
  }
  // Only what the header says of one.
  void DeclareTensor(std::string_view name, const std::vector<int64_t>& shape, uint32_t type, uint64_t offset) {
    tensors_ += String(name) + Raw(static_cast<uint32_t>(shape.size()));
    for (size_t i = shape.size(); i-- > 0;) tensors_ += Raw(shape[i]);
    tensors_ += Raw(type) + Raw(offset);
    ++num_tensors_;
  }

  std::string Bytes() const {
    std::string bytes = "GGUF" + Raw(version_) + Raw(num_tensors_) + Raw(num_entries_) + entries_ + tensors_;
    bytes.resize((bytes.size() + kAlignment - 1) / kAlignment * kAlignment);
    return bytes + data_;
  }

  template <typename T>
  static std::string Raw(T value) {
    std::string bytes(sizeof(T), '\0');
    std::memcpy(bytes.data(), &value, sizeof(T));
    return bytes;
  }
  static std::string String(std::string_view text) { return Raw<uint64_t>(text.size()) + std::string(text); }

 private:
  static constexpr size_t kAlignment = 32;

  uint32_t version_;
  uint64_t num_entries_ = 0, num_tensors_ = 0;
  std::string entries_, tensors_, data_;
};

}  // namespace moed::testing

#endif  // MOED_TESTS_SUPPORT_GGUF_WRITER_H_
