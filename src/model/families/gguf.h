// How GGUF names what a family's config.json and tensors say: a table for each architecture.
#ifndef MOED_MODEL_FAMILIES_GGUF_H_
#define MOED_MODEL_FAMILIES_GGUF_H_

#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string_view>

#include "base/status.h"
#include "checkpoint/gguf_file.h"

namespace moed::families {

// A name on the Hub and in GGUF.
struct GgufName {
  std::string_view hub;
  std::string_view gguf;
};

// A tensor on the Hub that holds the outputs of two in GGUF: the first's, then the second's, or by turns. The Hub's is
// a stack of the experts' matrices where GGUF's are.
struct GgufJoin {
  std::string_view hub;
  std::string_view first, second;
  bool by_turns = false;
};

struct GgufArchitecture {
  std::string_view name;          // general.architecture, which metadata keys begin with: "qwen3moe"
  std::string_view architecture;  // config.json's: "Qwen3MoeForCausalLM"
  // Whether a file of `name` is of this architecture; null: all are. (Llama and Mixtral share a name.)
  bool (*matches)(const GgufFile& file);
  // Keys of config.json and of the metadata (without "NAME."), beyond the common ones; those that the file lacks are
  // left out.
  std::span<const GgufName> keys;
  // Names of tensors, beyond the common ones, which they go before; {0} is the layer, {1} the expert, whose matrices
  // are stacked in one tensor of GGUF.
  std::span<const GgufName> tensors;
  // The rows of Q and K are in the order of interleaved RoPE: 0, d/2, 1, d/2 + 1, … of each head.
  bool interleaved_heads = false;
  // What no table says; null: nothing.
  absl::Status (*finish)(const GgufFile& file, nlohmann::json* config) = nullptr;
  std::span<const GgufJoin> joins = {};
};

// UNIMPLEMENTED names the architecture and the nearest known one.
absl::StatusOr<const GgufArchitecture*> FindGgufArchitecture(const GgufFile& file);

// What all architectures share.
std::span<const GgufName> CommonGgufKeys();
std::span<const GgufName> CommonGgufTensors();

}  // namespace moed::families

#endif  // MOED_MODEL_FAMILIES_GGUF_H_
