#include "model/family.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <string>
#include <vector>

#include "base/text.h"
#include "model/families/families.h"
#include "model/rope_reader.h"

namespace moed {
namespace {

constexpr Family kFamilies[] = {
    {"deepseek_v2", "DeepseekV2ForCausalLM", families::ReadDeepseekV2},
    {"deepseek_v3", "DeepseekV3ForCausalLM", families::ReadDeepseekV3},
    {"ernie4_5_moe", "Ernie4_5_MoeForCausalLM", families::ReadErnie45Moe},
    {"glm4_moe", "Glm4MoeForCausalLM", families::ReadGlm4Moe},
    {"glm4_moe_lite", "Glm4MoeLiteForCausalLM", families::ReadGlm4MoeLite},
    {"gpt_oss", "GptOssForCausalLM", families::ReadGptOss},
    {"granitemoe", "GraniteMoeForCausalLM", families::ReadGraniteMoe},
    {"granitemoeshared", "GraniteMoeSharedForCausalLM", families::ReadGraniteMoeShared},
    {"hunyuan_v1_moe", "HunYuanMoEV1ForCausalLM", families::ReadHunyuanMoe},
    {"kimi_k2", "DeepseekV3ForCausalLM", families::ReadDeepseekV3},
    {"llama", "LlamaForCausalLM", families::ReadLlama},
    {"minimax_m2", "MiniMaxM2ForCausalLM", families::ReadMinimaxM2},
    {"mistral", "MistralForCausalLM", families::ReadMistral},
    {"mixtral", "MixtralForCausalLM", families::ReadMixtral},
    {"olmoe", "OlmoeForCausalLM", families::ReadOlmoe},
    {"phimoe", "PhimoeForCausalLM", families::ReadPhimoe},
    {"phimoe", "PhiMoEForCausalLM", families::ReadPhimoe},  // as Phi-3.5-MoE was published
    {"qwen2", "Qwen2ForCausalLM", families::ReadQwen2},
    {"qwen2_moe", "Qwen2MoeForCausalLM", families::ReadQwen2Moe},
    {"qwen3", "Qwen3ForCausalLM", families::ReadQwen3},
    {"qwen3_moe", "Qwen3MoeForCausalLM", families::ReadQwen3Moe},
};

constexpr int64_t kMaxDimension = int64_t{1} << 24;

// Keys of config.json that do not change what a model computes.
constexpr std::string_view kSaysNothing[] = {"_attn_implementation",
                                             "_name_or_path",
                                             "architectures",
                                             "attention_dropout",
                                             "auto_map",
                                             "bos_token_id",
                                             "dtype",
                                             "embd_pdrop",
                                             "eos_token_id",
                                             "hidden_dropout",
                                             "initializer_range",
                                             "model_type",
                                             "output_router_logits",
                                             "pad_token_id",
                                             "pretraining_tp",
                                             "resid_pdrop",
                                             "router_aux_loss_coef",
                                             "tokenizer_class",
                                             "torch_dtype",
                                             "transformers_version",
                                             "unsloth_fixed",
                                             "unsloth_version",
                                             "use_cache"};

// In what config.json differs from those of `family`: "; it lacks …; … in it mean nothing there".
std::string Differences(const JsonFile& file, const Family& family) {
  const ConfigReader trial(file);
  ModelConfig ignored;
  family.read(trial, &ignored);
  std::string text;
  if (!trial.MissingKeys().empty()) {
    text += fmt::format("; this file lacks what that one needs: {}", fmt::join(trial.MissingKeys(), ", "));
  }
  std::vector<std::string> unknown = trial.UnreadKeys();
  std::erase_if(unknown, [](const std::string& key) {
    return std::find(std::begin(kSaysNothing), std::end(kSaysNothing), key) != std::end(kSaysNothing);
  });
  if (!unknown.empty()) {
    text +=
        fmt::format("; it has what that one does not know: {}", Escaped(fmt::format("{}", fmt::join(unknown, ", "))));
  }
  return text;
}

absl::StatusOr<const Family*> FindFamily(const JsonFile& file) {
  const ConfigReader config(file);
  const std::vector<std::string> architectures = config.Strings("architectures");
  const std::string type = config.StringOr("model_type", "");
  MOED_RETURN_IF_ERROR(config.status());
  const Family* found = nullptr;
  for (const Family& family : kFamilies) {
    const bool named =
        std::find(architectures.begin(), architectures.end(), family.architecture) != architectures.end();
    const bool typed = type == family.name;
    if (named && typed) return &family;  // of several names of one architecture, this one
    if (found == nullptr && (named || (architectures.empty() && typed))) found = &family;
  }
  if (found != nullptr) return found;
  if (architectures.empty() && type.empty()) {
    return InvalidArgument("config.json names no model: it must have architectures, as in [\"{}\"]",
                           kFamilies[0].architecture);
  }
  const bool by_type = architectures.empty();
  std::vector<std::string_view> known;
  for (const Family& family : kFamilies) known.push_back(by_type ? family.name : family.architecture);
  const std::string& asked = by_type ? type : architectures.front();
  const std::string_view nearest = NearestWord(asked, known);
  const Family& family = kFamilies[std::find(known.begin(), known.end(), nearest) - known.begin()];
  return Unimplemented("config.json: architecture {} is not known; the nearest that is: \"{}\"{}", Quoted(asked),
                       nearest, Differences(file, family));
}

void ReadDType(const ConfigReader& config, ModelConfig* model) {
  const std::string name = config.StringOr("torch_dtype", config.StringOr("dtype", "bfloat16"));
  const auto dtype = ParseDType(name);
  if (!dtype) {
    config.Fail(InvalidArgument("config.json: torch_dtype is {}; known are float32, float16, bfloat16", Quoted(name)));
    return;
  }
  model->checkpoint_dtype = *dtype;
}

void ReadActivation(const ConfigReader& config, ModelConfig* model) {
  const std::string name = config.StringOr("hidden_act", "silu");
  if (name == "silu" || name == "swish") {
    model->activation = kernels::Activation::kSilu;
  } else if (name == "gelu_pytorch_tanh" || name == "gelu_new") {
    model->activation = kernels::Activation::kGeluTanh;
  } else {
    config.Fail(
        Unimplemented("config.json: hidden_act {} is not supported; silu and gelu_pytorch_tanh are", Quoted(name)));
  }
}

}  // namespace

std::span<const Family> KnownFamilies() { return kFamilies; }

void ReadCommonFields(const ConfigReader& config, ModelConfig* model) {
  const auto dimension = [&](std::string_view key) {
    return static_cast<int32_t>(config.Int(key, {1, kMaxDimension}));
  };
  model->vocab_size = dimension("vocab_size");
  model->hidden_size = dimension("hidden_size");
  model->intermediate_size = dimension("intermediate_size");
  model->max_positions = dimension("max_position_embeddings");
  model->layers.resize(config.Int("num_hidden_layers", {1, 4096}));
  model->norm_eps = static_cast<float>(config.FloatOr("rms_norm_eps", 1e-6));
  model->tied_embeddings = config.BoolOr("tie_word_embeddings", false);

  AttentionConfig& attention = model->attention;
  attention.num_heads = static_cast<int32_t>(config.Int("num_attention_heads", {1, 65536}));
  attention.num_kv_heads =
      static_cast<int32_t>(config.IntOr("num_key_value_heads", attention.num_heads, {1, attention.num_heads}));
  const int64_t head_dim = config.IntOr("head_dim", std::max(1, model->hidden_size / attention.num_heads), {1, 65536});
  attention.k_head_dim = attention.v_head_dim = static_cast<int32_t>(head_dim);
  attention.scale = 1.0f / std::sqrt(static_cast<float>(head_dim));

  ReadRope(config, model);
  ReadDType(config, model);
  ReadActivation(config, model);
}

void ReadSparseLayers(const ConfigReader& config, ModelConfig* model) {
  const int64_t step = config.IntOr("decoder_sparse_step", 1, kPositive);
  const std::vector<int64_t> dense = config.Ints("mlp_only_layers", kNotNegative);
  for (int32_t l = 0; l < model->num_layers(); ++l) {
    model->layers[l].is_moe = (l + 1) % step == 0 && std::find(dense.begin(), dense.end(), l) == dense.end();
  }
}

void ReadWindows(const ConfigReader& config, ModelConfig* model, const std::function<bool(int32_t)>& slides) {
  const int32_t window = static_cast<int32_t>(config.IntOr("sliding_window", 0, {0, kMaxDimension}));
  const std::vector<std::string> types = config.Strings("layer_types");
  if (!types.empty() && std::ssize(types) != model->num_layers()) {
    config.Fail(InvalidArgument("config.json: layer_types has {} entries; it must have one for each of the {} layers",
                                types.size(), model->num_layers()));
    return;
  }
  for (int32_t l = 0; l < model->num_layers(); ++l) {
    const bool listed = !types.empty();
    if (listed && types[l] != "sliding_attention" && types[l] != "full_attention") {
      config.Fail(Unimplemented("config.json: layer type {} is not supported; full_attention and sliding_attention are",
                                Quoted(types[l])));
    }
    if (listed ? types[l] == "sliding_attention" : slides(l)) model->layers[l].window = window;
  }
}

int32_t SharedSize(const ConfigReader& config, int64_t count, int64_t intermediate_size) {
  const int64_t size = count * intermediate_size;  // of numbers that fit 32 bits
  if (size <= kMaxDimension) return static_cast<int32_t>(size);
  config.Fail(InvalidArgument("config.json: {} shared experts of {} make {}; at most {} are supported", count,
                              intermediate_size, size, kMaxDimension));
  return 0;
}

absl::StatusOr<ModelConfig> ReadModelConfig(const Checkpoint& checkpoint) {
  const ConfigReader config(checkpoint.config());
  MOED_ASSIGN_OR_RETURN(const Family* family, FindFamily(checkpoint.config()));
  ModelConfig model;
  model.family = family->name;
  model.architecture = family->architecture;
  family->read(config, &model);

  // generation_config.json is the newer place of the end-of-sequence tokens and overrides config.json.
  const ConfigReader generation(checkpoint.generation_config());
  std::vector<int64_t> eos = generation.Ints("eos_token_id", {0, kMaxDimension});
  if (eos.empty()) eos = config.Ints("eos_token_id", {0, kMaxDimension});
  model.eos_token_ids.assign(eos.begin(), eos.end());

  MOED_RETURN_IF_ERROR(config.status());
  MOED_RETURN_IF_ERROR(generation.status());
  MOED_RETURN_IF_ERROR(Validate(model));
  return model;
}

}  // namespace moed
