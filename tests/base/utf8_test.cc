#include "base/utf8.h"

#include <gtest/gtest.h>

#include <string>

namespace moed {
namespace {

TEST(Utf8Test, EveryCodepointSurvivesTheWayThroughBytes) {
  for (char32_t c = 0; c <= 0x10FFFF; ++c) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    std::string bytes;
    AppendUtf8(c, &bytes);
    ASSERT_EQ(Utf8Length(bytes[0]), static_cast<int>(bytes.size()));
    ASSERT_EQ(FindInvalidUtf8(bytes), std::string_view::npos);
    const Utf8Step step = NextUtf8(bytes);
    ASSERT_EQ(step.kind, Utf8Step::kCharacter);
    ASSERT_EQ(step.codepoint, c);
    ASSERT_EQ(PreviousUtf8("a" + bytes, 1 + bytes.size()), 1u);
    for (size_t cut = 1; cut < bytes.size(); ++cut) {
      const Utf8Step half = NextUtf8(std::string_view(bytes).substr(0, cut));
      ASSERT_EQ(half.kind, Utf8Step::kIncomplete);
      ASSERT_EQ(half.length, cut);
    }
  }
}

TEST(Utf8Test, InvalidBytesAreCutIntoMaximalSubparts) {
  struct Row {
    std::string bytes;
    int length;
  };
  const Row rows[] = {
      {"\x80", 1},
      {"\xC0\x80", 1},
      {"\xC1\xBF", 1},
      {"\xE0\x80\x80", 1},
      {"\xE4\xBD"
       "a",
       2},
      {"\xED\xA0\x80", 1},
      {"\xF0\x9F\x98"
       "a",
       3},
      {"\xF0\x80\x80", 1},
      {"\xF4\x90\x80\x80", 1},
      {"\xF5\x80", 1},
      {"\xFF", 1},
      {"\xC3(", 1},
  };
  for (const Row& row : rows) {
    const Utf8Step step = NextUtf8(row.bytes);
    EXPECT_EQ(step.kind, Utf8Step::kInvalid) << ::testing::PrintToString(row.bytes);
    EXPECT_EQ(step.length, row.length) << ::testing::PrintToString(row.bytes);
  }
}

TEST(Utf8Test, FindsTheFirstInvalidByte) {
  for (size_t before = 0; before < 40; ++before) {
    const std::string good(before, 'x');
    EXPECT_EQ(FindInvalidUtf8(good), std::string_view::npos);
    EXPECT_EQ(FindInvalidUtf8(good + "\xFF" + std::string(20, 'y')), before);
    EXPECT_EQ(FindInvalidUtf8(good + "\xE4\xBD"), before);
    EXPECT_EQ(FindInvalidUtf8(good + "\xE4\xBD\xA0"), std::string_view::npos);
  }
}

}  // namespace
}  // namespace moed
