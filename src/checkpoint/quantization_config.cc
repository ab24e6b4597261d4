#include "checkpoint/quantization_config.h"

#include <algorithm>
#include <string_view>
#include <vector>

#include "checkpoint/config_reader.h"
#include "checkpoint/message_text.h"

namespace moed {
namespace {

using Method = QuantizationConfig::Method;

constexpr IntRange kGroupSize = {1, 1 << 20};

// -1, null or no value at all: one group an output.
int64_t ReadGroupSize(const ConfigReader& config) {
  if (config.IntOr("group_size", -1) == -1) return 0;
  return config.Int("group_size", kGroupSize);
}

void ReadFp8(const ConfigReader& config, QuantizationConfig* result) {
  const std::string format = config.StringOr("fmt", "e4m3");
  if (format != "e4m3") config.Fail(Unimplemented("quantization_config.fmt is {}; e4m3 is supported", Quoted(format)));
  const bool blocks = config.Has("weight_block_size");
  result->static_activations = !blocks || config.StringOr("activation_scheme", "dynamic") == "static";
  result->schemes.push_back(
      {.floats = true,
       .activations = result->static_activations ? ActivationScheme::kFloat : ActivationScheme::kFp8Block});
}

void ReadAwq(const ConfigReader& config, QuantizationConfig* result) {
  const int64_t bits = config.IntOr("bits", 4);
  result->schemes.push_back({.bits = static_cast<int>(bits), .group_size = ReadGroupSize(config)});
  const std::string version = config.StringOr("version", "gemm");
  if (version != "gemm" && version != "GEMM") {
    config.Fail(Unimplemented("quantization_config.version is {}; AWQ's layout gemm is supported", Quoted(version)));
  }
  if (bits != 4) {
    config.Fail(Unimplemented("quantization_config.bits is {}; AWQ with 4 bits is supported", bits));
  }
}

void ReadGptq(const ConfigReader& config, QuantizationConfig* result) {
  const int64_t bits = config.Int("bits");
  result->schemes.push_back({.bits = static_cast<int>(bits), .group_size = ReadGroupSize(config)});
  result->symmetric = config.BoolOr("sym", false);
  const std::string format = config.StringOr("checkpoint_format", "gptq");
  if (format != "gptq" && format != "gptq_v2") {
    config.Fail(
        Unimplemented("quantization_config.checkpoint_format is {}; gptq and gptq_v2 are supported", Quoted(format)));
  }
  result->zeros_less_one = format == "gptq";
  if (bits != 4 && bits != 8) {
    config.Fail(Unimplemented("quantization_config.bits is {}; GPTQ with 4 and 8 bits is supported", bits));
  }
}

// What is done to activations, of those things that are done here.
ActivationScheme ReadActivations(const ConfigReader& group, QuantizationConfig* result) {
  const std::optional<ConfigReader> activations = group.Object("input_activations");
  if (!activations.has_value()) return ActivationScheme::kFloat;
  const std::string type = activations->StringOr("type", "int"), strategy = activations->StringOr("strategy", "tensor");
  const bool is_dynamic = activations->BoolOr("dynamic", false), symmetric = activations->BoolOr("symmetric", true);
  const int64_t bits = activations->IntOr("num_bits", 8), group_size = activations->IntOr("group_size", 0);
  if (is_dynamic && symmetric && bits == 8) {
    if (strategy == "token") return type == "float" ? ActivationScheme::kFp8Token : ActivationScheme::kInt8Token;
    if (strategy == "group" && type == "float" && group_size == 128) return ActivationScheme::kFp8Block;
  }
  result->static_activations = true;
  return ActivationScheme::kFloat;
}

void ReadCompressedGroup(const ConfigReader& group, QuantizationConfig* result) {
  const std::optional<ConfigReader> weights = group.Object("weights");
  if (!weights.has_value()) return;
  const std::string type = weights->StringOr("type", "int");
  const int64_t bits = weights->Int("num_bits");
  const bool known = type == "int" ? bits == 4 || bits == 8 : type == "float" && bits == 8;
  if (!known) {
    group.Fail(
        Unimplemented("quantization_config: weights of type {} with {} bits; int with 4 and 8 bits and float with "
                      "8 are supported",
                      Quoted(type), bits));
  }
  const bool groups = weights->StringOr("strategy", "") == "group";
  const QuantizationConfig::Scheme scheme{.floats = type == "float",
                                          .bits = static_cast<int>(bits),
                                          .group_size = groups ? ReadGroupSize(*weights) : 0,
                                          .activations = ReadActivations(group, result)};
  if (std::find(result->schemes.begin(), result->schemes.end(), scheme) == result->schemes.end()) {
    result->schemes.push_back(scheme);
  }
}

void ReadCompressedTensors(const ConfigReader& config, QuantizationConfig* result) {
  const std::string format = config.StringOr("format", "");
  constexpr std::string_view kFormats[] = {"int-quantized", "pack-quantized", "float-quantized", "naive-quantized"};
  bool known = false;
  for (const std::string_view one : kFormats) known = known || format == one;
  if (!known) {
    config.Fail(
        Unimplemented("quantization_config.format is {}; {} are supported", Quoted(format), fmt::join(kFormats, ", ")));
    return;
  }
  if (const std::optional<ConfigReader> groups = config.Object("config_groups")) {
    for (const std::string& name : groups->Keys()) {
      if (const std::optional<ConfigReader> group = groups->Object(name)) ReadCompressedGroup(*group, result);
    }
  }
  if (result->schemes.empty()) result->schemes.emplace_back();
}

}  // namespace

std::string QuantizationConfig::ToString() const {
  switch (method) {
    case Method::kFp8:
      return "FP8 (E4M3) with block scales";
    case Method::kCompressedTensors:
      return fmt::format("compressed-tensors with {} bits", schemes.front().bits);
    case Method::kAwq:
      return fmt::format("AWQ int{}", schemes.front().bits);
    case Method::kGptq:
      return fmt::format("GPTQ int{}", schemes.front().bits);
    case Method::kMxfp4:
      return "MXFP4";
  }
  return "";
}

absl::StatusOr<std::optional<QuantizationConfig>> ReadQuantizationConfig(const JsonFile& file) {
  const ConfigReader root(file);
  const std::optional<ConfigReader> config = root.Object("quantization_config");
  MOED_RETURN_IF_ERROR(root.status());
  if (!config.has_value()) return std::nullopt;
  QuantizationConfig result;
  const std::string method = config->String("quant_method");
  MOED_RETURN_IF_ERROR(root.status());
  if (method == "fp8") {
    result.method = Method::kFp8;
    ReadFp8(*config, &result);
  } else if (method == "compressed-tensors") {
    result.method = Method::kCompressedTensors;
    ReadCompressedTensors(*config, &result);
  } else if (method == "awq") {
    result.method = Method::kAwq;
    ReadAwq(*config, &result);
  } else if (method == "gptq") {
    result.method = Method::kGptq;
    ReadGptq(*config, &result);
  } else if (method == "mxfp4") {
    result.method = Method::kMxfp4;
    result.schemes.push_back({.bits = 4});
  } else {
    return Unimplemented(
        "{}: quantization_config.quant_method is {}; fp8, compressed-tensors, awq, gptq and mxfp4 are "
        "supported",
        file.name(), Quoted(method));
  }
  MOED_RETURN_IF_ERROR(Annotate(root.status(), file.name()));
  return std::optional<QuantizationConfig>(result);
}

}  // namespace moed
