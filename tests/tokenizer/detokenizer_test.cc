#include "tokenizer/detokenizer.h"

#include <gtest/gtest.h>

#include <random>

#include "base/utf8.h"
#include "tests/support/tiny_tokenizer.h"
#include "tests/tokenizer/golden_files.h"
#include "tests/tokenizer/real_tokenizers.h"

namespace moed {
namespace {

using nlohmann::json;

// Feeds the ids one by one: every piece is valid UTF-8, and together they are what Decode() makes of every beginning.
void ExpectSameAsDecode(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, const DecodeOptions& options) {
  IncrementalDetokenizer detokenizer(tokenizer, options);
  std::string text;
  for (size_t i = 0; i <= ids.size(); ++i) {
    const std::string piece = i < ids.size() ? detokenizer.Append(ids[i]) : detokenizer.Flush();
    ASSERT_EQ(FindInvalidUtf8(piece), std::string_view::npos) << json(ids);
    text += piece;
    const std::string so_far = *tokenizer.Decode(absl::MakeConstSpan(ids).first(std::min(i + 1, ids.size())), options);
    ASSERT_EQ(so_far.substr(0, text.size()), text) << json(ids) << " at " << i;
  }
  EXPECT_EQ(text, *tokenizer.Decode(ids, options)) << json(ids);
}

void ExpectSameOverRandomIds(const Tokenizer& tokenizer, int rounds) {
  std::mt19937 random(23);
  for (int round = 0; round < rounds; ++round) {
    std::vector<int32_t> ids(random() % 30);
    // Low ids are where single bytes are.
    for (int32_t& id : ids)
      id = random() % (random() % 2 == 0 ? tokenizer.vocab_size() : std::min(tokenizer.vocab_size(), 300));
    ExpectSameAsDecode(tokenizer, ids, {.skip_special_tokens = round % 2 == 0});
  }
}

TEST(DetokenizerTest, EqualsDecodeOnRealTokenizers) {
  if (TokenizerData().empty()) GTEST_SKIP() << "MOED_TEST_DATA is not set";
  for (const char* name : kRealTokenizers) {
    SCOPED_TRACE(name);
    const auto tokenizer = LoadRealTokenizer(name);
    ASSERT_NE(tokenizer, nullptr);
    ExpectSameOverRandomIds(*tokenizer, 300);
    // Characters whose bytes come in several tokens.
    for (const char* text : {" 龘靐齉爩 𠀀𡃁 𒀀𒁀", "👩🏿‍🚀🫠 ẘ\u0301\u0327 \x01\x7f", "ᚠᛇᚻ ꧁꧂  ﷽"}) {
      const auto ids = tokenizer->Encode(text);
      ASSERT_TRUE(ids.ok()) << ids.status();
      ExpectSameAsDecode(*tokenizer, *ids, {});
    }
  }
}

TEST(DetokenizerTest, EqualsDecodeOnSmallTokenizers) {
  ExpectSameOverRandomIds(*MakeTinyTokenizer({"hello", " world", "\xE4\xBD"}), 500);
  for (const json& golden : ReadGolden("tokenizers.jsonl")) {
    const auto tokenizer = Tokenizer::FromJson(golden["config"].dump());
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    ExpectSameOverRandomIds(**tokenizer, 100);
  }
}

TEST(DetokenizerTest, ACharacterComesWhenItIsWhole) {
  const auto tokenizer = MakeTinyTokenizer();
  IncrementalDetokenizer detokenizer(*tokenizer);
  EXPECT_EQ(detokenizer.Append(0xF0), "");
  EXPECT_EQ(detokenizer.Append(0x9F), "");
  EXPECT_EQ(detokenizer.Append(0x98), "");
  EXPECT_EQ(detokenizer.Append(0x80), "😀");
  EXPECT_EQ(detokenizer.Append('!'), "!");
  EXPECT_EQ(detokenizer.Flush(), "");
}

TEST(DetokenizerTest, OneReplacementForEachMaximalSubpart) {
  const auto tokenizer = MakeTinyTokenizer();
  IncrementalDetokenizer detokenizer(*tokenizer);
  EXPECT_EQ(detokenizer.Append(0xE4), "");
  EXPECT_EQ(detokenizer.Append(0xBD), "");
  EXPECT_EQ(detokenizer.Append('a'), "\uFFFDa");  // both bytes were the beginning of one character
  EXPECT_EQ(detokenizer.Append(0x80), "\uFFFD");
  EXPECT_EQ(detokenizer.Append(0xF0), "");
  EXPECT_EQ(detokenizer.Append(0xC3), "\uFFFD");
  EXPECT_EQ(detokenizer.Flush(), "\uFFFD");
  EXPECT_EQ(detokenizer.Append(0xA4), "\uFFFD") << "a new sequence knows nothing of the old one";
}

// Byte fallback with the decoder of Llama's tokenizers.
std::unique_ptr<Tokenizer> MakeFallbackTokenizer() {
  json vocab = {{"<unk>", 0}, {"▁hi", 257}, {"▁", 258}, {"x", 259}};
  for (int byte = 0; byte < 256; ++byte) vocab[fmt::format("<0x{:02X}>", byte)] = 1 + byte;
  const json config = {
      {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", json::array()}, {"byte_fallback", true}}},
      {"decoder", json::parse(R"({"type": "Sequence", "decoders": [
                          {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
                          {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]})")}};
  auto tokenizer = Tokenizer::FromJson(config.dump());
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

TEST(DetokenizerTest, FallbackBytesBecomeCharactersAsSoonAsTheyCan) {
  const auto tokenizer = MakeFallbackTokenizer();
  IncrementalDetokenizer detokenizer(*tokenizer);
  const auto byte = [](int value) { return 1 + value; };
  EXPECT_EQ(detokenizer.Append(257), "hi") << "the first space is SentencePiece's, not the text's";
  EXPECT_EQ(detokenizer.Append(257), " hi");
  EXPECT_EQ(detokenizer.Append(byte(0xE4)), "");
  EXPECT_EQ(detokenizer.Append(byte(0xBD)), "");
  EXPECT_EQ(detokenizer.Append(byte(0xA0)), "你");
  EXPECT_EQ(detokenizer.Append(byte(0xE4)), "");
  EXPECT_EQ(detokenizer.Append(byte(0xBD)), "");
  EXPECT_EQ(detokenizer.Append(259), "\uFFFD\uFFFDx") << "one for each byte";
  EXPECT_EQ(detokenizer.Append(byte(0xC3)), "");
  EXPECT_EQ(detokenizer.Flush(), "\uFFFD");
  ExpectSameOverRandomIds(*tokenizer, 300);
}

TEST(DetokenizerTest, OnlyTheFirstSpaceIsDropped) {
  const auto tokenizer = MakeFallbackTokenizer();
  IncrementalDetokenizer detokenizer(*tokenizer);
  EXPECT_EQ(detokenizer.Append(258), "");
  EXPECT_EQ(detokenizer.Append(258), " ");
  EXPECT_EQ(detokenizer.Append(257), " hi");
  IncrementalDetokenizer other(*tokenizer);
  EXPECT_EQ(other.Append(259), "x");
  EXPECT_EQ(other.Append(257), " hi");
}

// Prompt and output put together are the text of both.
TEST(DetokenizerTest, AContinuationKeepsItsFirstSpace) {
  const auto tokenizer = MakeFallbackTokenizer();
  IncrementalDetokenizer detokenizer = IncrementalDetokenizer::Continuing(*tokenizer);
  EXPECT_EQ(detokenizer.Append(257), " hi");
  EXPECT_EQ(detokenizer.Append(257), " hi");
  EXPECT_EQ(*tokenizer->Decode({259, 257, 257}), "x hi hi");
}

TEST(DetokenizerTest, SpecialTokensAndPaddingAddNothing) {
  const auto tokenizer = MakeTinyTokenizer();
  IncrementalDetokenizer skipping(*tokenizer), showing(*tokenizer, {.skip_special_tokens = false});
  EXPECT_EQ(skipping.Append(256), "");
  EXPECT_EQ(showing.Append(256), "<eos>");
  EXPECT_EQ(showing.Append(257), "");
  EXPECT_EQ(showing.Append(-1), "");
  // A special token that is skipped does not cut a character in two, as in Decode().
  EXPECT_EQ(skipping.Append(0xC3), "");
  EXPECT_EQ(skipping.Append(256), "");
  EXPECT_EQ(skipping.Append(0xA9), "é");
}

}  // namespace
}  // namespace moed
