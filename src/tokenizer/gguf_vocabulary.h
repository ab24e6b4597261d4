// The vocabulary that a GGUF file carries in its metadata ("tokenizer.ggml.*"), as a tokenizer.
#ifndef MOED_TOKENIZER_GGUF_VOCABULARY_H_
#define MOED_TOKENIZER_GGUF_VOCABULARY_H_

#include <absl/status/statusor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace moed {

// Views are borrowed for the call.
struct GgufVocabulary {
  std::string_view model;                // "gpt2": byte-level BPE with merges; "llama": SentencePiece's BPE with scores
  std::string_view pre;                  // gpt2: the name of the pre-tokenizer, "qwen2"
  std::vector<std::string_view> tokens;  // by id
  std::vector<double> scores;            // llama: [tokens]
  std::vector<int64_t> types;            // [tokens], SentencePiece's numbers; empty: all normal
  std::vector<std::string_view> merges;  // gpt2: "a b", the first goes first
  std::optional<int64_t> bos_id, eos_id, unknown_id;
  std::optional<bool> add_bos, add_eos, add_space_prefix;
};

// The existing tokenizers over what they would read from tokenizer.json or tokenizer.model. UNIMPLEMENTED names a model
// or a pre-tokenizer that is not known; INVALID_ARGUMENT what does not fit together.
absl::StatusOr<std::unique_ptr<Tokenizer>> MakeTokenizer(const GgufVocabulary& vocabulary);

}  // namespace moed

#endif  // MOED_TOKENIZER_GGUF_VOCABULARY_H_
