// Byte-pair encoding: the model behind nearly every tokenizer of today's language models.
#ifndef MOED_TOKENIZER_BPE_H_
#define MOED_TOKENIZER_BPE_H_

#include <absl/container/flat_hash_map.h>
#include <absl/status/status.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "tokenizer/merge_table.h"
#include "tokenizer/vocabulary.h"
#include "tokenizer/word_cache.h"

namespace moed {

// The working memory of encoding, kept from call to call; one for each thread that encodes at the same moment, and
// always for the same Bpe.
struct BpeScratch {
  struct Symbol {
    int32_t id;
    int32_t previous, next;  // indices, -1 at the ends
    uint32_t rank;           // of the merge with `next`, or kNoRank
    int32_t merged;          // what that merge makes
  };

  WordCache cache;
  std::vector<int32_t> ids;
  std::vector<Symbol> symbols;
  std::vector<uint64_t> heap;
};

// Splits a word into its smallest symbols, then merges neighbours, lowest rank first and leftmost among equals, until
// no pair can be merged (Sennrich et al., 2016). Immutable; any number of threads may encode, each with its scratch.
class Bpe {
 public:
  struct Options {
    // Words come as raw bytes and tokens are written in the byte-level alphabet; otherwise both are UTF-8.
    bool byte_level = false;
    // A character without a token becomes the tokens <0x00> … <0xFF> of its bytes, where all of them exist.
    bool byte_fallback = false;
    // What a character becomes without either; nothing at all when there is no such token.
    std::optional<int32_t> unknown;
    // Neighbouring unknown characters make one token.
    bool fuse_unknown = false;
    // A word that is a token as a whole is taken so, whatever the merges say.
    bool ignore_merges = false;
    // When no token has this character behind another one, texts are cut in front of it (not inside a run of it):
    // no merge crosses there, so the result is the same, and shorter words are found in the cache. 0: never.
    char32_t word_start = 0;
  };

  Bpe() = default;

  // `vocabulary` holds the model's own tokens, without added ones, and need not outlive this. The symbols of `merges`
  // are ids of it, or virtual ones that `virtual_symbols` lists.
  //
  // A virtual symbol is a character that is no token but a part of one; its id is vocabulary.size() plus its index.
  // Left alone at the end, it is unknown.
  Bpe(const Vocabulary& vocabulary, const std::vector<Merge>& merges, const Options& options,
      const std::vector<char32_t>& virtual_symbols = {});

  // Appends the tokens of `text`: one word when byte_level, else valid UTF-8 of any length.
  void Encode(std::string_view text, BpeScratch& scratch, std::vector<int32_t>* out) const;

 private:
  void EncodeWord(std::string_view word, BpeScratch& scratch, std::vector<int32_t>* out) const;
  void Split(std::string_view word, std::vector<int32_t>* ids) const;
  void AppendUnknown(std::string_view character, std::vector<int32_t>* ids) const;
  void MergeFew(BpeScratch& scratch) const;
  void MergeMany(BpeScratch& scratch) const;
  void Emit(const std::vector<int32_t>& ids, std::vector<int32_t>* out) const;
  int32_t FindCharacter(char32_t c) const;

  Options options_;
  int32_t vocab_size_ = 0;
  bool cut_words_ = false;  // word_start may be used

  MergeTable merges_;
  std::array<int32_t, 256> byte_ids_;  // of single bytes (byte level) or of <0xHH>; -1 where there is none
  std::vector<int32_t> characters_;    // [0x10000]: the Basic Multilingual Plane; -1 where there is none
  absl::flat_hash_map<char32_t, int32_t> high_characters_;
  std::vector<std::vector<int32_t>> virtual_symbols_;  // what each becomes at the end

  std::vector<char> whole_word_bytes_;  // the keys of whole_words_
  TokenIndex whole_words_;              // for ignore_merges
};

}  // namespace moed

#endif  // MOED_TOKENIZER_BPE_H_
