// Chat templates: how a model's checkpoint writes a conversation as text.
//
// A checkpoint brings a Jinja template (jinja/template.h says which language that is) in tokenizer_config.json or in a
// file beside it; rendering follows transformers' apply_chat_template, so that a prompt is the text that the model was
// trained on.
#ifndef MOED_TOKENIZER_CHAT_TEMPLATE_H_
#define MOED_TOKENIZER_CHAT_TEMPLATE_H_

#include <absl/status/statusor.h>
#include <absl/time/clock.h>
#include <absl/time/time.h>

#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "tokenizer/jinja/limits.h"

namespace moed {

namespace jinja {
class Template;
}  // namespace jinja

struct ChatTemplateOptions {
  // Variables that every rendering sees besides its input, which wins: "bos_token", "eos_token" and the like. A token
  // that the model does not have is left out and undefined in the template.
  std::map<std::string, std::string> special_tokens;

  jinja::Limits limits;
};

// Never changes once made; any number of threads may render at once.
class ChatTemplate {
 public:
  ~ChatTemplate();

  // Of a template's source. INVALID_ARGUMENT with the line for a mistake in it, RESOURCE_EXHAUSTED where it passes a
  // limit, UNIMPLEMENTED for a part of the language that is left out.
  static absl::StatusOr<std::unique_ptr<ChatTemplate>> Parse(std::string_view source, ChatTemplateOptions options = {});

  // Of a checkpoint's folder: chat_template.jinja and additional_chat_templates/*.jinja, or chat_template.json, or the
  // entry "chat_template" of tokenizer_config.json (text, or a list of named templates). The special tokens come from
  // tokenizer_config.json, those of `options` before them. NOT_FOUND where the folder has no template.
  static absl::StatusOr<std::unique_ptr<ChatTemplate>> Load(const std::string& model_dir,
                                                            ChatTemplateOptions options = {});

  // The conversation as text. `input` is an object: "messages" (a list of objects), and "tools", "documents",
  // "add_generation_prompt" and whatever else the template reads ("enable_thinking", "reasoning_effort" …). As in
  // transformers, tools and documents that are not given are none, and add_generation_prompt is false. The order of an
  // object's keys is what tools are printed in, so an ordered_json should be given where there are any. The reasoning
  // of an assistant's message may come as `reasoning_content`, `thinking` or `reasoning`: templates see it under the
  // first two, the names that they read. `now` is the time that templates print the date of.
  //
  // INVALID_ARGUMENT for an input that the template refuses (with the message that it raises) or cannot work with, and
  // for text that is not UTF-8; RESOURCE_EXHAUSTED for a limit, which the message names.
  absl::StatusOr<std::string> Render(const nlohmann::ordered_json& input, absl::Time now = absl::Now()) const;
  absl::StatusOr<std::string> Render(const nlohmann::json& input, absl::Time now = absl::Now()) const;

  const ChatTemplateOptions& options() const { return options_; }

 private:
  explicit ChatTemplate(ChatTemplateOptions options);

  absl::Status Add(const std::string& name, std::string_view source);
  template <class Json>
  absl::StatusOr<std::string> RenderJson(const Json& input, absl::Time now) const;
  // The template for a conversation with or without tools, by the names that transformers knows.
  absl::StatusOr<const jinja::Template*> Choose(bool with_tools) const;

  ChatTemplateOptions options_;
  std::map<std::string, std::unique_ptr<jinja::Template>> templates_;  // by name; the only one is "default"
};

}  // namespace moed

#endif  // MOED_TOKENIZER_CHAT_TEMPLATE_H_
