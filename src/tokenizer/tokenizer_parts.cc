#include "tokenizer/tokenizer_parts.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include "base/status.h"
#include "tokenizer/tokenizer_json.h"

namespace moed {
namespace {

// A special token of the configuration: a string, or an object with the content.
absl::StatusOr<std::optional<std::string>> TokenName(const JsonField& field) {
  if (!field.present()) return std::nullopt;
  const JsonField& name = field.value().is_object() ? field["content"] : field;
  MOED_ASSIGN_OR_RETURN(std::string content, name.String());
  return content;
}

absl::StatusOr<std::optional<bool>> OptionalBool(const JsonField& field) {
  if (!field.present()) return std::nullopt;
  MOED_ASSIGN_OR_RETURN(const bool value, field.Bool());
  return value;
}

absl::StatusOr<std::vector<AddedToken>> ParseAddedTokensDecoder(const JsonField& field) {
  std::vector<AddedToken> tokens;
  if (!field.present()) return tokens;
  MOED_RETURN_IF_ERROR(field.ExpectObject());
  for (const auto& [key, value] : field.value().items()) {
    const JsonField entry(&value, field.path() + "['" + key + "']");
    MOED_ASSIGN_OR_RETURN(AddedToken token, ParseAddedToken(entry));
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), token.id);
    if (error != std::errc() || end != key.data() + key.size() || token.id < 0 || token.id >= Vocabulary::kMaxId) {
      return InvalidArgument("{}: '{}' is not the id of a token", field.path(), key);
    }
    if (!token.content.empty()) tokens.push_back(std::move(token));
  }
  return tokens;
}

// Makes `ids` begin (or end) with `token` or not, as `wanted` says; leaves them alone where it does not.
absl::Status Force(std::string_view flag, std::optional<bool> wanted, std::optional<int32_t> token, bool at_front,
                   std::vector<int32_t>* ids) {
  if (!wanted.has_value()) return absl::OkStatus();
  if (!token.has_value()) {
    if (*wanted) return InvalidArgument("{} is true, but no such token is in the vocabulary", flag);
    return absl::OkStatus();
  }
  const bool has = !ids->empty() && (at_front ? ids->front() : ids->back()) == *token;
  if (has == *wanted) return absl::OkStatus();
  const auto place = at_front ? ids->begin() : has ? ids->end() - 1 : ids->end();
  if (has) {
    ids->erase(place);
  } else {
    ids->insert(place, *token);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TokenizerConfig> ParseTokenizerConfig(std::string_view json) {
  TokenizerConfig config;
  if (json.empty()) return config;
  MOED_ASSIGN_OR_RETURN(const nlohmann::json document, ParseJson(json));
  const JsonField root(document);
  MOED_RETURN_IF_ERROR(root.ExpectObject());
  MOED_ASSIGN_OR_RETURN(config.add_bos_token, OptionalBool(root["add_bos_token"]));
  MOED_ASSIGN_OR_RETURN(config.add_eos_token, OptionalBool(root["add_eos_token"]));
  MOED_ASSIGN_OR_RETURN(config.bos_token, TokenName(root["bos_token"]));
  MOED_ASSIGN_OR_RETURN(config.eos_token, TokenName(root["eos_token"]));
  MOED_ASSIGN_OR_RETURN(config.added_tokens, ParseAddedTokensDecoder(root["added_tokens_decoder"]));
  MOED_ASSIGN_OR_RETURN(config.tokenizer_class, root["tokenizer_class"].StringOr(""));
  return config;
}

absl::Status AddSpecialTokensMap(std::string_view json, TokenizerConfig* config) {
  MOED_ASSIGN_OR_RETURN(const nlohmann::json document, ParseJson(json));
  const JsonField root(document);
  MOED_RETURN_IF_ERROR(root.ExpectObject());
  MOED_ASSIGN_OR_RETURN(auto bos_token, TokenName(root["bos_token"]));
  MOED_ASSIGN_OR_RETURN(auto eos_token, TokenName(root["eos_token"]));
  if (!config->bos_token) config->bos_token = std::move(bos_token);
  if (!config->eos_token) config->eos_token = std::move(eos_token);
  return absl::OkStatus();
}

void MergeAddedTokens(const TokenizerConfig& config, std::vector<AddedToken>* tokens) {
  absl::flat_hash_map<std::string, bool> known;
  for (const AddedToken& token : *tokens) known[token.content] = true;
  for (const AddedToken& token : config.added_tokens) {
    if (!known.contains(token.content)) tokens->push_back(token);
  }
}

absl::Status RegisterAddedTokens(const std::vector<AddedToken>& tokens,
                                 absl::FunctionRef<std::string(std::string_view)> normalized_form,
                                 TokenizerParts* parts) {
  for (const AddedToken& token : tokens) {
    const std::optional<int32_t> id = parts->vocabulary.Find(token.content);
    if (!id.has_value()) {
      MOED_RETURN_IF_ERROR(Annotate(parts->vocabulary.Add(token.content, token.id), "added_tokens"));
    } else if (*id != token.id) {
      return InvalidArgument("added_tokens gives '{}' the id {}, but the vocabulary gives it {}", token.content,
                             token.id, *id);
    }
  }
  parts->is_special.assign(parts->vocabulary.size(), false);
  for (const AddedToken& token : tokens) parts->is_special[token.id] = token.special;
  parts->added_tokens = AddedTokens(tokens, normalized_form);
  return absl::OkStatus();
}

absl::Status ApplySpecialTokens(const TokenizerConfig& config, TokenizerParts* parts) {
  if (config.bos_token) parts->bos_id = parts->vocabulary.Find(*config.bos_token);
  if (config.eos_token) parts->eos_id = parts->vocabulary.Find(*config.eos_token);
  MOED_RETURN_IF_ERROR(Force("add_bos_token", config.add_bos_token, parts->bos_id, /*at_front=*/true, &parts->prefix));
  return Force("add_eos_token", config.add_eos_token, parts->eos_id, /*at_front=*/false, &parts->suffix);
}

}  // namespace moed
