// The normalizer, the pre-tokenizer and the decoder of tokenizer.json.
#include <optional>
#include <string>
#include <utility>

#include "base/status.h"
#include "base/utf8.h"
#include "tokenizer/tokenizer_json.h"
#include "tokenizer/unicode.h"

namespace moed {
namespace {

constexpr int kMaxNesting = 16;

// The pattern of GPT-2, which ByteLevel stands for.
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

using PartVisitor = absl::FunctionRef<absl::Status(const JsonField&, const std::string&)>;

absl::Status ForEachPartWithin(const JsonField& field, std::string_view member, int nesting, PartVisitor visit) {
  if (nesting > kMaxNesting) return InvalidArgument("{} is nested more than {} deep", field.path(), kMaxNesting);
  MOED_RETURN_IF_ERROR(field.ExpectObject());
  MOED_ASSIGN_OR_RETURN(const std::string type, field["type"].String());
  if (type != "Sequence") return visit(field, type);
  if (!field[member].present()) return field[member].Wrong("an array");
  MOED_ASSIGN_OR_RETURN(const auto parts, field[member].Elements());
  for (const JsonField& part : parts) MOED_RETURN_IF_ERROR(ForEachPartWithin(part, member, nesting + 1, visit));
  return absl::OkStatus();
}

absl::StatusOr<SplitBehavior> ParseBehavior(const JsonField& field, std::string_view otherwise) {
  MOED_ASSIGN_OR_RETURN(const std::string name, field.StringOr(otherwise));
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  return field.Wrong("Isolated, Removed, Contiguous, MergedWithPrevious or MergedWithNext");
}

absl::StatusOr<std::shared_ptr<const Regex>> CompileShared(std::string_view pattern) {
  MOED_ASSIGN_OR_RETURN(Regex regex, Regex::Compile(pattern));
  return std::make_shared<const Regex>(std::move(regex));
}

absl::StatusOr<MetaspaceStep::Prepend> ParsePrependScheme(const JsonField& metaspace) {
  MOED_ASSIGN_OR_RETURN(const std::string name, metaspace["prepend_scheme"].StringOr("always"));
  // An older form of the same.
  MOED_ASSIGN_OR_RETURN(const bool add_prefix_space, metaspace["add_prefix_space"].BoolOr(true));
  if (name != "first" && name != "never" && name != "always") {
    return metaspace["prepend_scheme"].Wrong("first, never or always");
  }
  if (name == "never" || !add_prefix_space) return MetaspaceStep::Prepend::kNever;
  return name == "first" ? MetaspaceStep::Prepend::kFirst : MetaspaceStep::Prepend::kAlways;
}

absl::Status AddMetaspace(const JsonField& part, std::vector<PreTokenizerStep>* steps) {
  MOED_ASSIGN_OR_RETURN(const char32_t character, part["replacement"].Character());
  std::string replacement;
  AppendUtf8(character, &replacement);
  MOED_ASSIGN_OR_RETURN(const MetaspaceStep::Prepend prepend, ParsePrependScheme(part));
  steps->push_back(MetaspaceStep{replacement, prepend});
  MOED_ASSIGN_OR_RETURN(const bool split, part["split"].BoolOr(true));
  if (split) steps->push_back(SplitStep{replacement, SplitBehavior::kMergedWithNext});
  return absl::OkStatus();
}

absl::Status AddByteLevel(const JsonField& part, std::vector<PreTokenizerStep>* steps) {
  MOED_ASSIGN_OR_RETURN(const bool add_prefix_space, part["add_prefix_space"].BoolOr(true));
  MOED_ASSIGN_OR_RETURN(const bool use_regex, part["use_regex"].BoolOr(true));
  if (add_prefix_space) steps->push_back(PrefixSpaceStep{});
  if (use_regex) {
    MOED_ASSIGN_OR_RETURN(auto regex, CompileShared(kGpt2Pattern));
    steps->push_back(SplitStep{std::move(regex)});
  }
  steps->push_back(ByteLevelStep{});
  return absl::OkStatus();
}

absl::Status AddSplit(const JsonField& part, std::vector<PreTokenizerStep>* steps) {
  MOED_ASSIGN_OR_RETURN(const JsonPattern pattern, ParsePattern(part["pattern"]));
  SplitStep step;
  if (const auto* literal = std::get_if<std::string>(&pattern)) {
    step.pattern = *literal;
  } else {
    step.pattern = std::get<std::shared_ptr<const Regex>>(pattern);
  }
  if (!part["behavior"].present()) return part["behavior"].Wrong("a behavior such as Isolated");
  MOED_ASSIGN_OR_RETURN(step.behavior, ParseBehavior(part["behavior"], ""));
  MOED_ASSIGN_OR_RETURN(step.invert, part["invert"].BoolOr(false));
  steps->push_back(std::move(step));
  return absl::OkStatus();
}

absl::Status AddPreTokenizer(const JsonField& part, const std::string& type, std::vector<PreTokenizerStep>* steps) {
  if (type == "Split") return AddSplit(part, steps);
  if (type == "ByteLevel") return AddByteLevel(part, steps);
  if (type == "Metaspace") return AddMetaspace(part, steps);
  if (type == "Digits") {
    MOED_ASSIGN_OR_RETURN(const bool individual, part["individual_digits"].BoolOr(false));
    steps->push_back(SplitStep{&IsNumeric, individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous});
  } else if (type == "Punctuation") {
    MOED_ASSIGN_OR_RETURN(const SplitBehavior behavior, ParseBehavior(part["behavior"], "Isolated"));
    steps->push_back(SplitStep{&IsPunctuation, behavior});
  } else if (type == "Whitespace") {
    // \w+|[^\w\s]+ in the regex engine of that step, whose \w has the join controls too.
    MOED_ASSIGN_OR_RETURN(auto regex, CompileShared(R"([\w\u200C\u200D]+|[^\w\u200C\u200D\s]+)"));
    steps->push_back(SplitStep{std::move(regex), SplitBehavior::kRemoved, /*invert=*/true});
  } else if (type == "WhitespaceSplit") {
    steps->push_back(SplitStep{&IsWhiteSpace, SplitBehavior::kRemoved});
  } else if (type == "CharDelimiterSplit") {
    MOED_ASSIGN_OR_RETURN(const char32_t delimiter, part["delimiter"].Character());
    std::string literal;
    AppendUtf8(delimiter, &literal);
    steps->push_back(SplitStep{std::move(literal), SplitBehavior::kRemoved});
  } else {
    return UnsupportedType(part, type);
  }
  return absl::OkStatus();
}

absl::StatusOr<ReplaceStep> ParseReplace(const JsonField& part) {
  MOED_ASSIGN_OR_RETURN(JsonPattern pattern, ParsePattern(part["pattern"]));
  MOED_ASSIGN_OR_RETURN(std::string content, part["content"].String());
  return ReplaceStep{std::move(pattern), std::move(content)};
}

absl::Status AddNormalizer(const JsonField& part, const std::string& type, std::vector<NormalizerStep>* steps) {
  if (type == "NFC") {
    steps->push_back(UnicodeStep{NormalizationForm::kNfc});
  } else if (type == "NFD") {
    steps->push_back(UnicodeStep{NormalizationForm::kNfd});
  } else if (type == "NFKC") {
    steps->push_back(UnicodeStep{NormalizationForm::kNfkc});
  } else if (type == "NFKD") {
    steps->push_back(UnicodeStep{NormalizationForm::kNfkd});
  } else if (type == "Prepend") {
    MOED_ASSIGN_OR_RETURN(std::string text, part["prepend"].String());
    steps->push_back(PrependStep{std::move(text)});
  } else if (type == "Replace") {
    MOED_ASSIGN_OR_RETURN(ReplaceStep step, ParseReplace(part));
    steps->push_back(std::move(step));
  } else if (type == "Strip") {
    MOED_ASSIGN_OR_RETURN(const bool left, part["strip_left"].Bool());
    MOED_ASSIGN_OR_RETURN(const bool right, part["strip_right"].Bool());
    steps->push_back(StripStep{left, right});
  } else if (type == "Lowercase") {
    steps->push_back(LowercaseStep{});
  } else {
    return UnsupportedType(part, type);
  }
  return absl::OkStatus();
}

absl::StatusOr<Decoder::TokenStrip> ParseStrip(const JsonField& part) {
  constexpr int64_t kMost = 1024;
  const auto count = [&](const JsonField& field) -> absl::StatusOr<int> {
    MOED_ASSIGN_OR_RETURN(const int64_t value, field.Integer());
    if (value < 0 || value > kMost) return field.Wrong(fmt::format("from 0 to {}", kMost));
    return static_cast<int>(value);
  };
  Decoder::TokenStrip strip;
  MOED_ASSIGN_OR_RETURN(strip.content, part["content"].Character());
  MOED_ASSIGN_OR_RETURN(strip.start, count(part["start"]));
  MOED_ASSIGN_OR_RETURN(strip.stop, count(part["stop"]));
  return strip;
}

// Puts the parts of a decoder in the order in which Decoder works: steps on single tokens, then bytes, then the whole
// text. Orders that this cannot express are refused.
class DecoderBuilder {
 public:
  absl::Status Add(const JsonField& part, const std::string& type) {
    if (type == "Fuse") {
      fused_ = true;
      return absl::OkStatus();
    }
    if (type == "Strip") return AddStrip(part);
    // What follows changes single tokens, which there are none of any more.
    if (fused_) return Order(part, type, "behind Fuse");
    if (type == "ByteLevel") {
      if (bytes_seen_ || !options_.metaspace.empty()) return Order(part, type, "behind other decoders");
      options_.bytes = Decoder::Bytes::kByteLevel;
      bytes_seen_ = fused_ = true;
      return absl::OkStatus();
    }
    if (bytes_seen_) return Order(part, type, "behind ByteFallback");
    if (type == "ByteFallback") {
      if (!options_.metaspace.empty()) return Order(part, type, "behind Metaspace");
      options_.bytes = Decoder::Bytes::kByteFallback;
      bytes_seen_ = true;
      return absl::OkStatus();
    }
    if (!options_.metaspace.empty()) return Order(part, type, "behind Metaspace");
    if (type == "Replace") {
      MOED_ASSIGN_OR_RETURN(ReplaceStep step, ParseReplace(part));
      options_.token_steps.emplace_back(std::move(step));
      return absl::OkStatus();
    }
    if (type == "Metaspace") {
      MOED_ASSIGN_OR_RETURN(const char32_t replacement, part["replacement"].Character());
      MOED_ASSIGN_OR_RETURN(const MetaspaceStep::Prepend prepend, ParsePrependScheme(part));
      AppendUtf8(replacement, &options_.metaspace);
      options_.first_drops_metaspace = prepend != MetaspaceStep::Prepend::kNever;
      return absl::OkStatus();
    }
    return UnsupportedType(part, type);
  }

  Decoder::Options Take() { return std::move(options_); }

 private:
  absl::Status AddStrip(const JsonField& part) {
    MOED_ASSIGN_OR_RETURN(const Decoder::TokenStrip strip, ParseStrip(part));
    if (fused_) {
      if (options_.text_strip.has_value()) return Order(part, "Strip", "twice behind Fuse");
      options_.text_strip = strip;
    } else {
      if (bytes_seen_ || !options_.metaspace.empty()) return Order(part, "Strip", "behind other decoders");
      options_.token_steps.emplace_back(strip);
    }
    return absl::OkStatus();
  }

  static absl::Status Order(const JsonField& part, std::string_view type, std::string_view where) {
    return Unimplemented("{}: {} {} is not supported", part.path(), type, where);
  }

  Decoder::Options options_;
  bool bytes_seen_ = false;
  bool fused_ = false;
};

}  // namespace

absl::Status ForEachPart(const JsonField& field, std::string_view member, PartVisitor visit) {
  if (!field.present()) return absl::OkStatus();
  return ForEachPartWithin(field, member, 0, visit);
}

absl::Status UnsupportedType(const JsonField& field, std::string_view type) {
  return Unimplemented("{} has the type {}, which is not supported", field.path(), type);
}

absl::StatusOr<JsonPattern> ParsePattern(const JsonField& field) {
  if (field["String"].present()) {
    MOED_ASSIGN_OR_RETURN(std::string literal, field["String"].String());
    if (literal.empty()) return field["String"].Wrong("a string that is not empty");
    return literal;
  }
  if (!field["Regex"].present()) return field.Wrong("an object with String or Regex");
  MOED_ASSIGN_OR_RETURN(const std::string pattern, field["Regex"].String());
  auto regex = CompileShared(pattern);
  if (!regex.ok()) return Annotate(regex.status(), field["Regex"].path());
  return *std::move(regex);
}

absl::StatusOr<Normalizer> ParseNormalizer(const JsonField& field) {
  std::vector<NormalizerStep> steps;
  MOED_RETURN_IF_ERROR(ForEachPart(field, "normalizers", [&](const JsonField& part, const std::string& type) {
    return AddNormalizer(part, type, &steps);
  }));
  return Normalizer(std::move(steps));
}

absl::StatusOr<PreTokenizer> ParsePreTokenizer(const JsonField& field) {
  std::vector<PreTokenizerStep> steps;
  MOED_RETURN_IF_ERROR(ForEachPart(field, "pretokenizers", [&](const JsonField& part, const std::string& type) {
    return AddPreTokenizer(part, type, &steps);
  }));
  return PreTokenizer(std::move(steps));
}

absl::StatusOr<Decoder::Options> ParseDecoder(const JsonField& field) {
  if (!field.present()) {
    Decoder::Options options;
    options.join_with_spaces = true;
    return options;
  }
  DecoderBuilder builder;
  MOED_RETURN_IF_ERROR(ForEachPart(
      field, "decoders", [&](const JsonField& part, const std::string& type) { return builder.Add(part, type); }));
  return builder.Take();
}

}  // namespace moed
