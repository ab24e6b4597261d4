// Small helpers for messages.
#ifndef MOED_BASE_TEXT_H_
#define MOED_BASE_TEXT_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace moed {

// The word of `known` with the fewest edits (Levenshtein) to `word`; "" when `known` is empty.
std::string_view NearestWord(std::string_view word, std::span<const std::string_view> known);

// "17 B", "3.4 MiB", "1.2 GiB".
std::string HumanBytes(uint64_t bytes);

}  // namespace moed

#endif  // MOED_BASE_TEXT_H_
