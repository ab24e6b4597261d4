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

// Multi-head latent attention (MLA; DeepSeek-V2, arXiv:2405.04434): the keys and values of all heads are products of
// one latent, which the cache keeps together with a rotary key that all heads share.
struct LatentAttentionConfig {
  int32_t kv_lora_rank = 0;  // of the latent of keys and values; 0: no MLA
  int32_t q_lora_rank = 0;   // of the queries' own latent; 0: they are one product
  // A head's query and key: the part that knows no position, then the rotary one.
  int32_t nope_head_dim = 0, rope_head_dim = 0;
  float norm_eps = 1e-6f;  // of the latents' norms

  int32_t cached_dim() const { return kv_lora_rank + rope_head_dim; }  // what the cache keeps of a position
};

// Grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245), or MLA.
struct AttentionConfig {
  int32_t num_heads = 0;
  int32_t num_kv_heads = 0;
  int32_t k_head_dim = 0;  // of queries and keys
  int32_t v_head_dim = 0;
  float scale = 1.0f;               // of the scores
  bool qk_norm = false;             // RMSNorm over each head of Q and K, before RoPE
  bool qk_norm_full_width = false;  // … over all heads together (OLMoE)
  bool qk_norm_after_rope = false;  // … after it (Hunyuan)
  bool qkv_bias = false;
  bool output_bias = false;
  bool sinks = false;  // a logit for each head that takes part in the softmax without a value (GPT-OSS)
  LatentAttentionConfig latent;

  bool is_latent() const { return latent.kv_lora_rank > 0; }
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
  double mscale_all_dim = 0.0;     // DeepSeek's: the share of the magnitude that goes into the scale of the scores
};

// Positions divided by a factor (kaiokendev 2023; Chen et al. 2023, arXiv:2306.15595).
struct LinearScaling {
  double factor = 1.0;
};

// A larger theta for contexts beyond the one trained for ("NTK-aware"): here for the context that the model is loaded
// for, since a result must not depend on how far a text has come.
struct DynamicScaling {
  double factor = 1.0;
  int64_t original_positions = 0;
};

// Llama 3.1: wavelengths above original_positions / low_freq_factor are stretched, those below original_positions /
// high_freq_factor stay, and between the two runs a ramp over the frequency.
struct Llama3Scaling {
  double factor = 1.0, low_freq_factor = 1.0, high_freq_factor = 4.0;
  int64_t original_positions = 0;
};

// LongRoPE (Ding et al. 2024, arXiv:2402.13753): a factor for each dimension, one list for contexts up to
// original_positions and one for longer ones, chosen by the context that the model is loaded for.
struct LongRopeScaling {
  std::vector<double> short_factors, long_factors;     // [rotary_dim / 2]
  double short_magnitude = 1.0, long_magnitude = 1.0;  // multiply cosines and sines
  int64_t original_positions = 0;
};

struct RopeConfig {
  double theta = 10000.0;
  int32_t rotary_dim = 0;  // the first dimensions of a head that turn
  bool interleaved = false;
  std::variant<std::monostate, LinearScaling, DynamicScaling, YarnScaling, Llama3Scaling, LongRopeScaling> scaling;
};

// The router and its experts (Shazeer et al. 2017, arXiv:1701.06538).
struct MoeConfig {
  int32_t num_experts = 0;
  int32_t top_k = 0;
  int32_t intermediate_size = 0;  // of one expert
  kernels::RouterScoring scoring = kernels::RouterScoring::kSoftmax;
  bool renormalize = false;
  bool router_bias = false;                // added to the logits
  bool correction_bias = false;            // added to the scores for the choice only (DeepSeek-V3)
  bool correction_bias_is_row = false;     // stored as [1, num_experts] (ERNIE)
  float weight_scale = 1.0f;               // of the chosen weights, after renormalisation
  int32_t num_groups = 1, top_groups = 1;  // group-limited choice (kernels/moe_gating)
  float jitter = 0.0f;                     // of RouterScoring::kSparseMixer
  bool expert_bias = false;                // of gate, up and down
  // Of the experts that every token goes to, together; 0: there are none.
  int32_t shared_intermediate_size = 0;
  bool shared_gate = false;  // their output is multiplied by the sigmoid of a product with the token (Qwen2-MoE)
};

// How the checkpoint stores the experts.
enum class ExpertLayout : uint8_t {
  kSeparate,            // tensors of their own for each, [outputs, inputs]
  kStacked,             // in one tensor, [experts, outputs, inputs]
  kStackedInterleaved,  // … the outputs of gate and up by turns
  kTransposed,          // … and inputs before outputs: [experts, inputs, outputs]
};

enum class NormKind : uint8_t { kRms, kLayer };  // kLayer: with the mean subtracted and a bias

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
  // MLA: queries through a latent or at once (q_proj), the latent and the rotary key, keys and values of the latent.
  std::string q_a_proj = "model.layers.{0}.self_attn.q_a_proj.weight";
  std::string q_a_norm = "model.layers.{0}.self_attn.q_a_layernorm.weight";
  std::string q_b_proj = "model.layers.{0}.self_attn.q_b_proj.weight";
  std::string kv_a_proj = "model.layers.{0}.self_attn.kv_a_proj_with_mqa.weight";
  std::string kv_a_norm = "model.layers.{0}.self_attn.kv_a_layernorm.weight";
  std::string kv_b_proj = "model.layers.{0}.self_attn.kv_b_proj.weight";
  std::string ffn_norm = "model.layers.{0}.post_attention_layernorm.weight";
  std::string router = "model.layers.{0}.mlp.gate.weight";
  // Where the name for up is empty, the tensor for gate holds both, gate's outputs before up's. A weight whose name has
  // no ".weight" at its end has its bias under the same name with "_bias".
  std::string expert_gate = "model.layers.{0}.mlp.experts.{1}.gate_proj.weight";
  std::string expert_up = "model.layers.{0}.mlp.experts.{1}.up_proj.weight";
  std::string expert_down = "model.layers.{0}.mlp.experts.{1}.down_proj.weight";
  std::string dense_gate = "model.layers.{0}.mlp.gate_proj.weight";
  std::string dense_up = "model.layers.{0}.mlp.up_proj.weight";
  std::string dense_down = "model.layers.{0}.mlp.down_proj.weight";
  std::string correction_bias = "model.layers.{0}.mlp.gate.e_score_correction_bias";
  std::string sinks = "model.layers.{0}.self_attn.sinks";
  std::string shared_gate = "model.layers.{0}.mlp.shared_experts.gate_proj.weight";
  std::string shared_up = "model.layers.{0}.mlp.shared_experts.up_proj.weight";
  std::string shared_down = "model.layers.{0}.mlp.shared_experts.down_proj.weight";
  std::string shared_expert_gate = "model.layers.{0}.mlp.shared_expert_gate.weight";  // [1, hidden]
};

struct ModelConfig {
  std::string family;        // "qwen3_moe"
  std::string architecture;  // "Qwen3MoeForCausalLM"
  int32_t vocab_size = 0;
  int32_t hidden_size = 0;
  int32_t intermediate_size = 0;  // of dense layers; 0 where there are none
  int32_t max_positions = 0;
  NormKind norm = NormKind::kRms;
  float norm_eps = 1e-6f;
  bool tied_embeddings = false;
  bool lm_head_bias = false;
  bool dense_bias = false;  // of gate, up and down in dense layers
  float embedding_multiplier = 1.0f, logits_multiplier = 1.0f;
  float residual_multiplier = 1.0f;  // of what each block adds to the residual
  kernels::Activation activation = kernels::Activation::kSilu;
  float swiglu_alpha = 1.702f, swiglu_limit = 7.0f;  // of Activation::kClampedSwiglu
  AttentionConfig attention;
  RopeConfig rope;
  MoeConfig moe;
  ExpertLayout expert_layout = ExpertLayout::kSeparate;
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
  int64_t shared_experts = 0;
  int64_t dense = 0;  // dense feed-forward layers
  int64_t norms = 0;
  int64_t total = 0;
  int64_t active = 0;  // used for one token: top_k experts a layer, one row of an untied embedding table
};
ParameterCount CountParameters(const ModelConfig& config);

}  // namespace moed

#endif  // MOED_MODEL_MODEL_CONFIG_H_
