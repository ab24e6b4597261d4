#include "serving/stop_matcher.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

namespace moed {
namespace {

struct Cut {
  std::string text;
  bool matched;
};

// The definition: the text ends with the first byte at which a stop string is complete, the longest of those.
Cut CutByDefinition(const std::string& text, const std::vector<std::string>& stops, bool include) {
  for (size_t end = 1; end <= text.size(); ++end) {
    size_t longest = 0;
    for (const std::string& stop : stops) {
      if (stop.size() <= end && text.compare(end - stop.size(), stop.size(), stop) == 0) {
        longest = std::max(longest, stop.size());
      }
    }
    if (longest > 0) return {text.substr(0, include ? end : end - longest), true};
  }
  return {text, false};
}

// The longest end of `seen` with which a stop string could begin.
size_t LongestBeginningAtEnd(const std::string& seen, const std::vector<std::string>& stops) {
  size_t longest = 0;
  for (const std::string& stop : stops) {
    for (size_t n = 1; n < stop.size() && n <= seen.size(); ++n) {
      if (seen.compare(seen.size() - n, n, stop, 0, n) == 0) longest = std::max(longest, n);
    }
  }
  return longest;
}

TEST(StopMatcher, AgreesWithItsDefinitionHoweverTheTextIsCut) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  const auto draw = [&](size_t low, size_t high) { return low + random() % (high - low + 1); };
  const auto draw_text = [&](size_t length) {
    std::string text(length, 'a');
    for (char& c : text) c = static_cast<char>('a' + random() % 3);
    return text;
  };
  for (int round = 0; round < 3000; ++round) {
    std::vector<std::string> stops(draw(0, 4));
    for (std::string& stop : stops) stop = draw_text(draw(1, 6));
    const std::string text = draw_text(draw(0, 30));
    const bool include = random() % 2 == 0;

    StopMatcher matcher(stops, include);
    std::string shown;
    for (size_t at = 0; at < text.size() && !matcher.matched();) {
      const std::string piece = text.substr(at, draw(1, 5));
      shown += matcher.Append(piece);
      at += piece.size();
      if (matcher.matched()) break;
      // Neither too much is held back nor too little.
      EXPECT_EQ(shown.size(), at - LongestBeginningAtEnd(text.substr(0, at), stops)) << text;
    }
    shown += matcher.Flush();
    const Cut expected = CutByDefinition(text, stops, include);
    EXPECT_EQ(shown, expected.text) << text;
    EXPECT_EQ(matcher.matched(), expected.matched) << text;
  }
}

TEST(StopMatcher, FindsAStopInTheMiddleOfOnePiece) {
  StopMatcher matcher(std::vector<std::string>{"\n\n"}, false);
  EXPECT_EQ(matcher.Append("one\n"), "one");
  EXPECT_EQ(matcher.Append("two\n\nthree"), "\ntwo");
  EXPECT_TRUE(matcher.matched());
  EXPECT_EQ(matcher.Append("four"), "");
  EXPECT_EQ(matcher.Flush(), "");
}

TEST(StopMatcher, HoldsBackWholeCharacters) {
  StopMatcher matcher(std::vector<std::string>{"é!"}, false);
  EXPECT_EQ(matcher.Append("è"), "è");  // shares its first byte with é
  EXPECT_EQ(matcher.Append("é"), "");
  EXPECT_EQ(matcher.Append("?"), "é?");
}

}  // namespace
}  // namespace moed
