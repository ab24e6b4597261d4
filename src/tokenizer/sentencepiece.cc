// SentencePiece's tokenizer.model, brought to the same parts as tokenizer.json.
#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <utility>

#include "base/status.h"
#include "base/utf8.h"
#include "tokenizer/sentencepiece_model.pb.h"
#include "tokenizer/tokenizer_parts.h"

namespace moed {
namespace {

using sentencepiece::Model;
using sentencepiece::NormalizerSpec;
using sentencepiece::TrainerSpec;
using Piece = Model::Piece;

constexpr std::string_view kSpaceSymbol = "\xE2\x96\x81";  // U+2581
// Every way to cut a piece in two is a candidate for a merge, so its length counts twice.
constexpr size_t kMaxPieceBytes = 1024;
constexpr size_t kMaxPieceBytesInAll = size_t{64} << 20;

absl::Status CheckSupported(const Model& model) {
  const TrainerSpec& trainer = model.trainer_spec();
  if (trainer.model_type() != TrainerSpec::BPE) {
    return Unimplemented("trainer_spec.model_type is {}; only BPE is supported",
                         TrainerSpec::ModelType_Name(trainer.model_type()));
  }
  if (trainer.treat_whitespace_as_suffix()) {
    return Unimplemented("trainer_spec.treat_whitespace_as_suffix is not supported");
  }
  if (!model.normalizer_spec().precompiled_charsmap().empty()) {
    return Unimplemented("normalizer_spec '{}' has a precompiled_charsmap; only the identity is supported",
                         model.normalizer_spec().name());
  }
  return absl::OkStatus();
}

absl::Status CheckPiece(int index, const Piece& piece) {
  if (piece.piece().empty()) return InvalidArgument("pieces[{}] is empty", index);
  if (piece.piece().size() > kMaxPieceBytes) {
    return InvalidArgument("pieces[{}] is {} bytes long; at most {} are allowed", index, piece.piece().size(),
                           kMaxPieceBytes);
  }
  if (FindInvalidUtf8(piece.piece()) != std::string_view::npos) {
    return InvalidArgument("pieces[{}] is not UTF-8", index);
  }
  if (!std::isfinite(piece.score())) return InvalidArgument("pieces[{}].score is {}", index, piece.score());
  if (piece.type() == Piece::UNUSED) {
    return Unimplemented("pieces[{}] ('{}') is of the type UNUSED, which is not supported", index, piece.piece());
  }
  return absl::OkStatus();
}

// Finds the merges: SentencePiece merges the two neighbours whose concatenation is the piece of the highest score, the
// leftmost among equals. So a merge's rank is the place of its score among all scores.
class MergeFinder {
 public:
  MergeFinder(const Model& model, const Vocabulary& vocabulary) : model_(model), vocabulary_(vocabulary) {
    std::vector<float> scores;
    for (const Piece& piece : model.pieces()) {
      if (Merges(piece)) scores.push_back(piece.score());
    }
    std::sort(scores.begin(), scores.end(), std::greater<>());
    scores.erase(std::unique(scores.begin(), scores.end()), scores.end());
    scores_ = std::move(scores);
  }

  void Run() {
    for (int id = 0; id < model_.pieces_size(); ++id) {
      const Piece& piece = model_.pieces(id);
      if (!Merges(piece)) continue;
      const std::string_view text = piece.piece();
      const auto rank = static_cast<uint32_t>(
          std::lower_bound(scores_.begin(), scores_.end(), piece.score(), std::greater<>()) - scores_.begin());
      for (size_t cut = Utf8Length(text[0]); cut < text.size(); cut += Utf8Length(text[cut])) {
        const int32_t left = Symbol(text.substr(0, cut)), right = Symbol(text.substr(cut));
        if (left >= 0 && right >= 0) merges_.push_back({left, right, rank, id});
      }
    }
  }

  const std::vector<Merge>& merges() const { return merges_; }
  // Characters that are part of a piece but none themselves; numbered from the vocabulary's size on.
  const std::vector<char32_t>& virtual_symbols() const { return virtual_symbols_; }

 private:
  static bool Merges(const Piece& piece) { return piece.type() == Piece::NORMAL; }

  // The symbol that `text` is when it comes up in merging: a piece, or any single character. -1 if it never does.
  int32_t Symbol(std::string_view text) {
    const std::optional<int32_t> id = vocabulary_.Find(text);
    if (id.has_value() && Merges(model_.pieces(*id))) return *id;
    if (static_cast<size_t>(Utf8Length(text[0])) != text.size() || id.has_value()) return -1;
    size_t position = 0;
    const char32_t c = DecodeUtf8(text, position);
    const auto [found, is_new] =
        virtual_ids_.emplace(c, vocabulary_.size() + static_cast<int32_t>(virtual_symbols_.size()));
    if (is_new) virtual_symbols_.push_back(c);
    return found->second;
  }

  const Model& model_;
  const Vocabulary& vocabulary_;
  std::vector<float> scores_;  // descending, each once
  std::vector<Merge> merges_;
  std::vector<char32_t> virtual_symbols_;
  std::map<char32_t, int32_t> virtual_ids_;
};

// What is found in a text as it stands: control pieces (where the caller asks for them) and user-defined ones.
std::vector<AddedToken> AddedPieces(const Model& model) {
  std::vector<AddedToken> tokens;
  for (int id = 0; id < model.pieces_size(); ++id) {
    const Piece& piece = model.pieces(id);
    AddedToken token;
    token.content = piece.piece();
    token.id = id;
    switch (piece.type()) {
      case Piece::CONTROL:
      case Piece::UNKNOWN:
        token.special = true;
        tokens.push_back(std::move(token));
        break;
      case Piece::USER_DEFINED:
        token.normalized = true;
        tokens.push_back(std::move(token));
        break;
      default:
        break;
    }
  }
  return tokens;
}

std::optional<int32_t> PieceOrNone(int32_t id, const Vocabulary& vocabulary) {
  return vocabulary.Contains(id) ? std::optional<int32_t>(id) : std::nullopt;
}

Decoder::Options DecoderOptions(const Model& model) {
  Decoder::Options options;
  options.bytes = model.trainer_spec().byte_fallback() ? Decoder::Bytes::kByteFallback : Decoder::Bytes::kNone;
  options.metaspace = kSpaceSymbol;
  const NormalizerSpec& normalizer = model.normalizer_spec();
  options.drop_dummy_prefix = normalizer.add_dummy_prefix() || normalizer.remove_extra_whitespaces();
  return options;
}

}  // namespace

absl::StatusOr<std::unique_ptr<TokenizerParts>> ParseSentencePiece(std::string_view bytes,
                                                                   const TokenizerConfig& config) {
  Model model;
  if (bytes.size() > INT32_MAX || !model.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return DataLoss("it is not a SentencePiece model, or cut off");
  }
  if (model.pieces_size() == 0) return InvalidArgument("there are no pieces");
  MOED_RETURN_IF_ERROR(CheckSupported(model));

  auto parts = std::make_unique<TokenizerParts>();
  parts->vocabulary = Vocabulary(model.pieces_size() + config.added_tokens.size());
  size_t bytes_in_all = 0;
  for (int id = 0; id < model.pieces_size(); ++id) {
    MOED_RETURN_IF_ERROR(CheckPiece(id, model.pieces(id)));
    MOED_RETURN_IF_ERROR(Annotate(parts->vocabulary.Add(model.pieces(id).piece(), id), "pieces"));
    bytes_in_all += model.pieces(id).piece().size();
  }
  if (bytes_in_all > kMaxPieceBytesInAll) return InvalidArgument("the pieces are {} bytes long", bytes_in_all);

  const TrainerSpec& trainer = model.trainer_spec();
  Bpe::Options options;
  options.byte_fallback = trainer.byte_fallback();
  options.unknown = PieceOrNone(trainer.unk_id(), parts->vocabulary);
  options.fuse_unknown = true;
  options.word_start = U'\u2581';
  MergeFinder merges(model, parts->vocabulary);
  merges.Run();
  parts->model = Bpe(parts->vocabulary, merges.merges(), options, merges.virtual_symbols());

  const NormalizerSpec& normalizer = model.normalizer_spec();
  parts->normalizer = Normalizer({SentencePieceStep{
      normalizer.add_dummy_prefix(), normalizer.remove_extra_whitespaces(), normalizer.escape_whitespaces()}});
  std::vector<AddedToken> added = AddedPieces(model);
  MergeAddedTokens(config, &added);
  // Pieces are written as the normalized text is, with their spaces escaped.
  const auto as_written = [](std::string_view content) { return std::string(content); };
  MOED_RETURN_IF_ERROR(RegisterAddedTokens(added, as_written, parts.get()));
  parts->bos_id = PieceOrNone(trainer.bos_id(), parts->vocabulary);
  parts->eos_id = PieceOrNone(trainer.eos_id(), parts->vocabulary);
  TokenizerConfig with_default = config;
  // What SentencePiece leaves to its caller, the models that use such files expect.
  if (!with_default.add_bos_token.has_value() && parts->bos_id.has_value()) with_default.add_bos_token = true;
  MOED_RETURN_IF_ERROR(ApplySpecialTokens(with_default, parts.get()));
  MOED_ASSIGN_OR_RETURN(parts->decoder, Decoder::Create(DecoderOptions(model), parts->vocabulary));
  return parts;
}

}  // namespace moed
