#include "model/families/gguf.h"

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/text.h"
#include "checkpoint/message_text.h"

namespace moed::families {
namespace {

constexpr GgufName kCommonKeys[] = {
    {"max_position_embeddings", "context_length"},
    {"hidden_size", "embedding_length"},
    {"num_hidden_layers", "block_count"},
    {"intermediate_size", "feed_forward_length"},
    {"num_attention_heads", "attention.head_count"},
    {"num_key_value_heads", "attention.head_count_kv"},
    {"head_dim", "attention.key_length"},
    {"rms_norm_eps", "attention.layer_norm_rms_epsilon"},
    {"rope_theta", "rope.freq_base"},
    {"num_experts_per_tok", "expert_used_count"},
};

constexpr GgufName kCommonTensors[] = {
    {"model.embed_tokens.weight", "token_embd.weight"},
    {"model.norm.weight", "output_norm.weight"},
    {"lm_head.weight", "output.weight"},
    {"model.layers.{0}.input_layernorm.weight", "blk.{0}.attn_norm.weight"},
    {"model.layers.{0}.self_attn.q_proj.weight", "blk.{0}.attn_q.weight"},
    {"model.layers.{0}.self_attn.k_proj.weight", "blk.{0}.attn_k.weight"},
    {"model.layers.{0}.self_attn.v_proj.weight", "blk.{0}.attn_v.weight"},
    {"model.layers.{0}.self_attn.o_proj.weight", "blk.{0}.attn_output.weight"},
    {"model.layers.{0}.self_attn.q_proj.bias", "blk.{0}.attn_q.bias"},
    {"model.layers.{0}.self_attn.k_proj.bias", "blk.{0}.attn_k.bias"},
    {"model.layers.{0}.self_attn.v_proj.bias", "blk.{0}.attn_v.bias"},
    {"model.layers.{0}.self_attn.o_proj.bias", "blk.{0}.attn_output.bias"},
    {"model.layers.{0}.self_attn.q_norm.weight", "blk.{0}.attn_q_norm.weight"},
    {"model.layers.{0}.self_attn.k_norm.weight", "blk.{0}.attn_k_norm.weight"},
    {"model.layers.{0}.post_attention_layernorm.weight", "blk.{0}.ffn_norm.weight"},
    {"model.layers.{0}.mlp.gate_proj.weight", "blk.{0}.ffn_gate.weight"},
    {"model.layers.{0}.mlp.up_proj.weight", "blk.{0}.ffn_up.weight"},
    {"model.layers.{0}.mlp.down_proj.weight", "blk.{0}.ffn_down.weight"},
    {"model.layers.{0}.mlp.gate_proj.bias", "blk.{0}.ffn_gate.bias"},
    {"model.layers.{0}.mlp.up_proj.bias", "blk.{0}.ffn_up.bias"},
    {"model.layers.{0}.mlp.down_proj.bias", "blk.{0}.ffn_down.bias"},
    {"model.layers.{0}.mlp.gate.weight", "blk.{0}.ffn_gate_inp.weight"},
    {"model.layers.{0}.mlp.experts.{1}.gate_proj.weight", "blk.{0}.ffn_gate_exps.weight"},
    {"model.layers.{0}.mlp.experts.{1}.up_proj.weight", "blk.{0}.ffn_up_exps.weight"},
    {"model.layers.{0}.mlp.experts.{1}.down_proj.weight", "blk.{0}.ffn_down_exps.weight"},
};

bool HasExperts(const GgufFile& file) { return file.Find("blk.0.ffn_gate_inp.weight") != nullptr; }
bool IsDense(const GgufFile& file) { return !HasExperts(file); }

// ---- Mixtral: Llama with experts ----

constexpr GgufName kMixtralKeys[] = {{"num_local_experts", "expert_count"}};
constexpr GgufName kMixtralTensors[] = {
    {"model.layers.{0}.block_sparse_moe.gate.weight", "blk.{0}.ffn_gate_inp.weight"},
    {"model.layers.{0}.block_sparse_moe.experts.{1}.w1.weight", "blk.{0}.ffn_gate_exps.weight"},
    {"model.layers.{0}.block_sparse_moe.experts.{1}.w3.weight", "blk.{0}.ffn_up_exps.weight"},
    {"model.layers.{0}.block_sparse_moe.experts.{1}.w2.weight", "blk.{0}.ffn_down_exps.weight"},
};

// ---- Qwen ----

constexpr GgufName kQwenMoeKeys[] = {
    {"num_experts", "expert_count"},
    {"moe_intermediate_size", "expert_feed_forward_length"},
    {"shared_expert_intermediate_size", "expert_shared_feed_forward_length"},
};
constexpr GgufName kQwen2MoeTensors[] = {
    {"model.layers.{0}.mlp.shared_expert.gate_proj.weight", "blk.{0}.ffn_gate_shexp.weight"},
    {"model.layers.{0}.mlp.shared_expert.up_proj.weight", "blk.{0}.ffn_up_shexp.weight"},
    {"model.layers.{0}.mlp.shared_expert.down_proj.weight", "blk.{0}.ffn_down_shexp.weight"},
    {"model.layers.{0}.mlp.shared_expert_gate.weight", "blk.{0}.ffn_gate_inp_shexp.weight"},
};

// What GGUF leaves out since the tensors themselves say it.
absl::Status FinishBiases(const GgufFile& file, nlohmann::json* config) {
  (*config)["attention_bias"] = file.Find("blk.0.attn_q.bias") != nullptr;
  (*config)["mlp_bias"] = file.Find("blk.0.ffn_gate.bias") != nullptr;
  return absl::OkStatus();
}

// And what llama.cpp takes for granted.
absl::Status FinishQwen3Moe(const GgufFile& file, nlohmann::json* config) {
  (*config)["norm_topk_prob"] = true;
  MOED_RETURN_IF_ERROR(FinishBiases(file, config));
  // Layers without experts among those with.
  nlohmann::json dense = nlohmann::json::array();
  const int64_t layers = config->value("num_hidden_layers", int64_t{0});
  for (int64_t layer = 0; layer < layers; ++layer) {
    if (file.Find(fmt::format("blk.{}.ffn_gate_inp.weight", layer)) == nullptr) dense.push_back(layer);
  }
  (*config)["mlp_only_layers"] = std::move(dense);
  // Files without dense layers may name no size for them.
  if (!config->contains("intermediate_size")) (*config)["intermediate_size"] = (*config)["moe_intermediate_size"];
  return absl::OkStatus();
}

absl::Status FinishQwen2Moe(const GgufFile& file, nlohmann::json* config) {
  MOED_RETURN_IF_ERROR(FinishQwen3Moe(file, config));
  (*config)["norm_topk_prob"] = false;
  return absl::OkStatus();
}

// ---- OLMoE ----

absl::Status FinishOlmoe(const GgufFile&, nlohmann::json* config) {
  (*config)["norm_topk_prob"] = false;
  return absl::OkStatus();
}

constexpr GgufName kOlmoeKeys[] = {{"num_experts", "expert_count"}};

constexpr GgufArchitecture kArchitectures[] = {
    {"llama", "MixtralForCausalLM", HasExperts, kMixtralKeys, kMixtralTensors, /*interleaved_heads=*/true},
    {"llama", "LlamaForCausalLM", IsDense, {}, {}, /*interleaved_heads=*/true, FinishBiases},
    {"qwen2", "Qwen2ForCausalLM", nullptr, {}, {}},
    {"qwen2moe", "Qwen2MoeForCausalLM", nullptr, kQwenMoeKeys, kQwen2MoeTensors, false, FinishQwen2Moe},
    {"qwen3", "Qwen3ForCausalLM", nullptr, {}, {}, false, FinishBiases},
    {"qwen3moe", "Qwen3MoeForCausalLM", nullptr, kQwenMoeKeys, {}, false, FinishQwen3Moe},
    {"olmoe", "OlmoeForCausalLM", nullptr, kOlmoeKeys, {}, false, FinishOlmoe},
};

}  // namespace

std::span<const GgufName> CommonGgufKeys() { return kCommonKeys; }
std::span<const GgufName> CommonGgufTensors() { return kCommonTensors; }

absl::StatusOr<const GgufArchitecture*> FindGgufArchitecture(const GgufFile& file) {
  MOED_ASSIGN_OR_RETURN(const auto name, file.String("general.architecture"));
  if (!name.has_value()) return InvalidArgument("{}: metadata \"general.architecture\" is missing", file.path());
  std::vector<std::string_view> known;
  for (const GgufArchitecture& architecture : kArchitectures) {
    if (architecture.name == *name && (architecture.matches == nullptr || architecture.matches(file))) {
      return &architecture;
    }
    known.push_back(architecture.name);
  }
  return Unimplemented("{}: general.architecture is {}, which is not known; the nearest that is: \"{}\"", file.path(),
                       Quoted(*name), NearestWord(*name, known));
}

}  // namespace moed::families
