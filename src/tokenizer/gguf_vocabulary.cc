#include "tokenizer/gguf_vocabulary.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "base/status.h"
#include "base/text.h"
#include "base/utf8.h"
#include "tokenizer/known_patterns.h"
#include "tokenizer/sentencepiece_model.pb.h"

namespace moed {
namespace {

using Json = nlohmann::json;
using sentencepiece::Model;
using Piece = Model::Piece;

// ---- Pre-tokenizers, by the names that llama.cpp gives them ----

// Expressions that cut a text one after the other, each the pieces of the one before.
struct PreTokenizer {
  std::vector<std::string_view> names;
  std::vector<std::string_view> expressions;
  bool nfc = false;            // the model's own tokenizer normalises
  bool ignore_merges = false;  // a word that is a token is taken whole
};

constexpr std::string_view kGpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kO200k =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"(\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kTekken = R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|)"
                                     R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|)"
                                     R"(\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
// Of DeepSeek's models up to V2, whose digits are words of their own. Their files spell the letters out that have a
// case, and leave out the mathematical ones.
constexpr std::string_view kNewline = R"([\r\n])";
constexpr std::string_view kDeepSeekOldCjk = R"([一-龥ࠀ-一가-퟿]+)";
constexpr std::string_view kCasedLetters = R"(\s?[\p{Lu}\p{Ll}\p{Lt}&&[^𝐀-𝟿]]+)";
constexpr std::string_view kDeepSeekSigns = R"(\s?[!-/:-~！-／：-～‘-‟　-。]+)";
constexpr std::string_view kDigit = R"(\p{N})";

constexpr std::string_view kDeepSeekCjk = R"([一-龥぀-ゟ゠-ヿ]+)";
constexpr std::string_view kDeepSeekWords =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|)"
    R"( ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

const std::vector<PreTokenizer>& PreTokenizers() {
  static const std::vector<PreTokenizer> known = {
      {{"gpt-2", "olmo", "phi-2", "mpt"}, {kGpt2}},
      {{"llama-bpe", "llama3", "llama-v3"}, {kLlama3}, false, /*ignore_merges=*/true},
      {{"glm4", "chatglm-bpe", "dbrx", "smaug-bpe"}, {kLlama3}},
      {{"qwen2", "deepseek-r1-qwen"}, {kQwen2}, /*nfc=*/true},
      {{"hunyuan", "stablelm2"}, {kQwen2}},
      {{"gpt-4o", "llama4", "minimax-m2"}, {kO200k}},
      {{"kimi-k2"}, {kMoonshotPattern}, false, /*ignore_merges=*/true},
      {{"tekken"}, {kTekken}, false, /*ignore_merges=*/true},
      {{"deepseek-v3"}, {R"(\p{N}{1,3})", kDeepSeekCjk, kDeepSeekWords}},
      {{"deepseek-llm"}, {kNewline, kCasedLetters, kDeepSeekSigns, R"(\s+$)", kDeepSeekOldCjk, kDigit}},
      {{"deepseek-coder"}, {kNewline, R"(\s?\p{L}+)", R"(\s?\p{P}+)", kDeepSeekOldCjk, kDigit}},
      {{"refact", "starcoder", "command-r", "smollm"}, {kDigit, kGpt2}},
  };
  return known;
}

absl::StatusOr<const PreTokenizer*> FindPreTokenizer(std::string_view name) {
  std::vector<std::string_view> known;
  for (const PreTokenizer& one : PreTokenizers()) {
    for (const std::string_view alias : one.names) {
      if (alias == name) return &one;
      known.push_back(alias);
    }
  }
  return Unimplemented("tokenizer.ggml.pre is {}, which is not known; the nearest that is: \"{}\"", Quoted(name),
                       NearestWord(name, known));
}

// ---- What both models need ----

int64_t TypeOf(const GgufVocabulary& vocabulary, size_t id) {
  return vocabulary.types.empty() ? int64_t{Piece::NORMAL} : vocabulary.types[id];
}

absl::Status CheckVocabulary(const GgufVocabulary& vocabulary) {
  const size_t size = vocabulary.tokens.size();
  if (size == 0) return InvalidArgument("tokenizer.ggml.tokens is missing or empty");
  if (!vocabulary.types.empty() && vocabulary.types.size() != size) {
    return InvalidArgument("tokenizer.ggml.token_type has {} elements; there are {} tokens", vocabulary.types.size(),
                           size);
  }
  for (size_t id = 0; id < size; ++id) {
    if (FindInvalidUtf8(vocabulary.tokens[id]) != std::string_view::npos) {
      return InvalidArgument("tokenizer.ggml.tokens[{}] is not UTF-8", id);
    }
    if (TypeOf(vocabulary, id) < Piece::NORMAL || TypeOf(vocabulary, id) > Piece::BYTE) {
      return InvalidArgument("tokenizer.ggml.token_type[{}] is {}; it must be 1 to 6", id, TypeOf(vocabulary, id));
    }
  }
  const std::pair<std::string_view, std::optional<int64_t>> ids[] = {
      {"bos", vocabulary.bos_id}, {"eos", vocabulary.eos_id}, {"unknown", vocabulary.unknown_id}};
  for (const auto& [name, id] : ids) {
    if (id.has_value() && (*id < 0 || *id >= static_cast<int64_t>(size))) {
      return InvalidArgument("tokenizer.ggml.{}_token_id is {}; there are {} tokens", name, *id, size);
    }
  }
  return absl::OkStatus();
}

// What tokenizer_config.json would say.
std::string ConfigJson(const GgufVocabulary& vocabulary) {
  Json config = Json::object();
  if (vocabulary.bos_id) config["bos_token"] = vocabulary.tokens[*vocabulary.bos_id];
  if (vocabulary.eos_id) config["eos_token"] = vocabulary.tokens[*vocabulary.eos_id];
  if (vocabulary.add_bos) config["add_bos_token"] = *vocabulary.add_bos;
  if (vocabulary.add_eos) config["add_eos_token"] = *vocabulary.add_eos;
  return config.dump();
}

// ---- gpt2 ----

Json PreTokenizerJson(const PreTokenizer& pre) {
  Json parts = Json::array();
  for (const std::string_view expression : pre.expressions) {
    parts.push_back(
        {{"type", "Split"}, {"pattern", {{"Regex", expression}}}, {"behavior", "Isolated"}, {"invert", false}});
  }
  parts.push_back({{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}});
  return {{"type", "Sequence"}, {"pretokenizers", std::move(parts)}};
}

absl::StatusOr<std::unique_ptr<Tokenizer>> MakeBpe(const GgufVocabulary& vocabulary) {
  MOED_ASSIGN_OR_RETURN(const PreTokenizer* pre, FindPreTokenizer(vocabulary.pre));
  Json added = Json::array(), merges = Json::array(), vocab = Json::object();
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const int64_t type = TypeOf(vocabulary, id);
    if (type == Piece::CONTROL || type == Piece::USER_DEFINED || type == Piece::UNKNOWN) {
      added.push_back({{"id", id},
                       {"content", vocabulary.tokens[id]},
                       {"special", type != Piece::USER_DEFINED},
                       {"normalized", false}});
    } else {
      vocab[std::string(vocabulary.tokens[id])] = id;
    }
  }
  for (size_t i = 0; i < vocabulary.merges.size(); ++i) {
    if (FindInvalidUtf8(vocabulary.merges[i]) != std::string_view::npos) {
      return InvalidArgument("tokenizer.ggml.merges[{}] is not UTF-8", i);
    }
    merges.push_back(vocabulary.merges[i]);
  }
  Json document = {
      {"added_tokens", std::move(added)},
      {"pre_tokenizer", PreTokenizerJson(*pre)},
      {"decoder", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}}}};
  if (pre->nfc) document["normalizer"] = {{"type", "NFC"}};
  document["model"] = {{"type", "BPE"}, {"ignore_merges", pre->ignore_merges}, {"merges", std::move(merges)}};
  document["model"]["vocab"] = std::move(vocab);
  return Tokenizer::FromJson(document.dump(), ConfigJson(vocabulary));
}

// ---- llama ----

absl::StatusOr<std::unique_ptr<Tokenizer>> MakeSentencePiece(const GgufVocabulary& vocabulary) {
  if (vocabulary.scores.size() != vocabulary.tokens.size()) {
    return InvalidArgument("tokenizer.ggml.scores has {} elements; there are {} tokens", vocabulary.scores.size(),
                           vocabulary.tokens.size());
  }
  Model model;
  bool has_bytes = false;
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    Piece* piece = model.add_pieces();
    piece->set_piece(std::string(vocabulary.tokens[id]));
    piece->set_score(static_cast<float>(vocabulary.scores[id]));
    const auto type = static_cast<Piece::Type>(TypeOf(vocabulary, id));
    // Tokens that only fill the vocabulary up never come of a text, as control tokens do not.
    piece->set_type(type == Piece::UNUSED ? Piece::CONTROL : type);
    has_bytes = has_bytes || type == Piece::BYTE;
  }
  auto* trainer = model.mutable_trainer_spec();
  trainer->set_model_type(sentencepiece::TrainerSpec::BPE);
  trainer->set_byte_fallback(has_bytes);
  trainer->set_unk_id(static_cast<int32_t>(vocabulary.unknown_id.value_or(0)));
  trainer->set_bos_id(static_cast<int32_t>(vocabulary.bos_id.value_or(-1)));
  trainer->set_eos_id(static_cast<int32_t>(vocabulary.eos_id.value_or(-1)));
  auto* normalizer = model.mutable_normalizer_spec();
  normalizer->set_add_dummy_prefix(vocabulary.add_space_prefix.value_or(true));
  normalizer->set_remove_extra_whitespaces(false);
  return Tokenizer::FromSentencePiece(model.SerializeAsString(), ConfigJson(vocabulary));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> MakeTokenizer(const GgufVocabulary& vocabulary) {
  MOED_RETURN_IF_ERROR(CheckVocabulary(vocabulary));
  if (vocabulary.model == "gpt2") return MakeBpe(vocabulary);
  if (vocabulary.model == "llama") return MakeSentencePiece(vocabulary);
  return Unimplemented("tokenizer.ggml.model is {}; gpt2 and llama are supported", Quoted(vocabulary.model));
}

}  // namespace moed
