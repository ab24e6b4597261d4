// The readers of the families, one file each; the table is in model/family.cc.
#ifndef MOED_MODEL_FAMILIES_FAMILIES_H_
#define MOED_MODEL_FAMILIES_FAMILIES_H_

#include "checkpoint/config_reader.h"
#include "model/model_config.h"

namespace moed::families {

void ReadDeepseekV2(const ConfigReader& config, ModelConfig* model);
void ReadDeepseekV3(const ConfigReader& config, ModelConfig* model);
void ReadErnie45Moe(const ConfigReader& config, ModelConfig* model);
void ReadGlm4Moe(const ConfigReader& config, ModelConfig* model);
void ReadGlm4MoeLite(const ConfigReader& config, ModelConfig* model);
void ReadGptOss(const ConfigReader& config, ModelConfig* model);
void ReadGraniteMoe(const ConfigReader& config, ModelConfig* model);
void ReadGraniteMoeShared(const ConfigReader& config, ModelConfig* model);
void ReadHunyuanMoe(const ConfigReader& config, ModelConfig* model);
void ReadLlama(const ConfigReader& config, ModelConfig* model);
void ReadMinimaxM2(const ConfigReader& config, ModelConfig* model);
void ReadMistral(const ConfigReader& config, ModelConfig* model);
void ReadMixtral(const ConfigReader& config, ModelConfig* model);
void ReadOlmoe(const ConfigReader& config, ModelConfig* model);
void ReadPhimoe(const ConfigReader& config, ModelConfig* model);
void ReadQwen2(const ConfigReader& config, ModelConfig* model);
void ReadQwen2Moe(const ConfigReader& config, ModelConfig* model);
void ReadQwen3(const ConfigReader& config, ModelConfig* model);
void ReadQwen3Moe(const ConfigReader& config, ModelConfig* model);

}  // namespace moed::families

#endif  // MOED_MODEL_FAMILIES_FAMILIES_H_
