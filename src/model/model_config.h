// A mixture-of-experts decoder described as data: what the families differ in is a field here.
#ifndef MOED_MODEL_MODEL_CONFIG_H_
#define MOED_MODEL_MODEL_CONFIG_H_

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "kernels/moe_ffn/moe_ffn.h"
#include "kernels/moe_gating/moe_gating.h"
#include "kv_cache/cache_spec.h"

namespace moed {

// Grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245).
struct AttentionConfig {
  int32_t num_heads = 0;
  int32_t num_kv_heads = 0;
  int32_t k_head_dim = 0;  // of queries and keys
  int32_t v_head_dim = 0;
  float scale = 1.0f;    // of the scores
  bool qk_norm = false;  // RMSNorm over each head of Q and K, before RoPE
  bool qkv_bias = false;
  bool output_bias = false;
};

// YaRN (Peng et al. 2023, arXiv:2309.00071): dimensions that turn slowly are stretched to `factor` times the context,
// fast ones stay as they are, and between the two runs a ramp.
struct YarnScaling {
  double factor = 1.0;
  int64_t original_positions = 0;  // the context that the model was first trained for
  double beta_fast = 32.0;         // turns over that context from which on a dimension stays
  double beta_slow = 1.0;          // turns up to which it is stretched
  bool truncate = true;            // the ramp begins and ends at whole dimensions
  double attention_factor = 1.0;   // multiplies cosines and sines
};

struct RopeConfig {
  double theta = 10000.0;
  int32_t rotary_dim = 0;  // the first dimensions of a head that turn
  bool interleaved = false;
  std::variant<std::monostate, YarnScaling> scaling;
};

// The router and its experts (Shazeer et al. 2017, arXiv:1701.06538).
struct MoeConfig {
  int32_t num_experts = 0;
  int32_t top_k = 0;
  int32_t intermediate_size = 0;  // of one expert
  kernels::RouterScoring scoring = kernels::RouterScoring::kSoftmax;
  bool renormalize = false;
};

struct LayerConfig {
  bool is_moe = true;  // else a dense feed-forward of ModelConfig::intermediate_size
  int32_t window = 0;  // sliding-window attention over the last `window` positions; 0: all
};

// Names of the tensors in the checkpoint; {0} is the layer, {1} the expert.
struct TensorNames {
  std::string embedding = "model.embed_tokens.weight";
  std::string final_norm = "model.norm.weight";
  std::string lm_head = "lm_head.weight";
  std::string attention_norm = "model.layers.{0}.input_layernorm.weight";
  // The bias of a projection that has one has the same name with ".bias" for ".weight".
  std::string q_proj = "model.layers.{0}.self_attn.q_proj.weight";
  std::string k_proj = "model.layers.{0}.self_attn.k_proj.weight";
  std::string v_proj = "model.layers.{0}.self_attn.v_proj.weight";
  std::string o_proj = "model.layers.{0}.self_attn.o_proj.weight";
  std::string q_norm = "model.layers.{0}.self_attn.q_norm.weight";
  std::string k_norm = "model.layers.{0}.self_attn.k_norm.weight";
  std::string ffn_norm = "model.layers.{0}.post_attention_layernorm.weight";
  std::string router = "model.layers.{0}.mlp.gate.weight";
  std::string expert_gate = "model.layers.{0}.mlp.experts.{1}.gate_proj.weight";
  std::string expert_up = "model.layers.{0}.mlp.experts.{1}.up_proj.weight";
  std::string expert_down = "model.layers.{0}.mlp.experts.{1}.down_proj.weight";
  std::string dense_gate = "model.layers.{0}.mlp.gate_proj.weight";
  std::string dense_up = "model.layers.{0}.mlp.up_proj.weight";
  std::string dense_down = "model.layers.{0}.mlp.down_proj.weight";
};

struct ModelConfig {
  std::string family;        // "qwen3_moe"
  std::string architecture;  // "Qwen3MoeForCausalLM"
  int32_t vocab_size = 0;
  int32_t hidden_size = 0;
  int32_t intermediate_size = 0;  // of dense layers
  int32_t max_positions = 0;
  float norm_eps = 1e-6f;
  bool tied_embeddings = false;
  kernels::Activation activation = kernels::Activation::kSilu;
  AttentionConfig attention;
  RopeConfig rope;
  MoeConfig moe;
  std::vector<LayerConfig> layers;
  std::vector<int32_t> eos_token_ids;
  // What the checkpoint's own weights are, as config.json says; kBF16 where it does not.
  DType checkpoint_dtype = DType::kBF16;
  TensorNames names;

  int32_t num_layers() const { return static_cast<int32_t>(layers.size()); }
  int32_t num_moe_layers() const;
};

// INVALID_ARGUMENT when the fields do not fit each other (heads not divisible by KV heads, top_k above the experts …);
// every family's result goes through it.
absl::Status Validate(const ModelConfig& config);

// The declaration of each layer: [num_layers].
std::vector<CacheSpec> CacheSpecs(const ModelConfig& config, DType dtype);

// Numbers of weights.
struct ParameterCount {
  int64_t embedding = 0;  // the table, and the LM head where it is not tied
  int64_t attention = 0;
  int64_t router = 0;
  int64_t experts = 0;  // all of them
  int64_t dense = 0;    // dense feed-forward layers
  int64_t norms = 0;
  int64_t total = 0;
  int64_t active = 0;  // used for one token: top_k experts a layer, one row of an untied embedding table
};
ParameterCount CountParameters(const ModelConfig& config);

}  // namespace moed

#endif  // MOED_MODEL_MODEL_CONFIG_H_
