// A bounded memory of short words and the tokens that they were found to be.
#ifndef MOED_TOKENIZER_WORD_CACHE_H_
#define MOED_TOKENIZER_WORD_CACHE_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

namespace moed {

// Text repeats few words often, so most of encoding is looking up here. One entry is one cache line, found by the
// word's hash; a newer word takes the place of the older. Not thread-safe: one for each thread that encodes.
class WordCache {
 public:
  static constexpr size_t kMaxWordBytes = 22;
  static constexpr size_t kMaxTokens = 10;

  // Appends the tokens of `word` to `out` and returns true, or returns false.
  bool Lookup(std::string_view word, uint64_t hash, std::vector<int32_t>* out) const {
    const Entry& entry = entries_[hash % kNumEntries];
    if (entry.word_bytes != word.size() || std::memcmp(entry.word, word.data(), word.size()) != 0) return false;
    out->insert(out->end(), entry.tokens, entry.tokens + entry.num_tokens);
    return true;
  }

  // `word` is not empty and of at most kMaxWordBytes.
  void Insert(std::string_view word, uint64_t hash, const int32_t* tokens, size_t num_tokens) {
    if (num_tokens > kMaxTokens) return;
    Entry& entry = entries_[hash % kNumEntries];
    entry.word_bytes = static_cast<uint8_t>(word.size());
    entry.num_tokens = static_cast<uint8_t>(num_tokens);
    std::memcpy(entry.word, word.data(), word.size());
    std::copy_n(tokens, num_tokens, entry.tokens);  // of a word that nothing is made of, there are none
  }

  static uint64_t Hash(std::string_view word) {
    constexpr uint64_t kPrime = 0x9E3779B97F4A7C15u;
    uint64_t hash = word.size() * kPrime;
    const char* bytes = word.data();
    size_t left = word.size();
    const auto mix = [&](uint64_t value) {
      hash = (hash ^ value) * kPrime;
      hash ^= hash >> 32;
    };
    for (; left >= 8; bytes += 8, left -= 8) {
      uint64_t value;
      std::memcpy(&value, bytes, 8);
      mix(value);
    }
    uint64_t tail = 0;
    std::memcpy(&tail, bytes, left);
    mix(tail);
    return hash;
  }

 private:
  static constexpr size_t kNumEntries = 1 << 14;
  struct alignas(64) Entry {
    uint8_t word_bytes = 0;  // 0: empty
    uint8_t num_tokens = 0;
    char word[kMaxWordBytes];
    int32_t tokens[kMaxTokens];
  };
  static_assert(sizeof(Entry) == 64);

  std::vector<Entry> entries_ = std::vector<Entry>(kNumEntries);
};

}  // namespace moed

#endif  // MOED_TOKENIZER_WORD_CACHE_H_
