// Mixtral of Experts (Jiang et al. 2024, arXiv:2401.04088).
#include "model/families/families.h"
#include "model/family.h"

namespace moed::families {

void ReadMixtral(const ConfigReader& config, ModelConfig* model) {
  ReadCommonFields(config, model);
  model->moe.num_experts = static_cast<int32_t>(config.Int("num_local_experts", {1, 4096}));
  model->moe.top_k = static_cast<int32_t>(config.IntOr("num_experts_per_tok", 2, {1, 4096}));
  model->moe.intermediate_size = model->intermediate_size;
  model->moe.renormalize = true;

  ReadWindows(config, model, [](int32_t) { return true; });

  TensorNames& names = model->names;
  names.router = "model.layers.{0}.block_sparse_moe.gate.weight";
  names.expert_gate = "model.layers.{0}.block_sparse_moe.experts.{1}.w1.weight";
  names.expert_up = "model.layers.{0}.block_sparse_moe.experts.{1}.w3.weight";
  names.expert_down = "model.layers.{0}.block_sparse_moe.experts.{1}.w2.weight";
}

}  // namespace moed::families
