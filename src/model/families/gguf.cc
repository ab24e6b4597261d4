#include "model/families/gguf.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
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

constexpr GgufName kMixtralKeys[] = {{"num_local_experts", "expert_count"},
                                     {"sliding_window", "attention.sliding_window"}};
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

// ---- DeepSeek, GLM-4.5: the same router ----

constexpr GgufName kDeepseekKeys[] = {
    {"n_routed_experts", "expert_count"},
    {"moe_intermediate_size", "expert_feed_forward_length"},
    {"n_shared_experts", "expert_shared_count"},
    {"routed_scaling_factor", "expert_weights_scale"},
    {"norm_topk_prob", "expert_weights_norm"},
    {"first_k_dense_replace", "leading_dense_block_count"},
    {"n_group", "expert_group_count"},
    {"topk_group", "expert_group_used_count"},
    {"q_lora_rank", "attention.q_lora_rank"},
    {"kv_lora_rank", "attention.kv_lora_rank"},
    {"qk_rope_head_dim", "rope.dimension_count"},
};
constexpr GgufName kDeepseekTensors[] = {
    {"model.layers.{0}.self_attn.q_a_proj.weight", "blk.{0}.attn_q_a.weight"},
    {"model.layers.{0}.self_attn.q_a_layernorm.weight", "blk.{0}.attn_q_a_norm.weight"},
    {"model.layers.{0}.self_attn.q_b_proj.weight", "blk.{0}.attn_q_b.weight"},
    {"model.layers.{0}.self_attn.kv_a_proj_with_mqa.weight", "blk.{0}.attn_kv_a_mqa.weight"},
    {"model.layers.{0}.self_attn.kv_a_layernorm.weight", "blk.{0}.attn_kv_a_norm.weight"},
    {"model.layers.{0}.self_attn.kv_b_proj.weight", "blk.{0}.attn_kv_b.weight"},
    {"model.layers.{0}.mlp.gate.e_score_correction_bias", "blk.{0}.exp_probs_b.bias"},
    {"model.layers.{0}.mlp.shared_experts.gate_proj.weight", "blk.{0}.ffn_gate_shexp.weight"},
    {"model.layers.{0}.mlp.shared_experts.up_proj.weight", "blk.{0}.ffn_up_shexp.weight"},
    {"model.layers.{0}.mlp.shared_experts.down_proj.weight", "blk.{0}.ffn_down_shexp.weight"},
};

constexpr int64_t kSigmoidGating = 2;

bool HasCorrectionBias(const GgufFile& file) {
  return std::any_of(file.tensors().begin(), file.tensors().end(), [](const GgufFile::Location& location) {
    return location.tensor->name.ends_with(".exp_probs_b.bias");
  });
}

// The width of a head's keys and values, that of the latents aside: files of before and after llama.cpp split kv_b.
absl::Status FinishLatentHeads(const GgufFile& file, nlohmann::json* config) {
  const int64_t rope = config->value("qk_rope_head_dim", int64_t{0});
  for (const auto& [key, value] : {std::pair("deepseek2.attention.key_length", "deepseek2.attention.value_length"),
                                   {"deepseek2.attention.key_length_mla", "deepseek2.attention.value_length_mla"}}) {
    MOED_ASSIGN_OR_RETURN(const auto key_length, file.Int(key));
    MOED_ASSIGN_OR_RETURN(const auto value_length, file.Int(value));
    if (key_length.has_value()) (*config)["qk_nope_head_dim"] = *key_length - rope;
    if (value_length.has_value()) (*config)["v_head_dim"] = *value_length;
  }
  config->erase("head_dim");
  (*config)["num_key_value_heads"] = (*config)["num_attention_heads"];
  return absl::OkStatus();
}

absl::Status FinishDeepseek(const GgufFile& file, nlohmann::json* config) {
  MOED_RETURN_IF_ERROR(FinishLatentHeads(file, config));
  const bool corrected = HasCorrectionBias(file);
  MOED_ASSIGN_OR_RETURN(const auto gating, file.Int("deepseek2.expert_gating_func"));
  const bool sigmoid = gating.has_value() ? *gating == kSigmoidGating : corrected;
  (*config)["scoring_func"] = sigmoid ? "sigmoid" : "softmax";
  const bool grouped = config->value("n_group", int64_t{1}) > 1;
  (*config)["topk_method"] = corrected ? "noaux_tc" : grouped ? "group_limited_greedy" : "greedy";
  // Of older files, which had nothing but DeepSeek-V2 in mind.
  if (!config->contains("norm_topk_prob")) (*config)["norm_topk_prob"] = false;
  MOED_ASSIGN_OR_RETURN(const auto log_multiplier, file.Float("deepseek2.rope.scaling.yarn_log_multiplier"));
  if (log_multiplier.has_value() && config->contains("rope_scaling")) {
    // 0.1 * mscale_all_dim as a float, of a number of a few decimals; the two magnitudes are the same in all models.
    const double mscale = std::round(*log_multiplier * 1e7) / 1e6;
    (*config)["rope_scaling"]["mscale"] = (*config)["rope_scaling"]["mscale_all_dim"] = mscale;
  }
  return absl::OkStatus();
}

constexpr GgufName kGlm4MoeKeys[] = {
    {"n_routed_experts", "expert_count"},        {"moe_intermediate_size", "expert_feed_forward_length"},
    {"n_shared_experts", "expert_shared_count"}, {"routed_scaling_factor", "expert_weights_scale"},
    {"norm_topk_prob", "expert_weights_norm"},   {"first_k_dense_replace", "leading_dense_block_count"},
    {"n_group", "expert_group_count"},           {"topk_group", "expert_group_used_count"},
};
constexpr GgufName kGlm4MoeTensors[] = {
    {"model.layers.{0}.post_attention_layernorm.weight", "blk.{0}.post_attention_norm.weight"},
    {"model.layers.{0}.mlp.gate.e_score_correction_bias", "blk.{0}.exp_probs_b.bias"},
    {"model.layers.{0}.mlp.shared_experts.gate_proj.weight", "blk.{0}.ffn_gate_shexp.weight"},
    {"model.layers.{0}.mlp.shared_experts.up_proj.weight", "blk.{0}.ffn_up_shexp.weight"},
    {"model.layers.{0}.mlp.shared_experts.down_proj.weight", "blk.{0}.ffn_down_shexp.weight"},
};

absl::Status FinishGlm4Moe(const GgufFile& file, nlohmann::json* config) {
  MOED_RETURN_IF_ERROR(FinishBiases(file, config));
  (*config)["use_qk_norm"] = file.Find("blk.0.attn_q_norm.weight") != nullptr;
  MOED_ASSIGN_OR_RETURN(const auto rotary, file.Int("glm4moe.rope.dimension_count"));
  const int64_t head_dim = config->value("head_dim", int64_t{0});
  if (rotary.has_value() && head_dim > 0) {
    (*config)["partial_rotary_factor"] = static_cast<double>(*rotary) / static_cast<double>(head_dim);
  }
  // The last blocks predict further tokens.
  MOED_ASSIGN_OR_RETURN(const auto further, file.Int("glm4moe.nextn_predict_layers"));
  if (config->contains("num_hidden_layers")) {
    (*config)["num_hidden_layers"] = config->value("num_hidden_layers", int64_t{0}) - further.value_or(0);
  }
  return absl::OkStatus();
}

// ---- GPT-OSS ----

constexpr GgufName kGptOssKeys[] = {
    {"num_local_experts", "expert_count"},
    {"intermediate_size", "expert_feed_forward_length"},
    {"sliding_window", "attention.sliding_window"},
};
constexpr GgufName kGptOssTensors[] = {
    {"model.layers.{0}.post_attention_layernorm.weight", "blk.{0}.post_attention_norm.weight"},
    {"model.layers.{0}.self_attn.sinks", "blk.{0}.attn_sinks.weight"},
    {"model.layers.{0}.mlp.router.weight", "blk.{0}.ffn_gate_inp.weight"},
    {"model.layers.{0}.mlp.router.bias", "blk.{0}.ffn_gate_inp.bias"},
    {"model.layers.{0}.mlp.experts.down_proj", "blk.{0}.ffn_down_exps.weight"},
    {"model.layers.{0}.mlp.experts.down_proj_bias", "blk.{0}.ffn_down_exps.bias"},
};
constexpr GgufJoin kGptOssJoins[] = {
    {"model.layers.{0}.mlp.experts.gate_up_proj", "blk.{0}.ffn_gate_exps.weight", "blk.{0}.ffn_up_exps.weight", true},
    {"model.layers.{0}.mlp.experts.gate_up_proj_bias", "blk.{0}.ffn_gate_exps.bias", "blk.{0}.ffn_up_exps.bias", true},
};

absl::Status FinishGptOss(const GgufFile& file, nlohmann::json* config) {
  MOED_RETURN_IF_ERROR(FinishBiases(file, config));
  // Experts with outputs before inputs, as the Hub has them where they are in MXFP4.
  (*config)["quantization_config"] = {{"quant_method", "mxfp4"}};
  if (config->contains("rope_scaling")) (*config)["rope_scaling"]["truncate"] = false;
  return absl::OkStatus();
}

// ---- GraniteMoE ----

bool HasSharedExpert(const GgufFile& file) { return file.Find("blk.0.ffn_gate_shexp.weight") != nullptr; }

constexpr GgufName kGraniteKeys[] = {
    {"num_local_experts", "expert_count"},       {"attention_multiplier", "attention.scale"},
    {"embedding_multiplier", "embedding_scale"}, {"residual_multiplier", "residual_scale"},
    {"logits_scaling", "logit_scale"},           {"shared_intermediate_size", "expert_shared_feed_forward_length"},
};
constexpr GgufName kGraniteTensors[] = {
    {"model.layers.{0}.block_sparse_moe.router.layer.weight", "blk.{0}.ffn_gate_inp.weight"},
    {"model.layers.{0}.block_sparse_moe.output_linear.weight", "blk.{0}.ffn_down_exps.weight"},
    {"model.layers.{0}.shared_mlp.output_linear.weight", "blk.{0}.ffn_down_shexp.weight"},
};
constexpr GgufJoin kGraniteJoins[] = {
    {"model.layers.{0}.block_sparse_moe.input_linear.weight", "blk.{0}.ffn_gate_exps.weight",
     "blk.{0}.ffn_up_exps.weight"},
    {"model.layers.{0}.shared_mlp.input_linear.weight", "blk.{0}.ffn_gate_shexp.weight", "blk.{0}.ffn_up_shexp.weight"},
};

// ---- Phi-3.5-MoE: Mixtral's tensors, with biases ----

constexpr GgufName kPhimoeTensors[] = {
    {"model.norm.bias", "output_norm.bias"},
    {"lm_head.bias", "output.bias"},
    {"model.layers.{0}.input_layernorm.bias", "blk.{0}.attn_norm.bias"},
    {"model.layers.{0}.post_attention_layernorm.bias", "blk.{0}.ffn_norm.bias"},
    {"model.layers.{0}.block_sparse_moe.gate.weight", "blk.{0}.ffn_gate_inp.weight"},
    {"model.layers.{0}.block_sparse_moe.experts.{1}.w1.weight", "blk.{0}.ffn_gate_exps.weight"},
    {"model.layers.{0}.block_sparse_moe.experts.{1}.w3.weight", "blk.{0}.ffn_up_exps.weight"},
    {"model.layers.{0}.block_sparse_moe.experts.{1}.w2.weight", "blk.{0}.ffn_down_exps.weight"},
};

absl::Status FinishPhimoe(const GgufFile& file, nlohmann::json* config) {
  (*config)["lm_head_bias"] = file.Find("output.bias") != nullptr;
  return FinishBiases(file, config);
}

constexpr GgufArchitecture kArchitectures[] = {
    {"llama", "MixtralForCausalLM", HasExperts, kMixtralKeys, kMixtralTensors, /*interleaved_heads=*/true},
    {"llama", "LlamaForCausalLM", IsDense, {}, {}, /*interleaved_heads=*/true, FinishBiases},
    {"qwen2", "Qwen2ForCausalLM", nullptr, {}, {}},
    {"qwen2moe", "Qwen2MoeForCausalLM", nullptr, kQwenMoeKeys, kQwen2MoeTensors, false, FinishQwen2Moe},
    {"qwen3", "Qwen3ForCausalLM", nullptr, {}, {}, false, FinishBiases},
    {"qwen3moe", "Qwen3MoeForCausalLM", nullptr, kQwenMoeKeys, {}, false, FinishQwen3Moe},
    {"olmoe", "OlmoeForCausalLM", nullptr, kOlmoeKeys, {}, false, FinishOlmoe},
    {"deepseek2", "DeepseekV3ForCausalLM", HasCorrectionBias, kDeepseekKeys, kDeepseekTensors, false, FinishDeepseek},
    {"deepseek2", "DeepseekV2ForCausalLM", nullptr, kDeepseekKeys, kDeepseekTensors, false, FinishDeepseek},
    {"glm4moe", "Glm4MoeForCausalLM", nullptr, kGlm4MoeKeys, kGlm4MoeTensors, false, FinishGlm4Moe},
    {"gpt-oss", "GptOssForCausalLM", nullptr, kGptOssKeys, kGptOssTensors, false, FinishGptOss, kGptOssJoins},
    {"granitemoe", "GraniteMoeSharedForCausalLM", HasSharedExpert, kGraniteKeys, kGraniteTensors, true, FinishBiases,
     kGraniteJoins},
    {"granitemoe", "GraniteMoeForCausalLM", nullptr, kGraniteKeys, kGraniteTensors, true, FinishBiases, kGraniteJoins},
    {"phimoe", "PhimoeForCausalLM", nullptr, kMixtralKeys, kPhimoeTensors, false, FinishPhimoe},
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
