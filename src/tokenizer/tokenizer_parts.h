// What a tokenizer is made of, whichever file it was read from.
#ifndef MOED_TOKENIZER_TOKENIZER_PARTS_H_
#define MOED_TOKENIZER_TOKENIZER_PARTS_H_

#include <absl/functional/function_ref.h>
#include <absl/status/statusor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "tokenizer/added_tokens.h"
#include "tokenizer/bpe.h"
#include "tokenizer/decoder.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/unigram.h"
#include "tokenizer/vocabulary.h"

namespace moed {

struct TokenizerParts {
  Vocabulary vocabulary;  // the model's tokens and the added ones
  AddedTokens added_tokens;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  std::variant<Bpe, Unigram> model;
  Decoder decoder;

  std::vector<bool> is_special;         // [vocabulary.size()]
  std::vector<int32_t> prefix, suffix;  // what add_special_tokens puts around a text
  std::optional<int32_t> bos_id, eos_id;
};

// What tokenizer_config.json adds to the other file.
struct TokenizerConfig {
  std::optional<bool> add_bos_token, add_eos_token;
  std::optional<std::string> bos_token, eos_token;
  std::vector<AddedToken> added_tokens;  // added_tokens_decoder
  std::string tokenizer_class;
};

// "" gives the empty configuration.
absl::StatusOr<TokenizerConfig> ParseTokenizerConfig(std::string_view json);
// Takes bos_token and eos_token, where `config` lacks them, from special_tokens_map.json.
absl::Status AddSpecialTokensMap(std::string_view json, TokenizerConfig* config);

absl::StatusOr<std::unique_ptr<TokenizerParts>> ParseTokenizerJson(std::string_view json,
                                                                   const TokenizerConfig& config);
absl::StatusOr<std::unique_ptr<TokenizerParts>> ParseSentencePiece(std::string_view model,
                                                                   const TokenizerConfig& config);
absl::StatusOr<std::unique_ptr<TokenizerParts>> ParseTiktoken(std::string_view file, const TokenizerConfig& config);

// Steps that the readers end with.

// Adds to `tokens` those that only the configuration names.
void MergeAddedTokens(const TokenizerConfig& config, std::vector<AddedToken>* tokens);
// Gives the added tokens their places in the vocabulary, and is_special its size and values. Those that are sought in
// the normalized text are sought as `normalized_form` writes them.
absl::Status RegisterAddedTokens(const std::vector<AddedToken>& tokens,
                                 absl::FunctionRef<std::string(std::string_view)> normalized_form,
                                 TokenizerParts* parts);
// Sets bos_id and eos_id, and makes prefix and suffix agree with add_bos_token and add_eos_token.
absl::Status ApplySpecialTokens(const TokenizerConfig& config, TokenizerParts* parts);

}  // namespace moed

#endif  // MOED_TOKENIZER_TOKENIZER_PARTS_H_
