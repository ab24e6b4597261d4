// Checkpoints whose weights are a function of a seed, so that a golden need not store them.
#ifndef MOED_TESTS_SUPPORT_SEEDED_CHECKPOINT_H_
#define MOED_TESTS_SUPPORT_SEEDED_CHECKPOINT_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "tensor/dtype.h"

namespace moed::testing {

// A line of tensors.txt: "BF16 40x64 0 887 model.layers.0.mlp.up_proj.weight".
struct SeededTensor {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;
  // Values are (mean + scale * u) / 4096 with u uniform in [-1, 1).
  int64_t mean = 0, scale = 0;
};

struct SeededManifest {
  uint64_t seed = 0;
  std::vector<SeededTensor> tensors;
};

// Reads tensors.txt. INVALID_ARGUMENT names the line.
absl::StatusOr<SeededManifest> ReadSeededManifest(const std::string& path);

// The values that make_seeded_golden.py gives to a tensor, before they are rounded to its type: to the bit.
std::vector<float> SeededValues(uint64_t seed, std::string_view name, int64_t count, int64_t mean, int64_t scale);

// Writes model.safetensors into the existing folder `out`.
absl::Status WriteSeededWeights(const SeededManifest& manifest, const std::string& out);

}  // namespace moed::testing

#endif  // MOED_TESTS_SUPPORT_SEEDED_CHECKPOINT_H_
