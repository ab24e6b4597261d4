// How the values of options are written, for each type that an option may have.
//
// ParseOption(text, field) sets the field; INVALID_ARGUMENT says what would be right ("it must be an integer").
// PrintOption(field) writes what ParseOption reads.
#ifndef MOED_CLI_OPTION_VALUE_H_
#define MOED_CLI_OPTION_VALUE_H_

#include <absl/time/time.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/cpu_info.h"
#include "base/status.h"
#include "checkpoint/checkpoint.h"
#include "cli/generation_config.h"
#include "tensor/cuda_devices.h"
#include "tensor/dtype.h"

namespace moed {

absl::Status ParseOption(std::string_view text, bool* field);
absl::Status ParseOption(std::string_view text, int32_t* field);
absl::Status ParseOption(std::string_view text, int64_t* field);
absl::Status ParseOption(std::string_view text, uint64_t* field);  // bytes: "4096", "512MiB", "8GiB"
absl::Status ParseOption(std::string_view text, double* field);
absl::Status ParseOption(std::string_view text, std::string* field);
absl::Status ParseOption(std::string_view text, absl::Duration* field);           // "30s", "1m30s", "500ms"
absl::Status ParseOption(std::string_view text, std::optional<uint64_t>* field);  // or "random"
absl::Status ParseOption(std::string_view text, std::optional<DType>* field);     // or "auto"
absl::Status ParseOption(std::string_view text, std::optional<Isa>* field);       // or "auto"
absl::Status ParseOption(std::string_view text, std::optional<Device>* field);    // or "auto"
absl::Status ParseOption(std::string_view text, LoadFormat* field);
absl::Status ParseOption(std::string_view text, GenerationConfigSource* field);

std::string PrintOption(bool value);
std::string PrintOption(int32_t value);
std::string PrintOption(int64_t value);
std::string PrintOption(uint64_t value);
std::string PrintOption(double value);
std::string PrintOption(const std::string& value);
std::string PrintOption(absl::Duration value);
std::string PrintOption(const std::optional<uint64_t>& value);
std::string PrintOption(const std::optional<DType>& value);
std::string PrintOption(const std::optional<Isa>& value);
std::string PrintOption(const std::optional<Device>& value);
std::string PrintOption(LoadFormat value);
std::string PrintOption(GenerationConfigSource value);

// For the help: "INT", "auto|fp32|bf16".
inline std::string_view OptionTypeName(bool) { return "BOOL"; }
inline std::string_view OptionTypeName(int32_t) { return "INT"; }
inline std::string_view OptionTypeName(int64_t) { return "INT"; }
inline std::string_view OptionTypeName(uint64_t) { return "BYTES"; }
inline std::string_view OptionTypeName(double) { return "NUMBER"; }
inline std::string_view OptionTypeName(const std::string&) { return "TEXT"; }
inline std::string_view OptionTypeName(absl::Duration) { return "DURATION"; }
inline std::string_view OptionTypeName(const std::optional<uint64_t>&) { return "INT"; }
inline std::string_view OptionTypeName(const std::optional<DType>&) { return "DTYPE"; }
inline std::string_view OptionTypeName(const std::optional<Isa>&) { return "ISA"; }
inline std::string_view OptionTypeName(const std::optional<Device>&) { return "DEVICE"; }
inline std::string_view OptionTypeName(LoadFormat) { return "FORMAT"; }
inline std::string_view OptionTypeName(GenerationConfigSource) { return "model|moed"; }

}  // namespace moed

#endif  // MOED_CLI_OPTION_VALUE_H_
