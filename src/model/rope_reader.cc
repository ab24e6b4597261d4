#include "model/rope_reader.h"

#include <cmath>
#include <string>
#include <vector>

#include "base/text.h"

namespace moed {
namespace {

double PositiveOr(const ConfigReader& config, std::string_view key, double fallback) {
  const double value = config.FloatOr(key, fallback);
  if (!(value > 0.0)) config.Fail(InvalidArgument("config.json: {} is {}; it must be positive", key, value));
  return value;
}

YarnScaling ReadYarn(const ConfigReader& scaling, const ModelConfig& model) {
  YarnScaling yarn;
  yarn.original_positions = scaling.IntOr("original_max_position_embeddings", model.max_positions, kPositive);
  const double ratio = static_cast<double>(model.max_positions) / static_cast<double>(yarn.original_positions);
  yarn.factor = PositiveOr(scaling, "factor", ratio);
  yarn.beta_fast = PositiveOr(scaling, "beta_fast", yarn.beta_fast);
  yarn.beta_slow = PositiveOr(scaling, "beta_slow", yarn.beta_slow);
  yarn.truncate = scaling.BoolOr("truncate", yarn.truncate);
  const double mscale = scaling.FloatOr("mscale", 0.0);
  yarn.mscale_all_dim = scaling.FloatOr("mscale_all_dim", 0.0);
  const double magnitude = mscale != 0.0 && yarn.mscale_all_dim != 0.0
                               ? YarnMagnitude(yarn.factor, mscale) / YarnMagnitude(yarn.factor, yarn.mscale_all_dim)
                               : YarnMagnitude(yarn.factor, 1.0);
  yarn.attention_factor = PositiveOr(scaling, "attention_factor", magnitude);
  return yarn;
}

Llama3Scaling ReadLlama3(const ConfigReader& scaling, const ModelConfig& model) {
  Llama3Scaling llama;
  llama.factor = PositiveOr(scaling, "factor", llama.factor);
  llama.low_freq_factor = PositiveOr(scaling, "low_freq_factor", llama.low_freq_factor);
  llama.high_freq_factor = PositiveOr(scaling, "high_freq_factor", llama.high_freq_factor);
  llama.original_positions = scaling.IntOr("original_max_position_embeddings", model.max_positions, kPositive);
  if (!(llama.high_freq_factor > llama.low_freq_factor)) {
    scaling.Fail(InvalidArgument("config.json: high_freq_factor is {}; it must be above low_freq_factor ({})",
                                 llama.high_freq_factor, llama.low_freq_factor));
  }
  return llama;
}

LongRopeScaling ReadLongRope(const ConfigReader& config, const ConfigReader& scaling, const ModelConfig& model) {
  LongRopeScaling longrope;
  const auto factors = [&](std::string_view key) {
    std::vector<double> values = scaling.Floats(key);
    const int64_t expected = model.rope.rotary_dim / 2;
    if (std::ssize(values) != expected) {
      scaling.Fail(InvalidArgument("config.json: {} has {} numbers; it must have {}, half of the rotary dimensions",
                                   key, values.size(), expected));
    }
    for (double value : values) {
      if (!(value > 0.0)) scaling.Fail(InvalidArgument("config.json: {} holds {}; all must be positive", key, value));
    }
    return values;
  };
  longrope.short_factors = factors("short_factor");
  longrope.long_factors = factors("long_factor");
  // Phi writes the original context beside the scaling, others into it.
  const int64_t inside = scaling.IntOr("original_max_position_embeddings", model.max_positions, kPositive);
  longrope.original_positions = config.IntOr("original_max_position_embeddings", inside, kPositive);
  const double original = static_cast<double>(longrope.original_positions);
  const double factor = PositiveOr(scaling, "factor", static_cast<double>(model.max_positions) / original);
  const double magnitude = factor <= 1.0 ? 1.0 : std::sqrt(1.0 + std::log(factor) / std::log(original));
  const double attention_factor = PositiveOr(scaling, "attention_factor", magnitude);
  longrope.short_magnitude = PositiveOr(scaling, "short_mscale", attention_factor);
  longrope.long_magnitude = PositiveOr(scaling, "long_mscale", attention_factor);
  return longrope;
}

}  // namespace

double YarnMagnitude(double factor, double mscale) {
  return factor <= 1.0 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

void ReadRope(const ConfigReader& config, ModelConfig* model) {
  const std::optional<ConfigReader> parameters = config.Object("rope_parameters");
  const std::optional<ConfigReader> scaling = parameters ? parameters : config.Object("rope_scaling");
  RopeConfig& rope = model->rope;
  rope.theta = PositiveOr(config, "rope_theta", rope.theta);
  double rotary_part = PositiveOr(config, "partial_rotary_factor", 1.0);
  if (parameters) {
    rope.theta = PositiveOr(*parameters, "rope_theta", rope.theta);
    rotary_part = PositiveOr(*parameters, "partial_rotary_factor", rotary_part);
  }
  if (rotary_part > 1.0) {
    config.Fail(InvalidArgument("config.json: partial_rotary_factor is {}; it must be at most 1", rotary_part));
    rotary_part = 1.0;
  }
  rope.rotary_dim = static_cast<int32_t>(model->attention.k_head_dim * rotary_part);
  if (!scaling) return;
  const std::string type = scaling->StringOr("rope_type", scaling->StringOr("type", "default"));
  if (type == "yarn") {
    rope.scaling = ReadYarn(*scaling, *model);
  } else if (type == "linear") {
    rope.scaling = LinearScaling{.factor = PositiveOr(*scaling, "factor", 1.0)};
  } else if (type == "dynamic" && scaling->Has("alpha")) {
    // Hunyuan's: the same theta for every context.
    const double dim = rope.rotary_dim;
    rope.theta *= std::pow(PositiveOr(*scaling, "alpha", 1.0), dim / (dim - 2.0));
  } else if (type == "dynamic") {
    rope.scaling =
        DynamicScaling{.factor = PositiveOr(*scaling, "factor", 1.0), .original_positions = model->max_positions};
  } else if (type == "llama3") {
    rope.scaling = ReadLlama3(*scaling, *model);
  } else if (type == "longrope" || type == "su") {
    rope.scaling = ReadLongRope(config, *scaling, *model);
  } else if (type != "default") {
    config.Fail(Unimplemented(
        "config.json: RoPE scaling {} is not supported; linear, dynamic, yarn, llama3 and longrope are", Quoted(type)));
  }
}

}  // namespace moed
