#include "tokenizer/tokenizer_json.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "base/status.h"
#include "tokenizer/tokenizer_parts.h"

namespace moed {
namespace {

using Json = nlohmann::json;

// The model's own tokens, into both vocabularies: the one of everything, and the one that the model sees.
absl::Status ParseVocabulary(const JsonField& field, Vocabulary* everything, Vocabulary* own) {
  MOED_RETURN_IF_ERROR(field.ExpectObject());
  for (const auto& [content, id] : field.value().items()) {
    MOED_ASSIGN_OR_RETURN(const int64_t number, JsonField(&id, field.path() + "['" + content + "']").Integer());
    MOED_RETURN_IF_ERROR(Annotate(own->Add(content, number), field.path()));
    MOED_RETURN_IF_ERROR(Annotate(everything->Add(content, number), field.path()));
  }
  return absl::OkStatus();
}

// One merge: "a b", or ["a", "b"].
absl::Status SplitMerge(const JsonField& field, std::string_view* left, std::string_view* right) {
  const Json& value = field.value();
  if (value.is_string()) {
    const std::string_view text = value.get_ref<const std::string&>();
    const size_t space = text.find(' ');
    if (space == std::string_view::npos || text.find(' ', space + 1) != std::string_view::npos) {
      return field.Wrong("two tokens with one space between");
    }
    *left = text.substr(0, space);
    *right = text.substr(space + 1);
    return absl::OkStatus();
  }
  if (!value.is_array() || value.size() != 2 || !value[0].is_string() || !value[1].is_string()) {
    return field.Wrong("two tokens, as an array or with a space between");
  }
  *left = value[0].get_ref<const std::string&>();
  *right = value[1].get_ref<const std::string&>();
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Merge>> ParseMerges(const JsonField& field, const Vocabulary& vocabulary) {
  if (!field.present()) return field.Wrong("an array");
  if (!field.value().is_array()) return field.Wrong("an array");
  std::vector<Merge> merges;
  merges.reserve(field.value().size());
  std::string joined;
  for (size_t i = 0; i < field.value().size(); ++i) {
    const Json& value = field.value()[i];
    if (value.is_string() && value.get_ref<const std::string&>().starts_with("#version")) continue;
    const auto element = [&] { return JsonField(&value, fmt::format("{}[{}]", field.path(), i)); };
    std::string_view left, right;
    if (value.is_string() || value.is_array()) {
      MOED_RETURN_IF_ERROR(SplitMerge(element(), &left, &right));
    } else {
      return element().Wrong("two tokens, as an array or with a space between");
    }
    joined.assign(left).append(right);
    const auto left_id = vocabulary.Find(left), right_id = vocabulary.Find(right), id = vocabulary.Find(joined);
    if (!left_id || !right_id || !id) {
      return InvalidArgument("{} makes '{}' of '{}' and '{}', and not all three are in the vocabulary",
                             element().path(), joined, left, right);
    }
    merges.push_back({*left_id, *right_id, static_cast<uint32_t>(merges.size()), *id});
  }
  return merges;
}

absl::Status ExpectEmpty(const JsonField& field) {
  MOED_ASSIGN_OR_RETURN(const std::string text, field.StringOr(""));
  return text.empty() ? absl::OkStatus() : Unimplemented("{} is '{}'; it is not supported", field.path(), text);
}

absl::StatusOr<Bpe::Options> ParseBpeOptions(const JsonField& model, const Vocabulary& vocabulary) {
  MOED_RETURN_IF_ERROR(ExpectEmpty(model["continuing_subword_prefix"]));
  MOED_RETURN_IF_ERROR(ExpectEmpty(model["end_of_word_suffix"]));
  const JsonField dropout = model["dropout"];
  if (dropout.present() && !(dropout.value().is_number() && dropout.value().get<double>() == 0)) {
    return Unimplemented("model.dropout is not supported: it makes encoding random");
  }
  Bpe::Options options;
  MOED_ASSIGN_OR_RETURN(options.byte_fallback, model["byte_fallback"].BoolOr(false));
  MOED_ASSIGN_OR_RETURN(options.fuse_unknown, model["fuse_unk"].BoolOr(false));
  MOED_ASSIGN_OR_RETURN(options.ignore_merges, model["ignore_merges"].BoolOr(false));
  if (model["unk_token"].present()) {
    MOED_ASSIGN_OR_RETURN(const std::string unknown, model["unk_token"].String());
    options.unknown = vocabulary.Find(unknown);
    if (!options.unknown) return model["unk_token"].Wrong("in model.vocab");
  }
  return options;
}

absl::StatusOr<std::vector<AddedToken>> ParseAddedTokens(const JsonField& field) {
  std::vector<AddedToken> tokens;
  MOED_ASSIGN_OR_RETURN(const auto elements, field.Elements());
  for (const JsonField& element : elements) {
    MOED_ASSIGN_OR_RETURN(AddedToken token, ParseAddedToken(element));
    MOED_ASSIGN_OR_RETURN(const int64_t id, element["id"].Integer());
    if (id < 0 || id >= Vocabulary::kMaxId) return element["id"].Wrong("the id of a token");
    token.id = static_cast<int32_t>(id);
    if (!token.content.empty()) tokens.push_back(std::move(token));
  }
  return tokens;
}

// {"SpecialToken": {"id": "<s>"}} becomes the ids that the template lists for it.
absl::Status AppendTemplateToken(const JsonField& piece, const JsonField& special_tokens, std::vector<int32_t>* ids) {
  MOED_ASSIGN_OR_RETURN(const std::string name, piece["SpecialToken"]["id"].String());
  const JsonField listed = special_tokens[name]["ids"];
  if (!listed.present()) return listed.Wrong("an array of ids");
  MOED_ASSIGN_OR_RETURN(const auto elements, listed.Elements());
  for (const JsonField& element : elements) {
    MOED_ASSIGN_OR_RETURN(const int64_t id, element.Integer());
    if (id < 0 || id >= Vocabulary::kMaxId) return element.Wrong("the id of a token");
    ids->push_back(static_cast<int32_t>(id));
  }
  return absl::OkStatus();
}

absl::Status ParseTemplate(const JsonField& field, TokenizerParts* parts) {
  if (!parts->prefix.empty() || !parts->suffix.empty()) {
    return Unimplemented("{}: a second template is not supported", field.path());
  }
  bool behind_text = false;
  MOED_ASSIGN_OR_RETURN(const auto pieces, field["single"].Elements());
  for (const JsonField& piece : pieces) {
    if (piece["SpecialToken"].present()) {
      MOED_RETURN_IF_ERROR(
          AppendTemplateToken(piece, field["special_tokens"], behind_text ? &parts->suffix : &parts->prefix));
    } else if (!piece["Sequence"].present()) {
      return piece.Wrong("an object with SpecialToken or Sequence");
    } else if (std::exchange(behind_text, true)) {
      return Unimplemented("{}: a template with the text twice is not supported", field.path());
    }
  }
  return behind_text ? absl::OkStatus() : field["single"].Wrong("a template with a Sequence");
}

absl::Status ParsePostProcessor(const JsonField& field, TokenizerParts* parts) {
  MOED_RETURN_IF_ERROR(ForEachPart(field, "processors", [&](const JsonField& part, const std::string& type) {
    if (type == "TemplateProcessing") return ParseTemplate(part, parts);
    if (type == "ByteLevel") return absl::OkStatus();  // about offsets only, of which there are none here
    return UnsupportedType(part, type);
  }));
  for (const std::vector<int32_t>* ids : {&parts->prefix, &parts->suffix}) {
    for (const int32_t id : *ids) {
      if (!parts->vocabulary.Contains(id)) return InvalidArgument("{} adds the unknown id {}", field.path(), id);
    }
  }
  return absl::OkStatus();
}

absl::Status RegisterAll(const std::vector<AddedToken>& added, TokenizerParts* parts) {
  RegexScratch regex_scratch;
  NormalizerScratch scratch;
  absl::Status status;
  const auto normalized_form = [&](std::string_view content) {
    const auto normalized = parts->normalizer.Apply(content, regex_scratch, scratch);
    if (!normalized.ok()) status = normalized.status();
    return std::string(normalized.ok() ? *normalized : content);
  };
  MOED_RETURN_IF_ERROR(RegisterAddedTokens(added, normalized_form, parts));
  return status;
}

absl::Status ParseBpe(const JsonField& model, TokenizerParts* parts) {
  Vocabulary own(model["vocab"].present() ? model["vocab"].value().size() : 0);
  MOED_RETURN_IF_ERROR(ParseVocabulary(model["vocab"], &parts->vocabulary, &own));
  MOED_ASSIGN_OR_RETURN(const std::vector<Merge> merges, ParseMerges(model["merges"], own));
  MOED_ASSIGN_OR_RETURN(Bpe::Options options, ParseBpeOptions(model, own));
  options.byte_level = parts->pre_tokenizer.yields_bytes();
  options.word_start = U'\u2581';
  parts->model = Bpe(own, merges, options);
  return absl::OkStatus();
}

// Tokens with their scores, [["▁the", -3.5], …]; a token's id is its place.
absl::Status ParseUnigram(const JsonField& model, TokenizerParts* parts) {
  if (parts->pre_tokenizer.yields_bytes()) return Unimplemented("a Unigram model behind ByteLevel is not supported");
  const JsonField vocab = model["vocab"];
  if (!vocab.present()) return vocab.Wrong("an array");
  MOED_ASSIGN_OR_RETURN(const auto elements, vocab.Elements());
  std::vector<double> scores;
  scores.reserve(elements.size());
  for (const JsonField& element : elements) {
    const Json& pair = element.value();
    const bool good = pair.is_array() && pair.size() == 2 && pair[0].is_string() && pair[1].is_number() &&
                      std::isfinite(pair[1].get<double>());
    if (!good) return element.Wrong("a token and its score");
    const std::string& content = pair[0].get_ref<const std::string&>();
    if (content.size() > Unigram::kMaxTokenBytes) {
      return InvalidArgument("{} has {} bytes; at most {} are allowed", element.path(), content.size(),
                             Unigram::kMaxTokenBytes);
    }
    MOED_RETURN_IF_ERROR(Annotate(parts->vocabulary.Add(content, static_cast<int64_t>(scores.size())), vocab.path()));
    scores.push_back(pair[1].get<double>());
  }
  Unigram::Options options;
  MOED_ASSIGN_OR_RETURN(const int64_t unknown, model["unk_id"].Integer());
  if (unknown < 0 || unknown >= static_cast<int64_t>(scores.size())) {
    return model["unk_id"].Wrong("the place of a token in model.vocab");
  }
  options.unknown = static_cast<int32_t>(unknown);
  MOED_ASSIGN_OR_RETURN(options.byte_fallback, model["byte_fallback"].BoolOr(false));
  parts->model = Unigram(parts->vocabulary, std::move(scores), options);
  return absl::OkStatus();
}

absl::Status ParseModel(const JsonField& model, TokenizerParts* parts) {
  MOED_RETURN_IF_ERROR(model.ExpectObject());
  // The oldest files leave the type out.
  const std::string_view otherwise = model["merges"].present() ? "BPE" : model["unk_id"].present() ? "Unigram" : "";
  MOED_ASSIGN_OR_RETURN(const std::string type, model["type"].StringOr(otherwise));
  if (type.empty()) return model["type"].Wrong("a string");
  if (type == "BPE") return ParseBpe(model, parts);
  if (type == "Unigram") return ParseUnigram(model, parts);
  return UnsupportedType(model, type);
}

}  // namespace

absl::StatusOr<AddedToken> ParseAddedToken(const JsonField& field) {
  MOED_RETURN_IF_ERROR(field.ExpectObject());
  AddedToken token;
  MOED_ASSIGN_OR_RETURN(token.content, field["content"].String());
  MOED_ASSIGN_OR_RETURN(token.special, field["special"].BoolOr(false));
  MOED_ASSIGN_OR_RETURN(token.lstrip, field["lstrip"].BoolOr(false));
  MOED_ASSIGN_OR_RETURN(token.rstrip, field["rstrip"].BoolOr(false));
  MOED_ASSIGN_OR_RETURN(token.normalized, field["normalized"].BoolOr(!token.special));
  MOED_ASSIGN_OR_RETURN(token.single_word, field["single_word"].BoolOr(false));
  return token;
}

absl::StatusOr<std::unique_ptr<TokenizerParts>> ParseTokenizerJson(std::string_view json,
                                                                   const TokenizerConfig& config) {
  MOED_ASSIGN_OR_RETURN(const Json document, ParseJson(json));
  const JsonField root(document);
  MOED_RETURN_IF_ERROR(root.ExpectObject());
  MOED_ASSIGN_OR_RETURN(std::vector<AddedToken> added, ParseAddedTokens(root["added_tokens"]));
  MergeAddedTokens(config, &added);

  auto parts = std::make_unique<TokenizerParts>();
  const JsonField vocab = root["model"]["vocab"];
  parts->vocabulary = Vocabulary(added.size() + (vocab.present() ? vocab.value().size() : 0));
  MOED_ASSIGN_OR_RETURN(parts->normalizer, ParseNormalizer(root["normalizer"]));
  MOED_ASSIGN_OR_RETURN(parts->pre_tokenizer, ParsePreTokenizer(root["pre_tokenizer"]));
  MOED_RETURN_IF_ERROR(ParseModel(root["model"], parts.get()));
  MOED_RETURN_IF_ERROR(RegisterAll(added, parts.get()));
  MOED_RETURN_IF_ERROR(ParsePostProcessor(root["post_processor"], parts.get()));
  MOED_RETURN_IF_ERROR(ApplySpecialTokens(config, parts.get()));
  MOED_ASSIGN_OR_RETURN(Decoder::Options decoder, ParseDecoder(root["decoder"]));
  MOED_ASSIGN_OR_RETURN(parts->decoder, Decoder::Create(std::move(decoder), parts->vocabulary));
  return parts;
}

}  // namespace moed
