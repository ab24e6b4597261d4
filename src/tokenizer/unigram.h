// The unigram language model: a text's tokens are the most probable way to cut it (Kudo, 2018).
#ifndef MOED_TOKENIZER_UNIGRAM_H_
#define MOED_TOKENIZER_UNIGRAM_H_

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "tokenizer/string_matcher.h"
#include "tokenizer/vocabulary.h"

namespace moed {

// The working memory of encoding, kept from call to call; one for each thread that encodes at the same moment.
struct UnigramScratch {
  struct Node {     // a place between two bytes
    double score;   // of the best way to it
    int32_t begin;  // where the last token of that way begins; -1: there is no way yet
    int32_t id;     // of that token
  };
  std::vector<Node> nodes;
  std::vector<int32_t> cuts;  // ends of tokens, from the text's end to its beginning
};

// Finds the tokens whose log-probabilities have the greatest sum (Viterbi). Where no token is one whole character, that
// character is unknown, at 10 below the least probable token; neighbouring unknown characters make one token.
// Immutable; any number of threads may encode, each with its scratch.
class Unigram {
 public:
  struct Options {
    int32_t unknown = 0;
    // An unknown run becomes the tokens <0x00> … <0xFF> of its bytes, where there are tokens for all of them.
    bool byte_fallback = false;
  };

  // Longer tokens are refused: every place of a text looks that far ahead.
  static constexpr size_t kMaxTokenBytes = 1024;

  Unigram() = default;

  // `scores`: natural logarithms of the tokens' probabilities, [vocabulary.size()].
  Unigram(const Vocabulary& vocabulary, std::vector<double> scores, const Options& options);

  // Appends the tokens of `text` (valid UTF-8).
  void Encode(std::string_view text, UnigramScratch& scratch, std::vector<int32_t>* out) const;

 private:
  void FindBestWay(std::string_view text, std::vector<UnigramScratch::Node>* nodes) const;
  void AppendUnknown(std::string_view run, std::vector<int32_t>* out) const;

  Options options_;
  StringMatcher tokens_;  // values are ids
  std::vector<double> scores_;
  double unknown_score_ = 0;
  std::array<int32_t, 256> byte_ids_{};  // of <0xHH>; -1 where there is none
};

}  // namespace moed

#endif  // MOED_TOKENIZER_UNIGRAM_H_
