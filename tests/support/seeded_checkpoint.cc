#include "tests/support/seeded_checkpoint.h"

#include <cstring>
#include <fstream>
#include <functional>
#include <numeric>
#include <optional>
#include <sstream>
#include <utility>

#include "checkpoint/safetensors_writer.h"
#include "tensor/tensor_view.h"

namespace moed::testing {
namespace {

// FNV-1a.
uint64_t Hash(std::string_view text) {
  uint64_t value = 0xcbf29ce484222325;
  for (const char c : text) value = (value ^ static_cast<uint8_t>(c)) * 0x100000001b3;
  return value;
}

// SplitMix64's output function (Steele, Lea and Flood 2014).
uint64_t Mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

std::optional<DType> FromFileName(std::string_view name) {
  if (name == "F32") return DType::kF32;
  if (name == "F16") return DType::kF16;
  if (name == "BF16") return DType::kBF16;
  return std::nullopt;
}

std::optional<SeededTensor> ParseLine(const std::string& line) {
  std::istringstream words(line);
  std::string dtype, shape;
  SeededTensor tensor;
  if (!(words >> dtype >> shape >> tensor.mean >> tensor.scale >> tensor.name)) return std::nullopt;
  const auto known = FromFileName(dtype);
  if (!known) return std::nullopt;
  tensor.dtype = *known;
  std::istringstream sizes(shape);
  for (std::string size; std::getline(sizes, size, 'x');) tensor.shape.push_back(std::stoll(size));
  return tensor;
}

std::vector<char> Rounded(const std::vector<float>& values, DType dtype) {
  std::vector<char> bytes(values.size() * DTypeSize(dtype));
  for (size_t i = 0; i < values.size(); ++i) {
    char* const to = bytes.data() + i * DTypeSize(dtype);
    const BFloat16 bf16 = ToBFloat16(values[i]);
    const Half half = ToHalf(values[i]);
    if (dtype == DType::kF32) std::memcpy(to, &values[i], sizeof(float));
    if (dtype == DType::kF16) std::memcpy(to, &half, sizeof(half));
    if (dtype == DType::kBF16) std::memcpy(to, &bf16, sizeof(bf16));
  }
  return bytes;
}

}  // namespace

absl::StatusOr<SeededManifest> ReadSeededManifest(const std::string& path) {
  std::ifstream file(path);
  SeededManifest manifest;
  std::string line, word;
  std::getline(file, line);
  if (!(std::istringstream(line) >> word >> manifest.seed) || word != "seed") {
    return InvalidArgument("{}: the first line is \"{}\"; it must be \"seed N\"", path, line);
  }
  while (std::getline(file, line)) {
    auto tensor = ParseLine(line);
    if (!tensor) return InvalidArgument("{}: \"{}\" is not TYPE SHAPE MEAN SCALE NAME", path, line);
    manifest.tensors.push_back(*std::move(tensor));
  }
  return manifest;
}

std::vector<float> SeededValues(uint64_t seed, std::string_view name, int64_t count, int64_t mean, int64_t scale) {
  const uint64_t start = Hash(name) + seed;
  std::vector<float> values(count);
  for (int64_t i = 0; i < count; ++i) {
    const uint64_t bits = Mix(start + static_cast<uint64_t>(i + 1) * 0x9e3779b97f4a7c15);
    const int64_t step = static_cast<int64_t>(bits >> 40) - (1 << 23);
    // Exact in a double, so that nothing but the last rounding happens.
    values[i] = static_cast<float>(static_cast<double>(mean * (1 << 23) + scale * step) * 0x1p-35);
  }
  return values;
}

absl::Status WriteSeededWeights(const SeededManifest& manifest, const std::string& out) {
  std::vector<SafetensorsWriter::Spec> specs;
  for (const SeededTensor& tensor : manifest.tensors) specs.push_back({tensor.name, tensor.dtype, tensor.shape});
  MOED_ASSIGN_OR_RETURN(const auto writer,
                        SafetensorsWriter::Create(out + "/model.safetensors", specs, {{"format", "pt"}}));
  for (const SeededTensor& tensor : manifest.tensors) {
    const int64_t count =
        std::accumulate(tensor.shape.begin(), tensor.shape.end(), int64_t{1}, std::multiplies<int64_t>());
    const std::vector<char> bytes =
        Rounded(SeededValues(manifest.seed, tensor.name, count, tensor.mean, tensor.scale), tensor.dtype);
    TensorView view(const_cast<char*>(bytes.data()), {count}, tensor.dtype);
    view.rank = static_cast<int>(tensor.shape.size());
    int64_t stride = 1;
    for (int d = view.rank - 1; d >= 0; --d) {
      view.shape[d] = tensor.shape[d];
      view.strides[d] = stride;
      stride *= tensor.shape[d];
    }
    MOED_RETURN_IF_ERROR(writer->Write(tensor.name, view));
  }
  return writer->Finish();
}

}  // namespace moed::testing
