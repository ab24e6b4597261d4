// Python's methods of str, as functions of C++ where filters need them too. Positions and lengths count code points.
#ifndef MOED_TOKENIZER_JINJA_STRING_METHODS_H_
#define MOED_TOKENIZER_JINJA_STRING_METHODS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/jinja/budget.h"

namespace moed::jinja {

// str.strip(chars), lstrip, rstrip; without `chars`, white space.
std::string_view Strip(std::string_view text, const std::optional<std::string>& chars, bool left, bool right);

// str.replace(old, replacement, count); a negative count replaces all.
std::string Replace(std::string_view text, std::string_view old, std::string_view replacement, int64_t count,
                    Budget& budget);

// str.splitlines(keepends).
std::vector<std::string> SplitLines(std::string_view text, bool keep_ends, Budget& budget);

// str.center, ljust, rjust: `text` of `length` code points with `fill` around it.
enum class Justify : uint8_t { kLeft, kRight, kCenter };
std::string JustifyText(std::string_view text, size_t length, int64_t width, std::string_view fill, Justify justify,
                        Budget& budget);

}  // namespace moed::jinja

#endif  // MOED_TOKENIZER_JINJA_STRING_METHODS_H_
