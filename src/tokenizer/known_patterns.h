// Expressions that cut texts into words and that no file of a model's tokenizer spells out.
#ifndef MOED_TOKENIZER_KNOWN_PATTERNS_H_
#define MOED_TOKENIZER_KNOWN_PATTERNS_H_

#include <string_view>

namespace moed {

// Moonlight, Kimi-K2.
inline constexpr std::string_view kMoonshotPattern =
    R"([\p{Han}]+)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

}  // namespace moed

#endif  // MOED_TOKENIZER_KNOWN_PATTERNS_H_
