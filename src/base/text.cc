#include "base/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <numeric>
#include <vector>

#include "base/utf8.h"

namespace moed {
namespace {

size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row.back();
}

// Characters that a reader of a message would not see, or would see what follows them in another order.
bool IsUnseen(char32_t c) {
  struct Range {
    char32_t first, last;
  };
  constexpr Range kRanges[] = {{0x00, 0x1F},     {0x7F, 0x9F},     {0xAD, 0xAD},      {0x34F, 0x34F},
                               {0x61C, 0x61C},   {0x115F, 0x1160}, {0x180B, 0x180F},  {0x200B, 0x200F},
                               {0x2028, 0x202E}, {0x2060, 0x206F}, {0x3164, 0x3164},  {0xFE00, 0xFE0F},
                               {0xFEFF, 0xFEFF}, {0xFFF9, 0xFFFB}, {0xE0000, 0xE0FFF}};
  return std::any_of(std::begin(kRanges), std::end(kRanges),
                     [c](const Range& range) { return c >= range.first && c <= range.last; });
}

// Of the first `max_bytes`, without a part of a character at the cut.
void AppendEscaped(std::string_view text, size_t max_bytes, bool escapes_quotes, std::string* out) {
  const bool is_cut = text.size() > max_bytes;
  text = text.substr(0, max_bytes);
  while (!text.empty()) {
    const Utf8Step step = NextUtf8(text);
    if (is_cut && step.kind == Utf8Step::kIncomplete) return;
    const std::string_view bytes = text.substr(0, step.length);
    text.remove_prefix(step.length);
    const char32_t c = step.codepoint;
    if (step.kind != Utf8Step::kCharacter) {
      for (const char byte : bytes) fmt::format_to(std::back_inserter(*out), "\\x{:02x}", static_cast<uint8_t>(byte));
    } else if (c == '\n' || c == '\r' || c == '\t') {
      *out += c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t";
    } else if (escapes_quotes && (c == '"' || c == '\\')) {
      *out += '\\';
      *out += bytes;
    } else if (IsUnseen(c) && c < 0x80) {
      fmt::format_to(std::back_inserter(*out), "\\x{:02x}", static_cast<uint32_t>(c));
    } else if (IsUnseen(c)) {
      fmt::format_to(std::back_inserter(*out), "\\u{{{:x}}}", static_cast<uint32_t>(c));
    } else {
      *out += bytes;
    }
  }
}

}  // namespace

std::string Quoted(std::string_view text, size_t max_bytes) {
  std::string quoted = "\"";
  AppendEscaped(text, max_bytes, /*escapes_quotes=*/true, &quoted);
  quoted += '"';
  if (text.size() > max_bytes) fmt::format_to(std::back_inserter(quoted), "… ({} bytes)", text.size());
  return quoted;
}

std::string Escaped(std::string_view text, size_t max_bytes) {
  std::string escaped;
  AppendEscaped(text, max_bytes, /*escapes_quotes=*/false, &escaped);
  if (text.size() > max_bytes) escaped += "…";
  return escaped;
}

std::string_view NearestWord(std::string_view word, std::span<const std::string_view> known) {
  std::string_view best;
  size_t best_distance = static_cast<size_t>(-1);
  for (std::string_view candidate : known) {
    const size_t distance = EditDistance(word, candidate);
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

std::string HumanBytes(uint64_t bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  if (bytes < 1024) return fmt::format("{} B", bytes);
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024.0 && unit + 1 < std::size(kUnits)) {
    value /= 1024.0;
    ++unit;
  }
  return fmt::format("{:.1f} {}", value, kUnits[unit]);
}

}  // namespace moed
