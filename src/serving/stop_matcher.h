// Finds stop strings in text that comes piece by piece.
#ifndef MOED_SERVING_STOP_MATCHER_H_
#define MOED_SERVING_STOP_MATCHER_H_

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moed {

// Runs the automaton of Knuth, Morris and Pratt (1977) for each stop string side by side, so that a byte is looked at
// once however the text is cut into tokens. The text ends with the first byte at which a stop string is complete (the
// longest, where several are). What could be the beginning of a stop string is held back until it is known not to be.
//
// Not thread-safe; one object a sequence.
class StopMatcher {
 public:
  // With `include_stop` the stop string is part of the output.
  StopMatcher(std::span<const std::string> stops, bool include_stop);

  // Takes the next piece and returns what may be shown now. Empty once matched(). A stop string that is complete within
  // a piece that `may_stop` is false for does not count; one that only begins there does.
  std::string Append(std::string_view text, bool may_stop = true);

  // The generation is over: what was held back, unless a stop string was found.
  std::string Flush();

  bool matched() const { return matched_; }

 private:
  struct Pattern {
    std::string text;
    // [text.size()]: length of the longest proper prefix of text[0..i] that is also its suffix.
    std::vector<size_t> failure;
    // How many bytes of `text` the end of the input equals.
    size_t length = 0;

    void Step(char byte);
  };

  std::vector<Pattern> patterns_;
  bool include_stop_;
  bool matched_ = false;
  std::string held_;  // the longest end of the input that could begin a stop string
};

}  // namespace moed

#endif  // MOED_SERVING_STOP_MATCHER_H_
