#include "cli/option_value.h"

#include <charconv>
#include <cmath>
#include <limits>
#include <utility>

namespace moed {
namespace {

template <typename Integer>
absl::Status ParseInteger(std::string_view text, Integer* field) {
  Integer value = 0;
  const char* const end = text.data() + text.size();
  const auto [parsed, error] = std::from_chars(text.data(), end, value);
  if (error == std::errc::result_out_of_range) {
    return InvalidArgument("\"{}\" is out of range; it must be an integer in [{}, {}]", text,
                           std::numeric_limits<Integer>::min(), std::numeric_limits<Integer>::max());
  }
  if (error != std::errc() || parsed != end || text.empty()) {
    return InvalidArgument("\"{}\" is not a number; it must be an integer{}", text,
                           std::is_unsigned_v<Integer> ? " of at least 0" : "");
  }
  *field = value;
  return absl::OkStatus();
}

}  // namespace

absl::Status ParseOption(std::string_view text, bool* field) {
  if (text != "true" && text != "false") return InvalidArgument("\"{}\" is not true or false", text);
  *field = text == "true";
  return absl::OkStatus();
}

absl::Status ParseOption(std::string_view text, int32_t* field) { return ParseInteger(text, field); }
absl::Status ParseOption(std::string_view text, int64_t* field) { return ParseInteger(text, field); }

absl::Status ParseOption(std::string_view text, uint64_t* field) {
  uint64_t unit = 1;
  std::string_view digits = text;
  for (const auto& [suffix, bytes] : {std::pair<std::string_view, uint64_t>{"KiB", uint64_t{1} << 10},
                                      {"MiB", uint64_t{1} << 20},
                                      {"GiB", uint64_t{1} << 30}}) {
    if (!text.ends_with(suffix)) continue;
    unit = bytes;
    digits.remove_suffix(suffix.size());
  }
  uint64_t count = 0;
  if (!ParseInteger(digits, &count).ok() || count > std::numeric_limits<uint64_t>::max() / unit) {
    return InvalidArgument("\"{}\" is not a size; it must be bytes, or a number with KiB, MiB or GiB", text);
  }
  *field = count * unit;
  return absl::OkStatus();
}

absl::Status ParseOption(std::string_view text, double* field) {
  const char* const end = text.data() + text.size();
  double value = 0;
  const auto [parsed, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || parsed != end || !std::isfinite(value)) {
    return InvalidArgument("\"{}\" is not a number, like 0.9", text);
  }
  *field = value;
  return absl::OkStatus();
}

absl::Status ParseOption(std::string_view text, std::string* field) {
  *field = text;
  return absl::OkStatus();
}

absl::Status ParseOption(std::string_view text, absl::Duration* field) {
  absl::Duration value;
  if (!absl::ParseDuration(std::string(text), &value)) {
    return InvalidArgument("\"{}\" is not a duration; it must be a number with a unit, like 30s, 1m30s or 500ms", text);
  }
  *field = value;
  return absl::OkStatus();
}

absl::Status ParseOption(std::string_view text, std::optional<uint64_t>* field) {
  if (text == "random") {
    field->reset();
    return absl::OkStatus();
  }
  uint64_t value = 0;
  MOED_RETURN_IF_ERROR(ParseInteger(text, &value));
  *field = value;
  return absl::OkStatus();
}

absl::Status ParseOption(std::string_view text, std::optional<DType>* field) {
  const std::optional<DType> dtype = ParseDType(text);
  if (!dtype && text != "auto")
    return InvalidArgument("\"{}\" is not a dtype; known are auto, fp32, bf16, fp16, int8", text);
  *field = dtype;
  return absl::OkStatus();
}

absl::Status ParseOption(std::string_view text, std::optional<Isa>* field) {
  const std::optional<Isa> isa = ParseIsa(text);
  if (!isa && text != "auto") {
    return InvalidArgument(
        "\"{}\" is not an instruction set; known are auto, generic, avx2, avx_vnni, avx512, avx512_vnni, avx512_bf16, "
        "amx",
        text);
  }
  *field = isa;
  return absl::OkStatus();
}

absl::Status ParseOption(std::string_view text, std::optional<Device>* field) {
  const std::optional<Device> device = ParseDevice(text);
  if (!device && text != "auto") {
    return InvalidArgument("\"{}\" is not a device; it must be auto, cpu, cuda, or cuda:N for another than the first",
                           text);
  }
  *field = device;
  return absl::OkStatus();
}

absl::Status ParseOption(std::string_view text, LoadFormat* field) {
  MOED_ASSIGN_OR_RETURN(*field, ParseLoadFormat(text));
  return absl::OkStatus();
}

absl::Status ParseOption(std::string_view text, GenerationConfigSource* field) {
  if (text != "model" && text != "moed") return InvalidArgument("\"{}\" is neither model nor moed", text);
  *field = text == "model" ? GenerationConfigSource::kModel : GenerationConfigSource::kMoed;
  return absl::OkStatus();
}

std::string PrintOption(bool value) { return value ? "true" : "false"; }
std::string PrintOption(int32_t value) { return std::to_string(value); }
std::string PrintOption(int64_t value) { return std::to_string(value); }
std::string PrintOption(uint64_t value) { return std::to_string(value); }
std::string PrintOption(double value) { return fmt::format("{}", value); }
std::string PrintOption(const std::string& value) { return value; }
std::string PrintOption(absl::Duration value) { return absl::FormatDuration(value); }
std::string PrintOption(const std::optional<uint64_t>& value) { return value ? std::to_string(*value) : "random"; }
std::string PrintOption(const std::optional<DType>& value) { return value ? std::string(DTypeName(*value)) : "auto"; }
std::string PrintOption(const std::optional<Isa>& value) { return value ? std::string(IsaName(*value)) : "auto"; }
std::string PrintOption(const std::optional<Device>& value) { return value ? DeviceName(*value) : "auto"; }

std::string PrintOption(GenerationConfigSource value) {
  return value == GenerationConfigSource::kModel ? "model" : "moed";
}

std::string PrintOption(LoadFormat value) {
  switch (value) {
    case LoadFormat::kAuto:
      return "auto";
    case LoadFormat::kGguf:
      return "gguf";
    case LoadFormat::kSafetensors:
      return "safetensors";
    case LoadFormat::kDummy:
      return "dummy";
  }
  return "auto";
}

}  // namespace moed
