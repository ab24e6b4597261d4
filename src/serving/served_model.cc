#include "serving/served_model.h"

#include <algorithm>
#include <utility>

#include "tokenizer/tokenizer.h"

namespace moed {
namespace {

int64_t LongestTokenBytes(const Tokenizer& tokenizer) {
  size_t longest = 1;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) longest = std::max(longest, tokenizer.TokenBytes(id).size());
  return static_cast<int64_t>(longest);
}

}  // namespace

ServedModel::ServedModel(std::string name, std::shared_ptr<const Tokenizer> tokenizer,
                         std::shared_ptr<const ChatTemplate> chat_template, std::unique_ptr<ServingLoop> loop,
                         SamplingParams sampling_defaults)
    : name_(std::move(name)),
      tokenizer_(std::move(tokenizer)),
      chat_template_(std::move(chat_template)),
      loop_(std::move(loop)),
      sampling_defaults_(std::move(sampling_defaults)),
      max_prompt_bytes_(LongestTokenBytes(*tokenizer_) * loop_->info().max_context) {}

ServedModel::~ServedModel() = default;

absl::StatusOr<std::vector<int32_t>> ServedModel::EncodePrompt(std::string_view text, bool add_special_tokens) const {
  if (std::ssize(text) > max_prompt_bytes_) {
    return InvalidArgument("the prompt has {} bytes; no text of more than {} fits in the context of {} tokens",
                           text.size(), max_prompt_bytes_, loop_->info().max_context);
  }
  return tokenizer_->Encode(text, {.add_special_tokens = add_special_tokens});
}

}  // namespace moed
