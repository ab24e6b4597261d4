// The parts of tokenizer.json one by one, against what the reference package makes of them.
#include <gtest/gtest.h>

#include "tests/tokenizer/golden_files.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/tokenizer_json.h"
#include "tokenizer/unicode_normalization.h"

namespace moed {
namespace {

TEST(PipelineTest, PreTokenizersCutAsTheReferenceDoes) {
  RegexScratch regex_scratch;
  PreTokenizerScratch scratch;
  for (const auto& row : ReadGolden("pre_tokenizers.jsonl")) {
    const auto pre_tokenizer = ParsePreTokenizer(JsonField(row["config"]));
    ASSERT_TRUE(pre_tokenizer.ok()) << pre_tokenizer.status();
    std::vector<std::string> words;
    const auto status = pre_tokenizer->Apply(row["text"].get_ref<const std::string&>(), /*at_start=*/true,
                                             regex_scratch, scratch, [&](std::string_view word) {
                                               std::string& shown = words.emplace_back();
                                               if (pre_tokenizer->yields_bytes()) {
                                                 AppendByteLevel(word, &shown);
                                               } else {
                                                 shown = word;
                                               }
                                             });
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_EQ(nlohmann::json(words), row["words"]) << row["config"] << " on " << row["text"];
  }
}

TEST(PipelineTest, NormalizersWriteAsTheReferenceDoes) {
  RegexScratch regex_scratch;
  NormalizerScratch scratch;
  for (const auto& row : ReadGolden("normalizers.jsonl")) {
    const auto normalizer = ParseNormalizer(JsonField(row["config"]));
    ASSERT_TRUE(normalizer.ok()) << normalizer.status();
    const auto text = normalizer->Apply(row["text"].get_ref<const std::string&>(), regex_scratch, scratch);
    ASSERT_TRUE(text.ok()) << text.status();
    EXPECT_EQ(std::string(*text), row["normalized"]) << row["config"] << " on " << row["text"];
  }
}

TEST(PipelineTest, LongRunsOfMarksAreOrderedInLittleTime) {
  // Two marks of different classes, again and again: swapping neighbours would take 10^10 steps.
  std::string text = "a", expected_above, expected_below;
  for (int i = 0; i < 100'000; ++i) {
    text += "\u0301\u0327";  // above (class 230), below (class 202)
    expected_above += "\u0301";
    expected_below += "\u0327";
  }
  std::string out;
  ASSERT_TRUE(NormalizeUnicode(text, NormalizationForm::kNfd, &out));
  EXPECT_TRUE(out == "a" + expected_below + expected_above);
}

TEST(PipelineTest, APatternThatExplodesIsGivenUp) {
  const auto config =
      nlohmann::json::parse(R"({"type": "Split", "pattern": {"Regex": "(?:a|aa)+[bc]"}, "behavior": "Isolated"})");
  const auto pre_tokenizer = ParsePreTokenizer(JsonField(config));
  ASSERT_TRUE(pre_tokenizer.ok()) << pre_tokenizer.status();
  RegexScratch regex_scratch;
  PreTokenizerScratch scratch;
  const auto status =
      pre_tokenizer->Apply(std::string(5000, 'a'), true, regex_scratch, scratch, [](std::string_view) {});
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
}

}  // namespace
}  // namespace moed
