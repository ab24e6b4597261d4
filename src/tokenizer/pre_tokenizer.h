// How a text is cut into the words that the model encodes one by one.
#ifndef MOED_TOKENIZER_PRE_TOKENIZER_H_
#define MOED_TOKENIZER_PRE_TOKENIZER_H_

#include <absl/functional/function_ref.h>
#include <absl/status/status.h>

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "tokenizer/matches.h"
#include "tokenizer/regex.h"

namespace moed {

// What becomes of the matches of a Split, "-" in "a-b": named as in tokenizer.json.
enum class SplitBehavior {
  kIsolated,            // a | - | b
  kRemoved,             // a | b
  kContiguous,          // a | - | b, neighbouring matches in one piece
  kMergedWithPrevious,  // a- | b
  kMergedWithNext,      // a | -b
};

struct SplitStep {
  std::variant<std::shared_ptr<const Regex>, std::string, CharacterClass> pattern;
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false;  // what lies between the matches counts as matched
};
struct PrefixSpaceStep {};  // a space before each piece that does not begin with one
struct MetaspaceStep {      // spaces become `replacement`, and each piece may get one in front
  enum class Prepend { kFirst, kNever, kAlways };
  std::string replacement;
  Prepend prepend = Prepend::kAlways;
};
struct ByteLevelStep {};  // bytes are written in the byte-level alphabet
using PreTokenizerStep = std::variant<SplitStep, PrefixSpaceStep, MetaspaceStep, ByteLevelStep>;

struct PreTokenizerScratch {
  std::vector<std::string> texts;  // one for each step
};

// Immutable. Each step cuts or changes every piece that the step before it made.
class PreTokenizer {
 public:
  explicit PreTokenizer(std::vector<PreTokenizerStep> steps);
  PreTokenizer() = default;

  // Whether words come as raw bytes, because a byte-level step is the last one: the model maps bytes by itself.
  bool yields_bytes() const { return yields_bytes_; }

  // Gives the words of `text` (valid UTF-8) to `on_word` in order; a word is not empty and holds until the call
  // returns. `at_start`: the text begins where the whole input does. RESOURCE_EXHAUSTED when a pattern gives up.
  using OnWord = absl::FunctionRef<void(std::string_view)>;
  absl::Status Apply(std::string_view text, bool at_start, RegexScratch& regex_scratch, PreTokenizerScratch& scratch,
                     OnWord on_word) const;

 private:
  struct Run;

  std::vector<PreTokenizerStep> steps_;
  bool yields_bytes_ = false;
};

}  // namespace moed

#endif  // MOED_TOKENIZER_PRE_TOKENIZER_H_
