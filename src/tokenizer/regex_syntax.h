// From the regular expressions of Oniguruma (Ruby's syntax), for which tokenizer files are written, to those of PCRE2.
#ifndef MOED_TOKENIZER_REGEX_SYNTAX_H_
#define MOED_TOKENIZER_REGEX_SYNTAX_H_

#include <absl/status/statusor.h>

#include <string>
#include <string_view>

namespace moed {

// Rewrites `pattern` (UTF-8) so that PCRE2 with UTF, UCP and MULTILINE matches the same. INVALID_ARGUMENT where the
// pattern is malformed, UNIMPLEMENTED where no rewriting is known.
absl::StatusOr<std::string> TranslateToPcre2(std::string_view pattern);

}  // namespace moed

#endif  // MOED_TOKENIZER_REGEX_SYNTAX_H_
