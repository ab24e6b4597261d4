#include "model/rope_reader.h"

#include <cmath>
#include <string>

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
  // DeepSeek moves a part of the magnitude into the scale of the scores (see its family).
  const double mscale = scaling.FloatOr("mscale", 0.0), mscale_all_dim = scaling.FloatOr("mscale_all_dim", 0.0);
  const double magnitude = mscale != 0.0 && mscale_all_dim != 0.0
                               ? YarnMagnitude(yarn.factor, mscale) / YarnMagnitude(yarn.factor, mscale_all_dim)
                               : YarnMagnitude(yarn.factor, 1.0);
  yarn.attention_factor = PositiveOr(scaling, "attention_factor", magnitude);
  return yarn;
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
  rope.rotary_dim = static_cast<int32_t>(model->attention.k_head_dim * rotary_part);
  if (!scaling) return;
  const std::string type = scaling->StringOr("rope_type", scaling->StringOr("type", "default"));
  if (type == "yarn") {
    rope.scaling = ReadYarn(*scaling, *model);
  } else if (type != "default") {
    config.Fail(Unimplemented("config.json: RoPE scaling \"{}\" is not supported; yarn is", type));
  }
}

}  // namespace moed
