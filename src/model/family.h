// The model families that moed knows. A family is data: one file in families/ that maps config.json and tensor names
// onto ModelConfig. To add one, write that file and a line in the table of family.cc.
#ifndef MOED_MODEL_FAMILY_H_
#define MOED_MODEL_FAMILY_H_

#include <cstdint>
#include <functional>
#include <span>
#include <string_view>

#include "base/status.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/config_reader.h"
#include "model/model_config.h"

namespace moed {

struct Family {
  std::string_view name;          // "qwen3_moe", config.json's model_type
  std::string_view architecture;  // "Qwen3MoeForCausalLM", in config.json's architectures
  // Fills what the family decides. Errors are kept in the reader.
  void (*read)(const ConfigReader& config, ModelConfig* model);
};

std::span<const Family> KnownFamilies();

// Reads config.json and generation_config.json of an open checkpoint. INVALID_ARGUMENT for wrong values; UNIMPLEMENTED
// for an architecture that is not known (with the nearest one that is) or a feature that this build lacks.
absl::StatusOr<ModelConfig> ReadModelConfig(const Checkpoint& checkpoint);

// Fields that nearly all families write in the same way; a family's reader calls it first. What it finds in `model`
// already (rope.theta) is the default.
void ReadCommonFields(const ConfigReader& config, ModelConfig* model);

// The intermediate size of `count` shared experts together. Fails where it is more than a size can be.
int32_t SharedSize(const ConfigReader& config, int64_t count, int64_t intermediate_size);

// Which layers have experts in the Qwen families: every decoder_sparse_step-th, but for those of mlp_only_layers.
void ReadSparseLayers(const ConfigReader& config, ModelConfig* model);

// Gives a window of sliding_window positions to the layers that layer_types names, or where config.json has no such
// list, to those for which `slides` is true. No window where sliding_window is absent or 0.
void ReadWindows(const ConfigReader& config, ModelConfig* model, const std::function<bool(int32_t layer)>& slides);

}  // namespace moed

#endif  // MOED_MODEL_FAMILY_H_
