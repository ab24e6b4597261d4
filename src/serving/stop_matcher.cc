#include "serving/stop_matcher.h"

#include <algorithm>
#include <utility>

namespace moed {
namespace {

std::vector<size_t> FailureTable(std::string_view text) {
  std::vector<size_t> failure(text.size(), 0);
  for (size_t i = 1, length = 0; i < text.size(); ++i) {
    while (length > 0 && text[i] != text[length]) length = failure[length - 1];
    if (text[i] == text[length]) ++length;
    failure[i] = length;
  }
  return failure;
}

}  // namespace

void StopMatcher::Pattern::Step(char byte) {
  while (length > 0 && text[length] != byte) length = failure[length - 1];
  if (text[length] == byte) ++length;
}

StopMatcher::StopMatcher(std::span<const std::string> stops, bool include_stop) : include_stop_(include_stop) {
  for (const std::string& stop : stops) {
    if (!stop.empty()) patterns_.push_back({.text = stop, .failure = FailureTable(stop)});
  }
}

std::string StopMatcher::Append(std::string_view text, bool may_stop) {
  if (matched_) return {};
  if (patterns_.empty()) return std::string(text);
  for (char byte : text) {
    held_ += byte;
    size_t longest = 0;
    for (Pattern& pattern : patterns_) {
      pattern.Step(byte);
      if (pattern.length < pattern.text.size()) continue;
      if (may_stop) {
        longest = std::max(longest, pattern.length);
      } else {
        pattern.length = pattern.failure.back();
      }
    }
    if (longest > 0) {
      matched_ = true;
      if (!include_stop_) held_.resize(held_.size() - longest);
      return std::exchange(held_, {});
    }
  }
  size_t hold = 0;
  for (const Pattern& pattern : patterns_) hold = std::max(hold, pattern.length);
  std::string shown = held_.substr(0, held_.size() - hold);
  held_.erase(0, shown.size());
  return shown;
}

std::string StopMatcher::Flush() { return std::exchange(held_, {}); }

}  // namespace moed
