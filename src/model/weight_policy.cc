#include "model/weight_policy.h"

#include <absl/strings/numbers.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <fstream>
#include <optional>

namespace moed {

using kernels::WeightFormat;

namespace {

bool IsOfAllLayers(const WeightPolicy::Rule& rule) {
  return rule.first_layer == 0 && rule.last_layer == std::numeric_limits<int32_t>::max();
}

std::optional<WeightFormat> Find(const std::vector<WeightPolicy::Rule>& rules, WeightPart part,
                                 std::optional<int32_t> layer) {
  for (const WeightPolicy::Rule& rule : rules) {
    const bool fits_part =
        rule.parts.empty() || std::find(rule.parts.begin(), rule.parts.end(), part) != rule.parts.end();
    const bool fits_layer = layer ? rule.first_layer <= *layer && *layer <= rule.last_layer : IsOfAllLayers(rule);
    if (fits_part && fits_layer) return rule.format;
  }
  return std::nullopt;
}

bool ParseInt(std::string_view text, int32_t* value) {
  return absl::SimpleAtoi(absl::string_view(text.data(), text.size()), value);
}

// One rule of the file; errors without their place.
class RuleReader {
 public:
  explicit RuleReader(const YAML::Node& node) : node_(node) {}

  absl::StatusOr<WeightPolicy::Rule> Read() {
    if (!node_.IsMap())
      return InvalidArgument("a rule is not a map; it must be like {{parts: [experts], format: int8}}");
    for (const auto& entry : node_) {
      const std::string key = entry.first.Scalar();
      if (key != "parts" && key != "layers" && key != "format") {
        return InvalidArgument("a rule has the key \"{}\"; known are parts, layers and format", key);
      }
    }
    if (!node_["format"]) return InvalidArgument("a rule has no format; it must be fp32, bf16, int8 or int4");
    MOED_ASSIGN_OR_RETURN(rule_.format, ParseWeightFormat(node_["format"].Scalar()));
    if (node_["parts"]) MOED_RETURN_IF_ERROR(ReadParts(node_["parts"]));
    if (node_["layers"]) MOED_RETURN_IF_ERROR(ReadLayers(node_["layers"].Scalar()));
    return rule_;
  }

 private:
  absl::Status ReadParts(const YAML::Node& parts) {
    if (!parts.IsSequence()) return InvalidArgument("parts is not a list; it must be like [attention, head]");
    for (const YAML::Node& part : parts) {
      const auto* const name = std::find(kWeightPartNames.begin(), kWeightPartNames.end(), part.Scalar());
      if (name == kWeightPartNames.end()) {
        return InvalidArgument("there is no part \"{}\"; parts are {}", part.Scalar(),
                               fmt::join(kWeightPartNames, ", "));
      }
      rule_.parts.push_back(static_cast<WeightPart>(name - kWeightPartNames.begin()));
    }
    return absl::OkStatus();
  }

  absl::Status ReadLayers(std::string_view text) {
    const size_t dash = text.find('-');
    const std::string_view last = dash == std::string_view::npos ? text : text.substr(dash + 1);
    if (!ParseInt(text.substr(0, dash), &rule_.first_layer) || !ParseInt(last, &rule_.last_layer) ||
        rule_.first_layer < 0 || rule_.last_layer < rule_.first_layer) {
      return InvalidArgument("layers is \"{}\"; it must be a layer like 3, or a first and a last one like 0-3", text);
    }
    return absl::OkStatus();
  }

  const YAML::Node& node_;
  WeightPolicy::Rule rule_;
};

}  // namespace

WeightFormat WeightPolicy::Format(WeightPart part, int32_t layer) const {
  return Find(rules, part, layer).value_or(WeightFormat(dtype));
}

WeightFormat WeightPolicy::HeadFormat() const {
  return Find(rules, WeightPart::kHead, std::nullopt).value_or(WeightFormat(dtype));
}

WeightFormat WeightPolicy::EmbeddingFormat() const {
  return Find(rules, WeightPart::kEmbedding, std::nullopt).value_or(WeightFormat(dtype));
}

WeightPolicy WeightPolicy::Uniform(DType dtype, WeightFormat format) {
  Rule rule;
  rule.format = format;
  return WeightPolicy{.dtype = dtype, .rules = {rule}};
}

absl::StatusOr<WeightFormat> ParseWeightFormat(std::string_view text) {
  const size_t colon = text.find(':');
  const std::string_view name = text.substr(0, colon);
  int32_t group = WeightFormat::kDefaultGroup;
  if (colon != std::string_view::npos) {
    const bool is_group = ParseInt(text.substr(colon + 1), &group) && group >= 8 && group <= 1024 && group % 8 == 0;
    if (!is_group || !name.starts_with("int")) {
      return InvalidArgument("weight format \"{}\": only int8 and int4 have groups, of 8 to 1024 inputs by eights",
                             text);
    }
  }
  if (name == "fp32") return WeightFormat::F32();
  if (name == "bf16") return WeightFormat::BF16();
  if (name == "int8") return WeightFormat::Int8(group);
  if (name == "int4") return WeightFormat::Int4(group);
  return InvalidArgument("there is no weight format \"{}\"; it must be fp32, bf16, int8 or int4", text);
}

std::string WeightFormatText(WeightFormat format) {
  std::string text;
  switch (format.type) {
    case WeightFormat::Type::kF32:
      return "fp32";
    case WeightFormat::Type::kBF16:
      return "bf16";
    case WeightFormat::Type::kInt8:
      text = "int8";
      break;
    case WeightFormat::Type::kInt4:
      text = "int4";
      break;
  }
  return format.group_size == WeightFormat::kDefaultGroup ? text : fmt::format("{}:{}", text, format.group_size);
}

std::vector<WeightPolicy::Rule> IntegerRules(WeightFormat format) {
  std::vector<WeightPolicy::Rule> rules;
  if (format.type == WeightFormat::Type::kInt4) {
    // What every token passes is a small part of the weights and the more sensitive one.
    rules.push_back({.parts = {WeightPart::kAttention, WeightPart::kHead, WeightPart::kEmbedding},
                     .format = WeightFormat::Int8(format.group_size)});
  }
  rules.push_back({.parts = {}, .format = format});
  return rules;
}

absl::StatusOr<std::vector<WeightPolicy::Rule>> ReadWeightRules(const std::string& path) {
  if (!std::ifstream(path)) return NotFound("weight policy {} cannot be read", path);
  std::vector<WeightPolicy::Rule> rules;
  try {
    const YAML::Node file = YAML::LoadFile(path);
    if (!file.IsMap() || !file["rules"] || !file["rules"].IsSequence() || file.size() != 1) {
      return InvalidArgument("{}: it must have one key, rules, with a list", path);
    }
    for (const YAML::Node& node : file["rules"]) {
      auto rule = RuleReader(node).Read();
      if (!rule.ok()) return Annotate(rule.status(), fmt::format("{}:{}", path, node.Mark().line + 1));
      rules.push_back(*std::move(rule));
    }
  } catch (const YAML::Exception& error) {
    return InvalidArgument("{}: {}", path, error.what());
  }
  return rules;
}

absl::Status WriteWeightRules(const std::vector<WeightPolicy::Rule>& rules, const std::string& path) {
  std::string text = "rules:\n";
  for (const WeightPolicy::Rule& rule : rules) {
    std::vector<std::string> entries;
    if (!rule.parts.empty()) {
      std::vector<std::string_view> names;
      for (const WeightPart part : rule.parts) names.push_back(kWeightPartNames[static_cast<size_t>(part)]);
      entries.push_back(fmt::format("parts: [{}]", fmt::join(names, ", ")));
    }
    if (!IsOfAllLayers(rule)) {
      entries.push_back(rule.first_layer == rule.last_layer
                            ? fmt::format("layers: {}", rule.first_layer)
                            : fmt::format("layers: {}-{}", rule.first_layer, rule.last_layer));
    }
    entries.push_back(fmt::format("format: \"{}\"", WeightFormatText(rule.format)));
    text += fmt::format("  - {{{}}}\n", fmt::join(entries, ", "));
  }
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  if (!file) return absl::ErrnoToStatus(errno, fmt::format("{}: cannot write", path));
  return absl::OkStatus();
}

}  // namespace moed
