// Unicode regular expressions as tokenizer files write them, run by PCRE2.
#ifndef MOED_TOKENIZER_REGEX_H_
#define MOED_TOKENIZER_REGEX_H_

#include <absl/status/statusor.h>

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace moed {

// The working memory of matching: one for each thread that matches at the same moment. Any Regex may use it.
class RegexScratch {
 public:
  RegexScratch();
  ~RegexScratch();
  RegexScratch(RegexScratch&&) noexcept;
  RegexScratch& operator=(RegexScratch&&) noexcept;

 private:
  friend class Regex;
  struct State;
  std::unique_ptr<State> state_;
};

// A compiled expression; immutable, to be shared between threads.
//
// The patterns of tokenizer.json are written for Oniguruma with Ruby's syntax. Compile() rewrites what PCRE2 reads
// otherwise: \s, \w, \b and \h, intervals followed by "+", (?m), \uHHHH, intersections of classes (&&). One difference
// is left: under (?i), no two letters match one character ("ss" does not match "ß").
class Regex {
 public:
  // INVALID_ARGUMENT where the pattern is malformed, UNIMPLEMENTED where it uses what cannot be rewritten.
  static absl::StatusOr<Regex> Compile(std::string_view pattern);

  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;
  ~Regex();

  struct Match {
    size_t begin, end;  // byte offsets
  };
  enum class Result {
    kMatch,
    kNoMatch,
    kGaveUp,  // the effort or memory allowed for one match was spent
  };

  // The leftmost match in `text` (valid UTF-8) at or after byte `start`; what stands before `start` is seen by
  // lookbehind only.
  Result Find(std::string_view text, size_t start, RegexScratch& scratch, Match* match) const;

  // As it was given to Compile(), for messages.
  const std::string& pattern() const { return pattern_; }

 private:
  struct Code;
  Regex(std::string pattern, std::unique_ptr<Code> code);

  std::string pattern_;
  std::unique_ptr<Code> code_;
};

}  // namespace moed

#endif  // MOED_TOKENIZER_REGEX_H_
