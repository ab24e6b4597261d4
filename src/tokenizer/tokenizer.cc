#include "tokenizer/tokenizer.h"

#include <absl/synchronization/mutex.h>

#include <fstream>
#include <utility>

#include "base/status.h"
#include "base/utf8.h"
#include "tokenizer/tokenizer_parts.h"

namespace moed {

struct EncodeScratch {
  RegexScratch regex;
  NormalizerScratch normalizer;
  PreTokenizerScratch pre_tokenizer;
  BpeScratch bpe;
  UnigramScratch unigram;
};

// Working memory that outlives a call, so that its cache of words does too. As many as ever encoded at once.
class Tokenizer::ScratchPool {
 public:
  std::unique_ptr<EncodeScratch> Take() {
    {
      absl::MutexLock lock(&mutex_);
      if (!free_.empty()) {
        auto scratch = std::move(free_.back());
        free_.pop_back();
        return scratch;
      }
    }
    return std::make_unique<EncodeScratch>();
  }

  void Return(std::unique_ptr<EncodeScratch> scratch) {
    // The memory of an uncommonly long text goes back.
    if (scratch->bpe.symbols.capacity() + scratch->unigram.nodes.capacity() > kLargestKept) return;
    absl::MutexLock lock(&mutex_);
    free_.push_back(std::move(scratch));
  }

 private:
  static constexpr size_t kLargestKept = 1 << 18;

  absl::Mutex mutex_;
  std::vector<std::unique_ptr<EncodeScratch>> free_ ABSL_GUARDED_BY(mutex_);
};

namespace {

constexpr std::uintmax_t kMaxFileBytes = std::uintmax_t{1} << 30;

absl::StatusOr<std::string> ReadFile(const std::filesystem::path& path) {
  std::error_code error;
  const std::uintmax_t size = std::filesystem::file_size(path, error);
  if (error) return NotFound("{}: {}", path.string(), error.message());
  if (size > kMaxFileBytes) return InvalidArgument("{} has {} bytes; at most 1 GiB is read", path.string(), size);
  std::string content(size, '\0');
  std::ifstream stream(path, std::ios::binary);
  if (!stream.read(content.data(), static_cast<std::streamsize>(size))) {
    return DataLoss("{} cannot be read", path.string());
  }
  return content;
}

absl::StatusOr<TokenizerConfig> LoadConfig(const std::filesystem::path& model_dir) {
  TokenizerConfig config;
  const std::filesystem::path config_path = model_dir / "tokenizer_config.json";
  if (std::filesystem::exists(config_path)) {
    MOED_ASSIGN_OR_RETURN(const std::string json, ReadFile(config_path));
    auto parsed = ParseTokenizerConfig(json);
    if (!parsed.ok()) return Annotate(parsed.status(), config_path.string());
    config = *std::move(parsed);
  }
  const std::filesystem::path map_path = model_dir / "special_tokens_map.json";
  if (std::filesystem::exists(map_path)) {
    MOED_ASSIGN_OR_RETURN(const std::string json, ReadFile(map_path));
    MOED_RETURN_IF_ERROR(Annotate(AddSpecialTokensMap(json, &config), map_path.string()));
  }
  return config;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::filesystem::path& model_dir) {
  MOED_ASSIGN_OR_RETURN(const TokenizerConfig config, LoadConfig(model_dir));
  for (const auto& [name, parse] :
       {std::pair{"tokenizer.json", &ParseTokenizerJson}, std::pair{"tokenizer.model", &ParseSentencePiece},
        std::pair{"tiktoken.model", &ParseTiktoken}}) {
    const std::filesystem::path path = model_dir / name;
    if (!std::filesystem::exists(path)) continue;
    MOED_ASSIGN_OR_RETURN(const std::string content, ReadFile(path));
    auto parts = parse(content, config);
    if (!parts.ok()) return Annotate(parts.status(), path.string());
    return std::unique_ptr<Tokenizer>(new Tokenizer(*std::move(parts)));
  }
  return NotFound("{} has no tokenizer.json, tokenizer.model or tiktoken.model", model_dir.string());
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromJson(std::string_view json, std::string_view config_json) {
  MOED_ASSIGN_OR_RETURN(const TokenizerConfig config, ParseTokenizerConfig(config_json));
  MOED_ASSIGN_OR_RETURN(auto parts, ParseTokenizerJson(json, config));
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(parts)));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromSentencePiece(std::string_view model,
                                                                        std::string_view config_json) {
  MOED_ASSIGN_OR_RETURN(const TokenizerConfig config, ParseTokenizerConfig(config_json));
  MOED_ASSIGN_OR_RETURN(auto parts, ParseSentencePiece(model, config));
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(parts)));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromTiktoken(std::string_view file,
                                                                   std::string_view config_json) {
  MOED_ASSIGN_OR_RETURN(const TokenizerConfig config, ParseTokenizerConfig(config_json));
  MOED_ASSIGN_OR_RETURN(auto parts, ParseTiktoken(file, config));
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(parts)));
}

Tokenizer::Tokenizer(std::unique_ptr<const TokenizerParts> parts)
    : parts_(std::move(parts)), scratch_(std::make_unique<ScratchPool>()) {}

Tokenizer::~Tokenizer() = default;

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(std::string_view text, const EncodeOptions& options) const {
  if (text.size() > INT32_MAX) {
    return InvalidArgument("the text has {} bytes; at most {} can be encoded", text.size(), INT32_MAX);
  }
  const size_t invalid = FindInvalidUtf8(text);
  if (invalid != std::string_view::npos) {
    return InvalidArgument("the text is not UTF-8: byte {} is 0x{:02X}", invalid,
                           static_cast<unsigned char>(text[invalid]));
  }
  std::vector<int32_t> ids;
  if (options.add_special_tokens) ids = parts_->prefix;
  std::unique_ptr<EncodeScratch> scratch = scratch_->Take();
  const absl::Status status = EncodeText(text, options.parse_special, *scratch, &ids);
  scratch_->Return(std::move(scratch));
  MOED_RETURN_IF_ERROR(status);
  if (options.add_special_tokens) ids.insert(ids.end(), parts_->suffix.begin(), parts_->suffix.end());
  return ids;
}

absl::Status Tokenizer::EncodeText(std::string_view text, bool parse_special, EncodeScratch& scratch,
                                   std::vector<int32_t>* ids) const {
  absl::Status status;
  const auto on_token = [&](int32_t id) { ids->push_back(id); };
  const auto on_raw_text = [&](std::string_view raw) {
    if (!status.ok()) return;
    const bool raw_at_start = raw.data() == text.data();
    const auto normalized = parts_->normalizer.Apply(raw, scratch.regex, scratch.normalizer);
    if (!normalized.ok()) {
      status = normalized.status();
      return;
    }
    parts_->added_tokens.CutNormalized(
        *normalized, parse_special,
        [&](std::string_view piece) {
          const bool at_start = raw_at_start && piece.data() == normalized->data();
          if (status.ok()) status = EncodeWords(piece, at_start, scratch, ids);
        },
        on_token);
  };
  parts_->added_tokens.CutRaw(text, parse_special, on_raw_text, on_token);
  return status;
}

absl::Status Tokenizer::EncodeWords(std::string_view text, bool at_start, EncodeScratch& scratch,
                                    std::vector<int32_t>* ids) const {
  if (const auto* bpe = std::get_if<Bpe>(&parts_->model)) {
    return parts_->pre_tokenizer.Apply(text, at_start, scratch.regex, scratch.pre_tokenizer,
                                       [&](std::string_view word) { bpe->Encode(word, scratch.bpe, ids); });
  }
  const auto& unigram = std::get<Unigram>(parts_->model);
  return parts_->pre_tokenizer.Apply(text, at_start, scratch.regex, scratch.pre_tokenizer,
                                     [&](std::string_view word) { unigram.Encode(word, scratch.unigram, ids); });
}

absl::StatusOr<std::string> Tokenizer::Decode(absl::Span<const int32_t> ids, const DecodeOptions& options) const {
  std::string text;
  DecoderState state;
  for (size_t i = 0; i < ids.size(); ++i) {
    const int32_t id = ids[i];
    if (id < 0 || id >= vocab_size()) {
      return InvalidArgument("ids[{}] is {}; it must be in [0, {})", i, id, vocab_size());
    }
    if (options.skip_special_tokens && parts_->is_special[id]) continue;
    decoder().Push(id, &state, &text);
  }
  decoder().Finish(&state, &text);
  return text;
}

std::string_view Tokenizer::TokenBytes(int32_t id) const {
  return parts_->vocabulary.Contains(id) ? parts_->decoder.TokenBytes(id) : std::string_view();
}

std::string_view Tokenizer::TokenContent(int32_t id) const {
  return parts_->vocabulary.Contains(id) ? parts_->vocabulary.Content(id) : std::string_view();
}

std::optional<int32_t> Tokenizer::IdOf(std::string_view content) const { return parts_->vocabulary.Find(content); }

int32_t Tokenizer::vocab_size() const { return parts_->vocabulary.size(); }

bool Tokenizer::IsSpecial(int32_t id) const { return id >= 0 && id < vocab_size() && parts_->is_special[id]; }

std::optional<int32_t> Tokenizer::bos_id() const { return parts_->bos_id; }
std::optional<int32_t> Tokenizer::eos_id() const { return parts_->eos_id; }

const Decoder& Tokenizer::decoder() const { return parts_->decoder; }

}  // namespace moed
