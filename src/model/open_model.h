// From a path to the checkpoint of a model, whatever its format.
#ifndef MOED_MODEL_OPEN_MODEL_H_
#define MOED_MODEL_OPEN_MODEL_H_

#include <memory>
#include <string>

#include "base/status.h"
#include "checkpoint/checkpoint.h"

namespace moed {

// A folder goes to Checkpoint::Open; a file that ends in .gguf, alone or the first of its shards, is opened as such,
// and INVALID_ARGUMENT says so where the load format is another one.
absl::StatusOr<std::unique_ptr<Checkpoint>> OpenModel(const std::string& path, const LoadOptions& options = {});

}  // namespace moed

#endif  // MOED_MODEL_OPEN_MODEL_H_
