#include "model/compressed_tensors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <utility>

namespace moed::compressed_tensors {
namespace {

using kernels::WeightFormat;
using nlohmann::json;

constexpr std::string_view kWeight = ".weight";

int Bits(WeightFormat format) { return format.type == WeightFormat::Type::kInt4 ? 4 : 8; }

// "model.layers.3.mlp.experts.7.up_proj.weight" as "model\.layers\.LAYER\.mlp\.experts\.\d+\.up_proj", and 3; without a
// layer, -1.
std::pair<std::string, int64_t> ToModulePattern(std::string_view name) {
  if (name.ends_with(kWeight)) name.remove_suffix(kWeight.size());
  std::string pattern;
  int64_t layer = -1;
  while (!name.empty()) {
    const std::string_view part = name.substr(0, name.find('.'));
    const bool is_number = std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
    if (!pattern.empty()) pattern += "\\.";
    if (!is_number) {
      pattern += part;
    } else if (layer < 0) {
      layer = std::stoll(std::string(part));
      pattern += "LAYER";
    } else {
      pattern += "\\d+";
    }
    name.remove_prefix(std::min(name.size(), part.size() + 1));
  }
  return {pattern, layer};
}

// The regular expression of one module outside of the layers.
std::string TargetOf(std::string_view name) { return fmt::format("re:{}$", ToModulePattern(name).first); }

// Regular expressions for modules of some formats.
class Targets {
 public:
  void Add(std::string_view name, WeightFormat format) {
    const auto& [pattern, layer] = ToModulePattern(name);
    layers_[{FormatKey(format), pattern}].insert(layer);
    all_layers_[pattern].insert(layer);
  }

  json Of(WeightFormat format) const {
    json list = json::array();
    for (const auto& [key, layers] : layers_) {
      if (key.first != FormatKey(format)) continue;
      std::string pattern = key.second;
      if (const size_t at = pattern.find("LAYER"); at != std::string::npos) {
        const bool all = layers.size() == all_layers_.at(key.second).size();
        pattern.replace(at, 5, all ? "\\d+" : fmt::format("({})", fmt::join(layers, "|")));
      }
      list.push_back(fmt::format("re:{}$", pattern));
    }
    return list;
  }

 private:
  static std::pair<int, int32_t> FormatKey(WeightFormat format) {
    return format.is_integer() ? std::pair(Bits(format), format.group_size) : std::pair(0, 0);
  }

  std::map<std::pair<std::pair<int, int32_t>, std::string>, std::set<int64_t>> layers_;
  std::map<std::string, std::set<int64_t>> all_layers_;
};

}  // namespace

int64_t RowWords(const Entry& entry) { return (entry.matrix.columns * Bits(entry.format) + 31) / 32; }
int64_t RowScales(const Entry& entry) {
  return (entry.matrix.columns + entry.format.group_size - 1) / entry.format.group_size;
}

std::vector<SafetensorsWriter::Spec> Specs(const Entry& entry) {
  const ModelMatrix& matrix = entry.matrix;
  const std::string stem = matrix.name.substr(0, matrix.name.size() - kWeight.size());
  std::vector<SafetensorsWriter::Spec> specs = {{stem + ".weight_packed", DType::kI32, {matrix.rows, RowWords(entry)}},
                                                {stem + ".weight_scale", DType::kF32, {matrix.rows, RowScales(entry)}},
                                                {stem + ".weight_shape", DType::kI64, {2}}};
  for (SafetensorsWriter::Spec& spec : specs) {
    if (matrix.count > 0) spec.shape.insert(spec.shape.begin(), matrix.count);
  }
  return specs;
}

void PackWords(const int8_t* codes, int64_t count, int bits, int32_t* words) {
  const int64_t per_word = 32 / bits;
  const int bias = 1 << (bits - 1);
  for (int64_t first = 0; first < count; first += per_word) {
    uint32_t word = 0;
    for (int64_t i = first; i < std::min(count, first + per_word); ++i) {
      word |= static_cast<uint32_t>(codes[i] + bias) << ((i - first) * bits);
    }
    *words++ = static_cast<int32_t>(word);
  }
}

json Config(const ModelConfig& config, const std::vector<Entry>& entries) {
  Targets targets;
  std::map<std::pair<int, int32_t>, int64_t> weights;  // of each format
  for (const auto& [matrix, format] : entries) {
    targets.Add(matrix.name, format);
    if (format.is_integer()) {
      weights[{Bits(format), format.group_size}] += matrix.rows * matrix.columns * std::max<int64_t>(matrix.count, 1);
    }
  }
  // Other products of vectors with matrices, which stay as they are.
  for (int32_t layer = 0; layer < config.num_layers(); ++layer) {
    const auto add = [&](const std::string& pattern) {
      targets.Add(fmt::format(fmt::runtime(pattern), layer, 0), WeightFormat::F32());
    };
    if (config.attention.is_latent()) add(config.names.kv_b_proj);
    if (!config.layers[layer].is_moe) continue;
    add(config.names.router);
    if (config.moe.shared_gate) add(config.names.shared_expert_gate);
  }
  if (config.tied_embeddings) targets.Add(config.names.lm_head, WeightFormat::F32());  // it has no tensors of its own

  json groups = json::object();
  const auto most = std::max_element(weights.begin(), weights.end(),
                                     [](const auto& a, const auto& b) { return a.second < b.second; });
  for (auto it = weights.begin(); it != weights.end(); ++it) {
    const auto& [bits, group_size] = it->first;
    const WeightFormat format(bits == 4 ? WeightFormat::Type::kInt4 : WeightFormat::Type::kInt8, group_size);
    json names = targets.Of(format);
    if (it == most) {
      // What all products share, and the table that is none.
      names = json::array({"Linear"});
      for (const auto& [matrix, matrix_format] : entries) {
        const bool is_table = matrix.name == config.names.embedding;
        if (is_table && matrix_format == format) names.push_back(TargetOf(matrix.name));
      }
    }
    groups[fmt::format("group_{}", groups.size())] = {{"targets", std::move(names)},
                                                      {"weights",
                                                       {{"num_bits", bits},
                                                        {"type", "int"},
                                                        {"symmetric", true},
                                                        {"strategy", "group"},
                                                        {"group_size", group_size},
                                                        {"dynamic", false}}},
                                                      {"input_activations", nullptr},
                                                      {"output_activations", nullptr}};
  }
  return {{"quant_method", "compressed-tensors"},
          {"format", "pack-quantized"},
          {"quantization_status", "compressed"},
          {"config_groups", std::move(groups)},
          {"ignore", targets.Of(WeightFormat::F32())}};
}

}  // namespace moed::compressed_tensors
