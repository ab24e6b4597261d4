#include "cli/generation_config.h"

#include <filesystem>
#include <limits>

#include "checkpoint/config_reader.h"
#include "checkpoint/json_file.h"

namespace moed {
namespace {

void ReadFloat(const ConfigReader& config, std::string_view key, float* field) {
  *field = static_cast<float>(config.FloatOr(key, *field));
}

}  // namespace

absl::StatusOr<SamplingParams> ReadGenerationConfig(const std::string& model_dir) {
  SamplingParams params;
  if (!std::filesystem::is_directory(model_dir)) return params;  // a single file, which has no other beside it
  const absl::StatusOr<JsonFile> file = JsonFile::Read(model_dir + "/generation_config.json");
  if (absl::IsNotFound(file.status())) return params;
  MOED_RETURN_IF_ERROR(file.status());

  const ConfigReader config(*file);
  ReadFloat(config, "temperature", &params.temperature);
  ReadFloat(config, "top_p", &params.top_p);
  ReadFloat(config, "min_p", &params.min_p);
  ReadFloat(config, "repetition_penalty", &params.repetition_penalty);
  // Some write -1 for all tokens.
  const int64_t top_k = config.IntOr("top_k", params.top_k, {-1, std::numeric_limits<int32_t>::max()});
  params.top_k = top_k < 0 ? 0 : static_cast<int32_t>(top_k);
  if (!config.BoolOr("do_sample", true)) params.temperature = 0.0f;
  MOED_RETURN_IF_ERROR(config.status());

  constexpr int32_t kAnyVocabulary = std::numeric_limits<int32_t>::max();  // no token ids are among these
  const absl::Status valid = Validate(params, kAnyVocabulary);
  if (!valid.ok()) return Annotate(valid, "generation_config.json (--generation-config moed leaves its sampling out)");
  return params;
}

}  // namespace moed
