// What happens to a text before it is cut into words.
#ifndef MOED_TOKENIZER_NORMALIZER_H_
#define MOED_TOKENIZER_NORMALIZER_H_

#include <absl/status/statusor.h>

#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "tokenizer/regex.h"
#include "tokenizer/unicode_normalization.h"

namespace moed {

// The steps are named as in tokenizer.json.
struct UnicodeStep {  // NFC, NFD, NFKC, NFKD
  NormalizationForm form;
};
struct PrependStep {  // to every text that is not empty
  std::string text;
};
struct ReplaceStep {
  std::variant<std::string, std::shared_ptr<const Regex>> pattern;
  std::string content;
};
struct StripStep {  // white space
  bool left, right;
};
struct LowercaseStep {};
// What SentencePiece does itself (its normalizer_spec, without a character map).
struct SentencePieceStep {
  bool add_dummy_prefix;
  bool remove_extra_whitespaces;
  bool escape_whitespaces;
};
using NormalizerStep = std::variant<UnicodeStep, PrependStep, ReplaceStep, StripStep, LowercaseStep, SentencePieceStep>;

struct NormalizerScratch {
  std::string text, next;
};

// Immutable; steps are applied in order.
class Normalizer {
 public:
  explicit Normalizer(std::vector<NormalizerStep> steps) : steps_(std::move(steps)) {}
  Normalizer() = default;

  // The normal form of `text` (valid UTF-8): `text` itself, or a view of the scratch that holds until its next use.
  // RESOURCE_EXHAUSTED when a regular expression gives up.
  absl::StatusOr<std::string_view> Apply(std::string_view text, RegexScratch& regex_scratch,
                                         NormalizerScratch& scratch) const;

 private:
  std::vector<NormalizerStep> steps_;
};

// Replaces every match of the step's pattern in `text`, into `out`; false, and nothing written, when there is none.
absl::StatusOr<bool> ReplaceAll(const ReplaceStep& step, std::string_view text, RegexScratch& scratch,
                                std::string* out);

}  // namespace moed

#endif  // MOED_TOKENIZER_NORMALIZER_H_
