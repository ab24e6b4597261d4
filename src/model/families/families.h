// The readers of the families, one file each; the table is in model/family.cc.
#ifndef MOED_MODEL_FAMILIES_FAMILIES_H_
#define MOED_MODEL_FAMILIES_FAMILIES_H_

#include "checkpoint/config_reader.h"
#include "model/model_config.h"

namespace moed::families {

void ReadMixtral(const ConfigReader& config, ModelConfig* model);
void ReadQwen3Moe(const ConfigReader& config, ModelConfig* model);

}  // namespace moed::families

#endif  // MOED_MODEL_FAMILIES_FAMILIES_H_
