// Detokenisation of a sequence that is still growing.
#ifndef MOED_TOKENIZER_DETOKENIZER_H_
#define MOED_TOKENIZER_DETOKENIZER_H_

#include <cstdint>
#include <memory>
#include <string>

#include "tokenizer/tokenizer.h"

namespace moed {

struct DecoderState;

// Turns one sequence's tokens into text as they come. All that Append() and Flush() return, put together, is what
// Tokenizer::Decode() makes of all the ids; each piece is whole characters of valid UTF-8. Bytes wait until their
// character is complete (three at most), or known to be none and then become U+FFFD.
//
// Not thread-safe; the tokenizer must outlive it.
class IncrementalDetokenizer {
 public:
  explicit IncrementalDetokenizer(const Tokenizer& tokenizer, const DecodeOptions& options = {});

  // For what continues another text, such as a prompt: the space that begins its first word is a space, which at the
  // beginning of a text of SentencePiece's would be none.
  static IncrementalDetokenizer Continuing(const Tokenizer& tokenizer, const DecodeOptions& options = {});

  ~IncrementalDetokenizer();
  IncrementalDetokenizer(IncrementalDetokenizer&&) noexcept;
  IncrementalDetokenizer& operator=(IncrementalDetokenizer&&) noexcept;

  // The text that is certain now and was not before: perhaps none. An id outside of the vocabulary (the padding of a
  // model's logits) adds nothing.
  std::string Append(int32_t id);

  // What is left when no more tokens come. Afterwards a new sequence may begin.
  std::string Flush();

 private:
  const Tokenizer* tokenizer_;
  DecodeOptions options_;
  std::unique_ptr<DecoderState> state_;
};

}  // namespace moed

#endif  // MOED_TOKENIZER_DETOKENIZER_H_
