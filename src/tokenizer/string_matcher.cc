#include "tokenizer/string_matcher.h"

namespace moed {

void StringMatcher::Add(std::string_view text, int32_t value) {
  if (text.empty()) return;
  uint32_t node = 0;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    uint32_t child = Child(node, byte);
    if (child == 0) {
      child = static_cast<uint32_t>(values_.size());
      values_.push_back(-1);
      if (node == 0) {
        roots_[byte] = child;
      } else {
        children_[static_cast<uint64_t>(node) << 8 | byte] = child;
      }
    }
    node = child;
  }
  values_[node] = value;
}

std::optional<StringMatcher::Match> StringMatcher::Find(std::string_view text, size_t start) const {
  if (empty()) return std::nullopt;
  for (size_t begin = start; begin < text.size(); ++begin) {
    if (roots_[static_cast<unsigned char>(text[begin])] == 0) continue;
    Match match{begin, begin, -1};
    ForEachPrefix(text, begin, [&](size_t end, int32_t value) { match = {begin, end, value}; });
    if (match.value >= 0) return match;
  }
  return std::nullopt;
}

bool StringMatcher::Contains(std::string_view text) const {
  uint32_t node = 0;
  for (const char c : text) {
    node = Child(node, static_cast<unsigned char>(c));
    if (node == 0) return false;
  }
  return values_[node] >= 0;
}

}  // namespace moed
