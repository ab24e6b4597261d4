#include "checkpoint/checkpoint.h"

#include <filesystem>
#include <utility>

#include "checkpoint/dummy_checkpoint.h"
#include "checkpoint/message_text.h"
#include "checkpoint/safetensors_checkpoint.h"

namespace moed {
bool IsGgufPath(std::string_view path) { return path.ends_with(".gguf"); }

absl::Status CheckModelPath(const std::string& path) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  const bool gguf = IsGgufPath(path);
  if (status.type() == std::filesystem::file_type::not_found) {
    return NotFound("{}: there is no such {}", path, gguf ? "file" : "folder");
  }
  if (error) return InvalidArgument("{}: cannot be opened: {}", path, error.message());
  if (std::filesystem::is_directory(status) || (gguf && std::filesystem::is_regular_file(status))) {
    return absl::OkStatus();
  }
  return InvalidArgument("{}: is not a folder; a model is a folder with config.json and *.safetensors, or a .gguf file",
                         path);
}

absl::StatusOr<LoadFormat> ParseLoadFormat(std::string_view name) {
  if (name == "auto") return LoadFormat::kAuto;
  if (name == "safetensors") return LoadFormat::kSafetensors;
  if (name == "gguf") return LoadFormat::kGguf;
  if (name == "dummy") return LoadFormat::kDummy;
  return InvalidArgument("load_format is {}; it must be auto, safetensors, gguf or dummy", Quoted(name));
}

Checkpoint::Checkpoint(std::string dir, JsonFile config, JsonFile generation_config)
    : dir_(std::move(dir)), config_(std::move(config)), generation_config_(std::move(generation_config)) {}

absl::StatusOr<WeightMatrix> Checkpoint::GetMatrix(std::string_view name, int64_t rows, int64_t columns) {
  MOED_ASSIGN_OR_RETURN(const TensorView plain, Get(name, {rows, columns}));
  return WeightMatrix(plain);
}

absl::StatusOr<WeightMatrix> Checkpoint::GetStackedMatrix(std::string_view name, int64_t index, int64_t count,
                                                          int64_t rows, int64_t columns) {
  MOED_ASSIGN_OR_RETURN(const TensorView stack, Get(name, {count, rows, columns}));
  char* const data = stack.As<char>() + index * rows * columns * static_cast<int64_t>(DTypeSize(stack.dtype));
  return WeightMatrix(TensorView(data, {rows, columns}, stack.dtype));
}

absl::StatusOr<std::optional<IntegerScheme>> Checkpoint::Describe(std::string_view, int64_t, int64_t, int64_t) {
  return std::nullopt;
}

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::Open(const std::string& dir, const LoadOptions& options) {
  MOED_RETURN_IF_ERROR(CheckModelPath(dir));
  absl::StatusOr<JsonFile> config = JsonFile::Read(dir + "/config.json");
  if (absl::IsNotFound(config.status())) {
    return NotFound("{}: there is no config.json; a model is a folder with config.json and *.safetensors{}", dir,
                    OtherWeights(dir));
  }
  MOED_RETURN_IF_ERROR(config.status());
  absl::StatusOr<JsonFile> generation_config = JsonFile::Read(dir + "/generation_config.json");
  if (absl::IsNotFound(generation_config.status())) generation_config = JsonFile("generation_config.json");
  MOED_RETURN_IF_ERROR(generation_config.status());
  if (options.load_format == LoadFormat::kDummy) {
    return DummyCheckpoint::Open(dir, *std::move(config), *std::move(generation_config), options.dummy_seed);
  }
  return SafetensorsCheckpoint::Open(dir, *std::move(config), *std::move(generation_config));
}

}  // namespace moed
