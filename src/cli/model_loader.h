// From a folder to a model that can be served.
#ifndef MOED_CLI_MODEL_LOADER_H_
#define MOED_CLI_MODEL_LOADER_H_

#include <memory>
#include <string>

#include "base/status.h"
#include "cli/server_config.h"
#include "serving/served_model.h"

namespace moed {

class ChatTemplate;

// Loads engine, tokenizer and chat template with a progress bar, and starts the serving loop. `config` is resolved.
absl::StatusOr<std::shared_ptr<const ServedModel>> LoadServedModel(const ServerConfig& config);

// The template of a folder; null where it has none, and, with a warning, where it has one that is not understood: the
// model can generate all the same.
std::shared_ptr<const ChatTemplate> LoadChatTemplateIfAny(const std::string& dir);

}  // namespace moed

#endif  // MOED_CLI_MODEL_LOADER_H_
