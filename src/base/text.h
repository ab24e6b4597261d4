// Small helpers for messages.
#ifndef MOED_BASE_TEXT_H_
#define MOED_BASE_TEXT_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace moed {

// The word of `known` with the fewest edits (Levenshtein) to `word`; "" when `known` is empty.
std::string_view NearestWord(std::string_view word, std::span<const std::string_view> known);

// `text` in quotation marks, as it may stand in a message or a log whoever wrote it: quotation marks, backslashes,
// control characters, those that are not seen or turn the direction of writing, and bytes that are not UTF-8 are
// escaped. Of more than `max_bytes` the beginning, and how many there are. (fmt's {:?} must not be used on bytes of
// strangers: that of spdlog 1.10 aborts on a character cut short.)
std::string Quoted(std::string_view text, size_t max_bytes = 200);

// The same without quotation marks around it, and unescaped in it.
std::string Escaped(std::string_view text, size_t max_bytes = 200);

// "17 B", "3.4 MiB", "1.2 GiB".
std::string HumanBytes(uint64_t bytes);

}  // namespace moed

#endif  // MOED_BASE_TEXT_H_
