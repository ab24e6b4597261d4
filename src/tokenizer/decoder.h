// From tokens back to text, one token at a time.
#ifndef MOED_TOKENIZER_DECODER_H_
#define MOED_TOKENIZER_DECODER_H_

#include <absl/status/statusor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "tokenizer/normalizer.h"
#include "tokenizer/vocabulary.h"

namespace moed {

// What is known of a text that is being decoded; begins empty.
struct DecoderState {
  std::string bytes;        // of a character that is not whole yet
  bool first_token = true;  // none has been pushed
  bool wrote_text = false;  // some text came of the tokens pushed
  int stripped_left = 0;    // characters taken from the beginning
  bool left_done = false;   // the beginning is over
  std::string held_right;   // would be stripped if the text ended here
};

// Immutable. What a token adds never changes what came before it, so that decoding token by token and decoding all at
// once are the same.
//
// Bytes that are not UTF-8 become U+FFFD: in the byte-level alphabet one for each maximal subpart (as Unicode
// recommends and Rust and Python do), with byte fallback one for each byte (as SentencePiece does; the Hugging Face
// package would also drop the valid characters of the same run of byte tokens). An added token is written as it stands
// in the file, also where the normalizer would change it.
class Decoder {
 public:
  enum class Bytes {
    kNone,
    kByteLevel,     // tokens are written in the byte-level alphabet
    kByteFallback,  // tokens like <0x0A> are bytes
  };
  struct TokenStrip {  // characters taken from each token
    char32_t content;
    int start, stop;
  };
  struct Options {
    std::vector<std::variant<ReplaceStep, TokenStrip>> token_steps;  // on each token, in order
    Bytes bytes = Bytes::kNone;
    std::string metaspace;                 // becomes a space; "": none does
    bool first_drops_metaspace = false;    // but vanishes from the first token
    bool drop_dummy_prefix = false;        // SentencePiece: from where the text begins, one metaspace vanishes
    std::optional<TokenStrip> text_strip;  // characters taken from the whole text
    bool join_with_spaces = false;
  };

  Decoder() = default;

  // `vocabulary` outlives this.
  static absl::StatusOr<Decoder> Create(Options options, const Vocabulary& vocabulary);

  // What token `id` stands for in the midst of a text: bytes, not always whole characters.
  std::string_view TokenBytes(int32_t id) const {
    return std::string_view(texts_).substr(offsets_[id], offsets_[id + 1] - offsets_[id]);
  }

  // Appends to `out` the text that is certain once token `id` has come. A hole of the vocabulary adds nothing.
  void Push(int32_t id, DecoderState* state, std::string* out) const;

  // Appends what is left at the end.
  void Finish(DecoderState* state, std::string* out) const;

 private:
  void PushText(std::string_view text, DecoderState* state, std::string* out) const;
  void PushByteLevel(std::string_view bytes, DecoderState* state, std::string* out) const;
  void PushFallbackByte(char byte, DecoderState* state, std::string* out) const;
  void FlushFallbackBytes(DecoderState* state, std::string* out) const;

  Options options_;
  const Vocabulary* vocabulary_ = nullptr;
  std::string texts_;              // of all tokens, one behind the other
  std::vector<uint32_t> offsets_;  // [vocabulary size + 1]
  std::vector<bool> is_byte_;      // [vocabulary size], for kByteFallback
};

}  // namespace moed

#endif  // MOED_TOKENIZER_DECODER_H_
