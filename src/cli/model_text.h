// The tokenizer and the chat template of a model, from its folder or from its GGUF file.
#ifndef MOED_CLI_MODEL_TEXT_H_
#define MOED_CLI_MODEL_TEXT_H_

#include <memory>
#include <string>

#include "base/status.h"

namespace moed {

class ChatTemplate;
class Tokenizer;

// Errors as Tokenizer::Load's, and for a GGUF file as GgufFile::Open's and MakeTokenizer's.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& model_path);

// Errors as ChatTemplate::Load's: NOT_FOUND where the model has no template.
absl::StatusOr<std::unique_ptr<ChatTemplate>> LoadChatTemplate(const std::string& model_path);

}  // namespace moed

#endif  // MOED_CLI_MODEL_TEXT_H_
