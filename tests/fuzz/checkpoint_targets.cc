#include <memory>
#include <string>
#include <utility>

#include "base/logging.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/gguf_header.h"
#include "checkpoint/safetensors_header.h"
#include "model/family.h"
#include "tests/fuzz/targets.h"

namespace moed::fuzz {
namespace {

// A checkpoint that is nothing but its configuration.
class ConfigurationOnly final : public Checkpoint {
 public:
  ConfigurationOnly(JsonFile config, JsonFile generation_config)
      : Checkpoint("fuzz", std::move(config), std::move(generation_config)) {}

  absl::StatusOr<TensorView> Get(std::string_view name, std::initializer_list<int64_t>) override {
    return NotFound("{} is not there", name);
  }
  void Release(std::string_view) override {}
  bool Has(std::string_view) const override { return false; }
  std::vector<TensorInfo> List() const override { return {}; }
  uint64_t total_bytes() const override { return 0; }
  std::vector<std::string> UnusedTensors() const override { return {}; }
};

}  // namespace

void SafetensorsHeader(std::string_view input) {
  const auto header = ParseSafetensorsHeader(input);
  if (!header.ok()) {
    MOED_CHECK(absl::IsInvalidArgument(header.status()) && !Message(header.status()).empty());
    return;
  }
  // What the loader relies on: inside the file, one after the other, as large as shape and type say.
  uint64_t end = 8;
  for (const SafetensorsEntry& entry : header->entries) {
    MOED_CHECK(entry.offset >= end && entry.num_bytes <= input.size() && entry.offset <= input.size() - entry.num_bytes,
               "{} reaches beyond the file", entry.name);
    end = entry.offset + entry.num_bytes;
    if (!entry.dtype) continue;
    uint64_t elements = 1;
    for (int64_t dim : entry.shape) {
      MOED_CHECK(dim >= 0);
      MOED_CHECK(!__builtin_mul_overflow(elements, static_cast<uint64_t>(dim), &elements));
    }
    MOED_CHECK(entry.num_bytes == elements * DTypeSize(*entry.dtype), "{} has another size than its shape", entry.name);
  }
}

void GgufHeader(std::string_view input) {
  const auto header = ParseGgufHeader(input);
  if (!header.ok()) {
    MOED_CHECK(absl::IsInvalidArgument(header.status()) || absl::IsUnimplemented(header.status()));
    MOED_CHECK(!Message(header.status()).empty());
    return;
  }
  uint64_t end = 0;
  for (const GgufTensor& tensor : header->tensors) {
    MOED_CHECK(
        tensor.offset >= end && tensor.num_bytes <= input.size() && tensor.offset <= input.size() - tensor.num_bytes,
        "{} reaches beyond the file", tensor.name);
    end = tensor.offset + tensor.num_bytes;
    uint64_t elements = 1;
    for (int64_t dim : tensor.shape)
      MOED_CHECK(!__builtin_mul_overflow(elements, static_cast<uint64_t>(dim), &elements));
    MOED_CHECK(tensor.num_bytes == elements / tensor.type->block_size * tensor.type->block_bytes);
    if (tensor.type->dequantize == nullptr) continue;
    // Any bits are numbers.
    float values[256];
    tensor.type->dequantize(reinterpret_cast<const uint8_t*>(input.data() + tensor.offset), values);
  }
}

void ModelConfig(std::string_view input) {
  const auto [config_text, generation_text] = SplitInput(input);
  auto config = JsonFile::Parse("config.json", config_text);
  if (!config.ok()) return;
  JsonFile generation("generation_config.json");
  if (auto parsed = JsonFile::Parse("generation_config.json", generation_text); parsed.ok()) {
    generation = *std::move(parsed);
  }
  const ConfigurationOnly checkpoint(*std::move(config), std::move(generation));
  const auto model = ReadModelConfig(checkpoint);
  if (!model.ok()) {
    MOED_CHECK(absl::IsInvalidArgument(model.status()) || absl::IsUnimplemented(model.status()), "{}",
               model.status().ToString());
    return;
  }
  // `moed inspect` computes with whatever the configuration says.
  const ParameterCount count = CountParameters(*model);
  MOED_CHECK(count.total > 0 && count.active > 0 && count.active <= count.total, "{} of {} parameters are active",
             count.active, count.total);
  MOED_CHECK(static_cast<int32_t>(CacheSpecs(*model, DType::kF32).size()) == model->num_layers());
}

}  // namespace moed::fuzz
