// What --model names, as a path: a folder, a GGUF file, or a model on the Hub.
#ifndef MOED_CLI_MODEL_PATH_H_
#define MOED_CLI_MODEL_PATH_H_

#include <string>

#include "base/status.h"

namespace moed {

// `model` itself where it is there, or cannot be anything but a path; else the place in the cache of the Hub's model
// ORG/NAME, which is downloaded first, with a progress bar, where it is missing (hub/model_fetcher.h).
absl::StatusOr<std::string> ResolveModelPath(const std::string& model);

}  // namespace moed

#endif  // MOED_CLI_MODEL_PATH_H_
