// Text to token ids and back, as the model's own tokenizer files say.
#ifndef MOED_TOKENIZER_TOKENIZER_H_
#define MOED_TOKENIZER_TOKENIZER_H_

#include <absl/status/statusor.h>
#include <absl/types/span.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace moed {

class Decoder;
struct EncodeScratch;
struct TokenizerParts;

struct EncodeOptions {
  // Puts what the model expects around a text (such as <s>), as the tokenizer's post-processor and add_bos_token,
  // add_eos_token of tokenizer_config.json say.
  bool add_special_tokens = true;
  // Special tokens written in the text become those tokens; otherwise they are text like any other. A server that
  // renders chat templates needs it; text of strangers is safer without.
  bool parse_special = true;
};

struct DecodeOptions {
  bool skip_special_tokens = true;
};

// Reads the `tokenizer.json` of Hugging Face's tokenizers package (byte-pair encoding, byte-level or in the manner of
// SentencePiece, and unigram models), SentencePiece's `tokenizer.model` (byte-pair encoding) and the `tiktoken.model`
// of Kimi-K2, and gives the same ids as these packages. Truncation and padding, which such files can also ask for, are
// left to the caller.
//
// Immutable and thread-safe: any number of threads may encode and decode at once.
class Tokenizer {
 public:
  // Loads tokenizer.json from a model's folder, else tokenizer.model, else tiktoken.model, together with
  // tokenizer_config.json and special_tokens_map.json where they exist. NOT_FOUND when there is none; INVALID_ARGUMENT
  // that names file and field when one is malformed; UNIMPLEMENTED that names the part that is not supported.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const std::filesystem::path& model_dir);

  // The same from the contents of one of the three, and of tokenizer_config.json ("": none).
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromJson(std::string_view json, std::string_view config_json = "");
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromSentencePiece(std::string_view model,
                                                                      std::string_view config_json = "");
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromTiktoken(std::string_view file, std::string_view config_json);

  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // INVALID_ARGUMENT, naming the byte, when `text` is not UTF-8; RESOURCE_EXHAUSTED when a regular expression of the
  // tokenizer gives up on it. Time grows as n log n at most.
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text, const EncodeOptions& options = {}) const;

  // Always valid UTF-8: bytes that form no character become U+FFFD. INVALID_ARGUMENT, naming index and value, when an
  // id is not in [0, vocab_size()).
  absl::StatusOr<std::string> Decode(absl::Span<const int32_t> ids, const DecodeOptions& options = {}) const;

  // The bytes for which a token stands in the midst of a text: perhaps a part of a character only. Empty for ids that
  // are not in use, and outside of the vocabulary.
  std::string_view TokenBytes(int32_t id) const;

  // The token as its file writes it ("Ġthe", "▁the", "<0x0A>"); empty as above.
  std::string_view TokenContent(int32_t id) const;

  // Of a token as its file writes it.
  std::optional<int32_t> IdOf(std::string_view content) const;

  // The largest id plus one. The model's logits may be wider, padded to a round number.
  int32_t vocab_size() const;

  // Whether the token is control of the model, not text.
  bool IsSpecial(int32_t id) const;

  std::optional<int32_t> bos_id() const;
  std::optional<int32_t> eos_id() const;

 private:
  friend class IncrementalDetokenizer;
  class ScratchPool;

  explicit Tokenizer(std::unique_ptr<const TokenizerParts> parts);
  absl::Status EncodeText(std::string_view text, bool parse_special, EncodeScratch& scratch,
                          std::vector<int32_t>* ids) const;
  absl::Status EncodeWords(std::string_view text, bool at_start, EncodeScratch& scratch,
                           std::vector<int32_t>* ids) const;
  const Decoder& decoder() const;

  std::unique_ptr<const TokenizerParts> parts_;
  std::unique_ptr<ScratchPool> scratch_;
};

}  // namespace moed

#endif  // MOED_TOKENIZER_TOKENIZER_H_
