#include "cli/model_text.h"

#include <utility>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/gguf_file.h"
#include "tokenizer/chat_template.h"
#include "tokenizer/gguf_vocabulary.h"
#include "tokenizer/tokenizer.h"

namespace moed {
namespace {

// An array of the metadata; none where it is not there.
template <typename T>
absl::Status Copy(const absl::StatusOr<const std::vector<T>*>& array, std::vector<T>* to) {
  MOED_RETURN_IF_ERROR(array.status());
  if (*array != nullptr) *to = **array;
  return absl::OkStatus();
}

absl::StatusOr<GgufVocabulary> ReadVocabulary(const GgufFile& file) {
  GgufVocabulary vocabulary;
  MOED_ASSIGN_OR_RETURN(const auto model, file.String("tokenizer.ggml.model"));
  MOED_ASSIGN_OR_RETURN(const auto pre, file.String("tokenizer.ggml.pre"));
  if (!model.has_value()) return NotFound("{}: the file has no vocabulary (tokenizer.ggml.model)", file.path());
  vocabulary.model = *model;
  vocabulary.pre = pre.value_or("");
  MOED_RETURN_IF_ERROR(Copy(file.Strings("tokenizer.ggml.tokens"), &vocabulary.tokens));
  MOED_RETURN_IF_ERROR(Copy(file.Strings("tokenizer.ggml.merges"), &vocabulary.merges));
  MOED_RETURN_IF_ERROR(Copy(file.Floats("tokenizer.ggml.scores"), &vocabulary.scores));
  MOED_RETURN_IF_ERROR(Copy(file.Ints("tokenizer.ggml.token_type"), &vocabulary.types));
  MOED_ASSIGN_OR_RETURN(vocabulary.bos_id, file.Int("tokenizer.ggml.bos_token_id"));
  MOED_ASSIGN_OR_RETURN(vocabulary.eos_id, file.Int("tokenizer.ggml.eos_token_id"));
  MOED_ASSIGN_OR_RETURN(vocabulary.unknown_id, file.Int("tokenizer.ggml.unknown_token_id"));
  MOED_ASSIGN_OR_RETURN(vocabulary.add_bos, file.Bool("tokenizer.ggml.add_bos_token"));
  MOED_ASSIGN_OR_RETURN(vocabulary.add_eos, file.Bool("tokenizer.ggml.add_eos_token"));
  MOED_ASSIGN_OR_RETURN(vocabulary.add_space_prefix, file.Bool("tokenizer.ggml.add_space_prefix"));
  return vocabulary;
}

absl::StatusOr<ChatTemplateOptions> SpecialTokens(const GgufFile& file) {
  ChatTemplateOptions options;
  MOED_ASSIGN_OR_RETURN(const auto* tokens, file.Strings("tokenizer.ggml.tokens"));
  if (tokens == nullptr) return options;
  const std::pair<const char*, const char*> names[] = {{"bos_token", "tokenizer.ggml.bos_token_id"},
                                                       {"eos_token", "tokenizer.ggml.eos_token_id"},
                                                       {"unk_token", "tokenizer.ggml.unknown_token_id"},
                                                       {"pad_token", "tokenizer.ggml.padding_token_id"}};
  for (const auto& [name, key] : names) {
    MOED_ASSIGN_OR_RETURN(const std::optional<int64_t> id, file.Int(key));
    if (id.has_value() && *id >= 0 && *id < std::ssize(*tokens)) options.special_tokens[name] = (*tokens)[*id];
  }
  return options;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& model_path) {
  if (!IsGgufPath(model_path)) return Tokenizer::Load(model_path);
  MOED_ASSIGN_OR_RETURN(const auto file, GgufFile::Open(model_path));
  MOED_ASSIGN_OR_RETURN(const GgufVocabulary vocabulary, ReadVocabulary(*file));
  auto tokenizer = MakeTokenizer(vocabulary);
  if (!tokenizer.ok()) return Annotate(tokenizer.status(), model_path);
  return tokenizer;
}

absl::StatusOr<std::unique_ptr<ChatTemplate>> LoadChatTemplate(const std::string& model_path) {
  if (!IsGgufPath(model_path)) return ChatTemplate::Load(model_path);
  MOED_ASSIGN_OR_RETURN(const auto file, GgufFile::Open(model_path));
  MOED_ASSIGN_OR_RETURN(const auto source, file->String("tokenizer.chat_template"));
  if (!source.has_value()) return NotFound("{}: no chat template (tokenizer.chat_template)", model_path);
  MOED_ASSIGN_OR_RETURN(ChatTemplateOptions options, SpecialTokens(*file));
  auto parsed = ChatTemplate::Parse(*source, std::move(options));
  if (!parsed.ok()) return Annotate(parsed.status(), model_path);
  return parsed;
}

}  // namespace moed
