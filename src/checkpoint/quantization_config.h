// How a checkpoint's weights are quantised: the entry quantization_config of config.json.
#ifndef MOED_CHECKPOINT_QUANTIZATION_CONFIG_H_
#define MOED_CHECKPOINT_QUANTIZATION_CONFIG_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "checkpoint/json_file.h"
#include "checkpoint/weight_matrix.h"

namespace moed {

struct QuantizationConfig {
  enum class Method : uint8_t {
    kFp8,  // "fp8": E4M3 with a scale for each block of the matrix, as DeepSeek-V3 has it (arXiv:2412.19437)
    kCompressedTensors,  // "compressed-tensors": integers or E4M3 as the vLLM project's package writes them
    kAwq,                // "awq": Lin et al. 2023, arXiv:2306.00978, in the layout "gemm"
    kGptq,               // "gptq": Frantar et al. 2022, arXiv:2210.17323, as AutoGPTQ and GPTQModel write it
    kMxfp4,              // "mxfp4": OCP Microscaling FP4, as GPT-OSS has its experts
  };

  // Of some weights, and of the activations that they are multiplied with.
  struct Scheme {
    bool floats = false;     // E4M3 instead of integers
    int bits = 8;            // 4 or 8
    int64_t group_size = 0;  // inputs that share a scale; 0: what the shape of the scales says
    ActivationScheme activations = ActivationScheme::kFloat;

    bool operator==(const Scheme&) const = default;
  };

  Method method = Method::kFp8;
  // One, or with kCompressedTensors one for each of config_groups: the shapes of a weight's tensors tell which is its.
  std::vector<Scheme> schemes;
  // kGptq: zero points are stored less one, as the first format had it ("gptq_v2" does not).
  bool zeros_less_one = false;
  // kGptq: all zero points are the middle of the range.
  bool symmetric = false;
  // The checkpoint was made for activations with scales of their own that are in the file ("static"), which are not
  // used: activations stay floats, which is the more exact and not what the maker measured.
  bool static_activations = false;

  std::string ToString() const;
};

// Nothing when config.json has no quantization_config. UNIMPLEMENTED names a method, layout or number of bits that is
// not supported; INVALID_ARGUMENT a value that is wrong.
absl::StatusOr<std::optional<QuantizationConfig>> ReadQuantizationConfig(const JsonFile& config);

}  // namespace moed

#endif  // MOED_CHECKPOINT_QUANTIZATION_CONFIG_H_
