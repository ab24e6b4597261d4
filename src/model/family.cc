#include "model/family.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "base/text.h"
#include "model/families/families.h"
#include "model/rope_reader.h"

namespace moed {
namespace {

constexpr Family kFamilies[] = {
    {"mixtral", "MixtralForCausalLM", families::ReadMixtral},
    {"qwen3_moe", "Qwen3MoeForCausalLM", families::ReadQwen3Moe},
};

constexpr int64_t kMaxDimension = int64_t{1} << 24;

absl::StatusOr<const Family*> FindFamily(const ConfigReader& config) {
  const std::vector<std::string> architectures = config.Strings("architectures");
  const std::string type = config.StringOr("model_type", "");
  MOED_RETURN_IF_ERROR(config.status());
  for (const Family& family : kFamilies) {
    const bool named =
        std::find(architectures.begin(), architectures.end(), family.architecture) != architectures.end();
    if (named || (architectures.empty() && type == family.name)) return &family;
  }
  if (architectures.empty() && type.empty()) {
    return InvalidArgument("config.json names no model: it must have architectures, as in [\"{}\"]",
                           kFamilies[0].architecture);
  }
  std::vector<std::string_view> known;
  for (const Family& family : kFamilies) known.push_back(architectures.empty() ? family.name : family.architecture);
  const std::string& asked = architectures.empty() ? type : architectures.front();
  return Unimplemented("config.json: architecture \"{}\" is not known; the nearest that is: \"{}\"", asked,
                       NearestWord(asked, known));
}

void ReadDType(const ConfigReader& config, ModelConfig* model) {
  const std::string name = config.StringOr("torch_dtype", config.StringOr("dtype", "bfloat16"));
  const auto dtype = ParseDType(name);
  if (!dtype) {
    config.Fail(InvalidArgument("config.json: torch_dtype is \"{}\"; known are float32, float16, bfloat16", name));
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
    config.Fail(Unimplemented("config.json: hidden_act \"{}\" is not supported; silu and gelu_pytorch_tanh are", name));
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

absl::StatusOr<ModelConfig> ReadModelConfig(const Checkpoint& checkpoint) {
  const ConfigReader config(checkpoint.config());
  MOED_ASSIGN_OR_RETURN(const Family* family, FindFamily(config));
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
