// tiktoken's vocabulary files, brought to the same parts as tokenizer.json.
//
// Such a file has a line for each token: its bytes in base64, and its rank, which is both its id and its priority in
// merging. The pattern that cuts texts into words stands in the Python code of the model's tokenizer, so that it is
// known here by the name of that class.
#include <absl/strings/escaping.h>

#include <algorithm>
#include <charconv>
#include <string>
#include <utility>

#include "base/status.h"
#include "base/utf8.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/known_patterns.h"
#include "tokenizer/tokenizer_parts.h"

namespace moed {
namespace {

// Every way to cut a token in two is a candidate for a merge, so its length counts twice.
constexpr size_t kMaxTokenBytes = 1024;

struct TokenizerClass {
  std::string_view name;
  std::string_view pattern;
  int num_special_tokens;  // behind the file's; those that the configuration does not name are reserved
};

constexpr TokenizerClass kMoonshot = {"TikTokenTokenizer", kMoonshotPattern, 256};

struct Token {
  std::string bytes;
  int32_t rank;
};

absl::StatusOr<std::vector<Token>> ParseLines(std::string_view file) {
  std::vector<Token> tokens;
  for (int number = 1; !file.empty(); ++number) {
    const size_t end = std::min(file.find('\n'), file.size());
    const std::string_view line = file.substr(0, end);
    file.remove_prefix(std::min(end + 1, file.size()));
    if (line.empty()) continue;
    Token token;
    const size_t space = line.find(' ');
    if (space == std::string_view::npos || !absl::Base64Unescape(absl::string_view(line.data(), space), &token.bytes) ||
        token.bytes.empty()) {
      return InvalidArgument("line {} is not a token in base64, a space and its rank", number);
    }
    const char* rank_end = line.data() + line.size() - (line.back() == '\r' ? 1 : 0);
    const auto [stopped, error] = std::from_chars(line.data() + space + 1, rank_end, token.rank);
    if (error != std::errc() || stopped != rank_end) return InvalidArgument("line {}: the rank is no integer", number);
    if (token.bytes.size() > kMaxTokenBytes) {
      return InvalidArgument("line {}: the token has {} bytes; at most {} are allowed", number, token.bytes.size(),
                             kMaxTokenBytes);
    }
    tokens.push_back(std::move(token));
  }
  return tokens;
}

std::string ByteLevel(std::string_view bytes) {
  std::string text;
  AppendByteLevel(bytes, &text);
  return text;
}

absl::Status CheckBytes(const Vocabulary& vocabulary) {
  for (int byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    if (!vocabulary.Find(ByteLevel({&c, 1}))) return InvalidArgument("there is no token for the byte 0x{:02X}", byte);
  }
  return absl::OkStatus();
}

// tiktoken merges the two neighbours whose concatenation has the lowest rank, so every cut of a token is a merge.
std::vector<Merge> FindMerges(const std::vector<Token>& tokens, const Vocabulary& vocabulary) {
  std::vector<Merge> merges;
  for (const Token& token : tokens) {
    const std::string content = ByteLevel(token.bytes);
    const std::string_view view = content;
    for (size_t cut = Utf8Length(view[0]); cut < view.size(); cut += Utf8Length(view[cut])) {
      const auto left = vocabulary.Find(view.substr(0, cut)), right = vocabulary.Find(view.substr(cut));
      if (left && right) merges.push_back({*left, *right, static_cast<uint32_t>(token.rank), token.rank});
    }
  }
  return merges;
}

// The tokens behind the file's, named by the configuration or reserved.
std::vector<AddedToken> SpecialTokens(const TokenizerConfig& config, int32_t first, int32_t count) {
  std::vector<AddedToken> tokens = config.added_tokens;
  std::vector<bool> named(count);
  for (const AddedToken& token : tokens) {
    if (token.id >= first && token.id < first + count) named[token.id - first] = true;
  }
  for (int32_t i = 0; i < count; ++i) {
    if (named[i]) continue;
    AddedToken token;
    token.content = fmt::format("<|reserved_token_{}|>", first + i);
    token.id = first + i;
    token.special = true;
    tokens.push_back(std::move(token));
  }
  return tokens;
}

}  // namespace

absl::StatusOr<std::unique_ptr<TokenizerParts>> ParseTiktoken(std::string_view file, const TokenizerConfig& config) {
  const TokenizerClass& known = kMoonshot;
  if (config.tokenizer_class != known.name) {
    return Unimplemented(
        "the tokenizer_class of tokenizer_config.json is '{}'; of those with tiktoken's files only {} is supported",
        config.tokenizer_class, known.name);
  }
  MOED_ASSIGN_OR_RETURN(const std::vector<Token> tokens, ParseLines(file));

  auto parts = std::make_unique<TokenizerParts>();
  parts->vocabulary = Vocabulary(tokens.size() + config.added_tokens.size() + known.num_special_tokens);
  Vocabulary own(tokens.size());
  for (const Token& token : tokens) {
    const std::string content = ByteLevel(token.bytes);
    MOED_RETURN_IF_ERROR(own.Add(content, token.rank));
    MOED_RETURN_IF_ERROR(parts->vocabulary.Add(content, token.rank));
  }
  MOED_RETURN_IF_ERROR(CheckBytes(own));
  MOED_ASSIGN_OR_RETURN(Regex pattern, Regex::Compile(known.pattern));
  parts->pre_tokenizer = PreTokenizer({SplitStep{std::make_shared<const Regex>(std::move(pattern))}, ByteLevelStep{}});
  Bpe::Options options;
  options.byte_level = true;
  options.ignore_merges = true;
  parts->model = Bpe(own, FindMerges(tokens, own), options);

  const auto as_written = [](std::string_view content) { return std::string(content); };
  MOED_RETURN_IF_ERROR(
      RegisterAddedTokens(SpecialTokens(config, own.size(), known.num_special_tokens), as_written, parts.get()));
  MOED_RETURN_IF_ERROR(ApplySpecialTokens(config, parts.get()));
  Decoder::Options decoder;
  decoder.bytes = Decoder::Bytes::kByteLevel;
  MOED_ASSIGN_OR_RETURN(parts->decoder, Decoder::Create(std::move(decoder), parts->vocabulary));
  return parts;
}

}  // namespace moed
