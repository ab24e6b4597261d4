// Many strings sought in a text at once.
#ifndef MOED_TOKENIZER_STRING_MATCHER_H_
#define MOED_TOKENIZER_STRING_MATCHER_H_

#include <absl/container/flat_hash_map.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace moed {

// A set of strings, each with a value that is not negative. Once filled, any number of threads may ask.
class StringMatcher {
 public:
  struct Match {
    size_t begin, end;
    int32_t value;
  };

  // Empty strings are not added; of equal ones the last counts.
  void Add(std::string_view text, int32_t value);
  bool empty() const { return values_.size() <= 1; }

  // The leftmost match at or after `start`, and of those that begin there the longest.
  std::optional<Match> Find(std::string_view text, size_t start) const;

  // Calls on_match(end, value) for every string that stands at `begin`, the shortest first.
  template <typename OnMatch>
  void ForEachPrefix(std::string_view text, size_t begin, const OnMatch& on_match) const {
    uint32_t node = 0;
    for (size_t end = begin; end < text.size();) {
      node = Child(node, static_cast<unsigned char>(text[end]));
      if (node == 0) return;
      ++end;
      if (values_[node] >= 0) on_match(end, values_[node]);
    }
  }

  bool Contains(std::string_view text) const;

 private:
  uint32_t Child(uint32_t node, unsigned char byte) const {
    if (node == 0) return roots_[byte];
    const auto found = children_.find(static_cast<uint64_t>(node) << 8 | byte);
    return found == children_.end() ? 0 : found->second;
  }

  // A trie; node 0 is the root, and no node's child.
  std::vector<int32_t> values_ = {-1};  // of the string that ends at each node, or -1
  std::array<uint32_t, 256> roots_{};   // children of the root, 0 where there is none
  absl::flat_hash_map<uint64_t, uint32_t> children_;
};

}  // namespace moed

#endif  // MOED_TOKENIZER_STRING_MATCHER_H_
