// Reading and comparing what tests/golden/make_template_golden.py wrote.
#ifndef MOED_TESTS_TOKENIZER_CHAT_TEMPLATE_GOLDEN_H_
#define MOED_TESTS_TOKENIZER_CHAT_TEMPLATE_GOLDEN_H_

#include <absl/status/statusor.h>
#include <absl/time/civil_time.h>
#include <absl/time/time.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "base/status.h"

namespace moed {

// The time at which the goldens were made, in whatever zone the test runs.
inline absl::Time GoldenNow() {
  return absl::FromCivil(absl::CivilSecond(2025, 6, 15, 12, 34, 56), absl::LocalTimeZone()) +
         absl::Microseconds(789012);
}

inline std::string ReadWhole(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

inline std::vector<nlohmann::ordered_json> ReadJsonLines(const std::filesystem::path& path) {
  std::vector<nlohmann::ordered_json> lines;
  std::istringstream text(ReadWhole(path));
  for (std::string line; std::getline(text, line);) lines.push_back(nlohmann::ordered_json::parse(line));
  EXPECT_FALSE(lines.empty()) << path;
  return lines;
}

// FNV-1a over the bytes, which the script computes too.
inline std::string Fnv1a(std::string_view text) {
  uint64_t hash = 0xcbf29ce484222325;
  for (char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return fmt::format("{:016x}", hash);
}

// `line` holds "text", "text_fnv1a" with "text_bytes", or "error"; an error must be one here too, with Python's message
// where it comes from rendering.
inline void CompareWithGolden(const nlohmann::ordered_json& line, const absl::StatusOr<std::string>& text) {
  if (!line.contains("error")) {
    ASSERT_TRUE(text.ok()) << text.status();
    if (line.contains("text")) {
      EXPECT_EQ(*text, line["text"].get<std::string>());
    } else {
      EXPECT_EQ(text->size(), line["text_bytes"].get<size_t>()) << *text;
      EXPECT_EQ(Fnv1a(*text), line["text_fnv1a"].get<std::string>()) << *text;
    }
    return;
  }
  ASSERT_FALSE(text.ok()) << "Python fails with " << line["error"] << "; here it is: " << *text;
  const std::string message(Message(text.status()));
  const std::string expected = line["error"];
  if (line.value("raised", false)) {
    EXPECT_EQ(message, expected);
  } else if (!line.value("syntax", false)) {  // the parser has words of its own
    EXPECT_THAT(message, testing::EndsWith(expected));
  }
}

}  // namespace moed

#endif  // MOED_TESTS_TOKENIZER_CHAT_TEMPLATE_GOLDEN_H_
