#include "base/text.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

#include "base/utf8.h"

namespace moed {
namespace {

TEST(QuotedTest, PlainTextStaysAsItIs) {
  EXPECT_EQ(Quoted(""), "\"\"");
  EXPECT_EQ(Quoted("it's plain: 世界 é 🙂"), "\"it's plain: 世界 é 🙂\"");
}

TEST(QuotedTest, WhatMayMisleadAReaderIsEscaped) {
  EXPECT_EQ(Quoted("say \"a\\b\""), R"("say \"a\\b\"")");
  EXPECT_EQ(Quoted(std::string("a\n\r\t\0\x1b[2J\x7f", 10)), R"("a\n\r\t\x00\x1b[2J\x7f")");
  EXPECT_EQ(Quoted("\xc2\x9b \xe2\x80\xae \xe2\x80\xa8 \xef\xbb\xbf \xd8\x9c"),
            R"("\u{9b} \u{202e} \u{2028} \u{feff} \u{61c}")");
}

TEST(QuotedTest, BytesThatAreNotUtf8AreEscaped) {
  EXPECT_EQ(Quoted("a\xff\xe4\xb8z"), R"("a\xff\xe4\xb8z")");
  EXPECT_EQ(Quoted("ends early \xe4\xb8"), R"("ends early \xe4\xb8")");
  EXPECT_EQ(Quoted("\xed\xa0\x80"), R"("\xed\xa0\x80")") << "a surrogate";
}

TEST(QuotedTest, LongTextIsCutBetweenCharacters) {
  EXPECT_EQ(Quoted("abcdef", 4), "\"abcd\"… (6 bytes)");
  EXPECT_EQ(Quoted("ab世界", 4), "\"ab\"… (8 bytes)");
  EXPECT_EQ(Quoted("ab世界", 5), "\"ab世\"… (8 bytes)");
  EXPECT_EQ(Quoted("ab世界", 8), "\"ab世界\"");
}

TEST(QuotedTest, AnyBytesBecomeUtf8OfOneLine) {
  std::mt19937 random(1);
  constexpr std::string_view kBytes = "a\"\\\n\x80\x9f\xb8\xc5\xe4\xed\xf0\xff";
  for (int i = 0; i < 20'000; ++i) {
    std::string text(random() % 12, ' ');
    for (char& c : text) c = kBytes[random() % kBytes.size()];
    for (const std::string& out : {Quoted(text, random() % 14), Escaped(text, random() % 14)}) {
      ASSERT_EQ(FindInvalidUtf8(out), std::string_view::npos) << out;
      ASSERT_EQ(out.find('\n'), std::string::npos) << out;
    }
  }
}

TEST(EscapedTest, HasNoQuotationMarksOfItsOwn) {
  EXPECT_EQ(Escaped("last read: '\"x\\\n'"), "last read: '\"x\\\\n'");
  EXPECT_EQ(Escaped("ab世界", 4), "ab…");
}

TEST(NearestWordTest, HasTheFewestEdits) {
  const std::string_view known[] = {"temperature", "top_k", "top_p"};
  EXPECT_EQ(NearestWord("temprature", known), "temperature");
  EXPECT_EQ(NearestWord("topp", known), "top_p");
  EXPECT_EQ(NearestWord("x", {}), "");
}

TEST(HumanBytesTest, HasTheLargestUnitThatFits) {
  EXPECT_EQ(HumanBytes(0), "0 B");
  EXPECT_EQ(HumanBytes(1023), "1023 B");
  EXPECT_EQ(HumanBytes(1536), "1.5 KiB");
  EXPECT_EQ(HumanBytes(uint64_t{5} << 60), "5120.0 PiB");
}

}  // namespace
}  // namespace moed
