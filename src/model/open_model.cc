#include "model/open_model.h"

#include "model/gguf_checkpoint.h"

namespace moed {

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenModel(const std::string& path, const LoadOptions& options) {
  MOED_RETURN_IF_ERROR(CheckModelPath(path));
  const bool wants_gguf = options.load_format == LoadFormat::kGguf;
  if (!IsGgufPath(path)) {
    if (wants_gguf) return InvalidArgument("{}: load_format is gguf; the model must be a .gguf file", path);
    return Checkpoint::Open(path, options);
  }
  if (options.load_format != LoadFormat::kAuto && !wants_gguf) {
    return InvalidArgument("{}: is a GGUF file; load_format must be auto or gguf", path);
  }
  return GgufCheckpoint::Open(path);
}

}  // namespace moed
