// A model with all that is needed to serve it.
#ifndef MOED_SERVING_SERVED_MODEL_H_
#define MOED_SERVING_SERVED_MODEL_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "request/sampling_params.h"
#include "serving/serving_loop.h"

namespace moed {

class ChatTemplate;
class Tokenizer;

// Thread-safe; constant after construction.
class ServedModel {
 public:
  // `chat_template` is null where the checkpoint has none.
  ServedModel(std::string name, std::shared_ptr<const Tokenizer> tokenizer,
              std::shared_ptr<const ChatTemplate> chat_template, std::unique_ptr<ServingLoop> loop,
              SamplingParams sampling_defaults = {});
  ~ServedModel();

  const std::string& name() const { return name_; }
  const Tokenizer& tokenizer() const { return *tokenizer_; }
  const std::shared_ptr<const Tokenizer>& shared_tokenizer() const { return tokenizer_; }
  const ChatTemplate* chat_template() const { return chat_template_.get(); }
  ServingLoop& loop() const { return *loop_; }
  // What a request that leaves a parameter out gets for it.
  const SamplingParams& sampling_defaults() const { return sampling_defaults_; }

  // Token ids of a prompt. INVALID_ARGUMENT for a text so long that it cannot fit in the context however it is cut into
  // tokens; this is found out before any work.
  absl::StatusOr<std::vector<int32_t>> EncodePrompt(std::string_view text, bool add_special_tokens) const;

 private:
  const std::string name_;
  const std::shared_ptr<const Tokenizer> tokenizer_;
  const std::shared_ptr<const ChatTemplate> chat_template_;
  const std::unique_ptr<ServingLoop> loop_;
  const SamplingParams sampling_defaults_;
  const int64_t max_prompt_bytes_;
};

}  // namespace moed

#endif  // MOED_SERVING_SERVED_MODEL_H_
