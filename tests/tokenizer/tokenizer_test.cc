#include "tokenizer/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <thread>

#include "base/utf8.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_tokenizer.h"
#include "tests/tokenizer/golden_files.h"
#include "tests/tokenizer/real_tokenizers.h"
#include "tokenizer/unicode_normalization.h"

namespace moed {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::unique_ptr<Tokenizer> Make(const json& config, const json& tokenizer_config = json::object()) {
  auto tokenizer = Tokenizer::FromJson(config.dump(), tokenizer_config.dump());
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

TEST(TokenizerTest, SmallTokenizersDoAsTheReferenceDoes) {
  for (const json& golden : ReadGolden("tokenizers.jsonl")) {
    const auto tokenizer = Make(golden["config"]);
    ASSERT_NE(tokenizer, nullptr);
    for (const json& row : golden["rows"]) {
      const std::string& text = row["text"].get_ref<const std::string&>();
      const auto ids = tokenizer->Encode(text);
      ASSERT_TRUE(ids.ok()) << ids.status();
      EXPECT_EQ(json(*ids), row["ids"]) << row["text"] << golden["config"];
      EXPECT_EQ(json(*tokenizer->Encode(text, {.parse_special = false})), row["ids_of_plain_text"])
          << row["text"] << golden["config"];
      EXPECT_EQ(json(*tokenizer->Decode(*ids, {.skip_special_tokens = false})), row["decoded"]) << golden["config"];
      EXPECT_EQ(json(*tokenizer->Decode(*ids)), row["decoded_without_special"]) << golden["config"];
    }
  }
}

TEST(TokenizerTest, UnigramModelsDoAsTheReferenceDoes) {
  for (const json& golden : ReadGolden("unigram.jsonl")) {
    const auto tokenizer = Make(golden["config"]);
    ASSERT_NE(tokenizer, nullptr);
    for (const json& row : golden["rows"]) {
      const auto ids = tokenizer->Encode(row["text"].get_ref<const std::string&>());
      ASSERT_TRUE(ids.ok()) << ids.status();
      EXPECT_EQ(json(*ids), row["ids"]) << row["text"] << golden["config"];
      EXPECT_EQ(json(*tokenizer->Decode(*ids, {.skip_special_tokens = false})), row["decoded"])
          << row["text"] << golden["config"];
    }
  }
}

TEST(TokenizerTest, TiktokenFilesDoAsTheReferenceDoes) {
  const std::vector<json> golden = ReadGolden("tiktoken.jsonl");
  const testing::TempDir folder;
  std::ofstream(folder.File("tiktoken.model")) << golden[0]["file"].get_ref<const std::string&>();
  std::ofstream(folder.File("tokenizer_config.json")) << golden[0]["config"];
  const auto tokenizer = Tokenizer::Load(folder.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  for (size_t i = 1; i < golden.size(); ++i) {
    const std::string& text = golden[i]["text"].get_ref<const std::string&>();
    const auto ids = (*tokenizer)->Encode(text);
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(json(*ids), golden[i]["ids"]) << text;
    EXPECT_EQ(json(*(*tokenizer)->Encode(text, {.parse_special = false})), golden[i]["ids_of_plain_text"]) << text;
    EXPECT_EQ(*(*tokenizer)->Decode(*ids, {.skip_special_tokens = false}), text);
  }
  EXPECT_EQ((*tokenizer)->bos_id(), 400);
  EXPECT_EQ((*tokenizer)->vocab_size(), 656);
  EXPECT_EQ((*tokenizer)->IdOf("<|reserved_token_655|>"), 655);
}

struct RealTokenizer {
  const char* folder;
  const char* golden;
  bool byte_level;  // decoding gives back every text,
  bool normalizes;  // but for what NFC changes
  int32_t vocab_size;
};

class RealTokenizerTest : public ::testing::TestWithParam<RealTokenizer> {
 protected:
  void SetUp() override {
    if (TokenizerData().empty()) GTEST_SKIP() << "MOED_TEST_DATA is not set";
    // Loaded once for all tests.
    static std::map<std::string, std::unique_ptr<Tokenizer>> loaded;
    std::unique_ptr<Tokenizer>& place = loaded[GetParam().folder];
    if (place == nullptr) place = LoadRealTokenizer(GetParam().folder);
    ASSERT_NE(place, nullptr);
    tokenizer_ = place.get();
  }
  const Tokenizer* tokenizer_ = nullptr;
};

TEST_P(RealTokenizerTest, EncodesTheGoldenTexts) {
  EXPECT_EQ(tokenizer_->vocab_size(), GetParam().vocab_size);
  const auto rows = ReadJsonLines(TokenizerData() / "golden" / GetParam().golden);
  EXPECT_EQ(rows.size(), 58u);
  for (const json& row : rows) {
    const std::string& text = row["text"].get_ref<const std::string&>();
    const auto ids = tokenizer_->Encode(text, {.add_special_tokens = false});
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(json(*ids), row["ids"]) << text;
  }
}

// Bytes at random, what is no character among them replaced; now and then a run of characters.
std::string RandomText(std::mt19937& random) {
  std::string bytes, text;
  for (int length = random() % 60; length > 0; --length) {
    switch (random() % 4) {
      case 0:
        AppendUtf8(0x4E00 + random() % 0x5000, &bytes);
        break;
      case 1:
        AppendUtf8(0x1F300 + random() % 0x300, &bytes);
        break;
      default:
        bytes += static_cast<char>(random() % (random() % 2 == 0 ? 0x80 : 0x100));
    }
  }
  for (std::string_view left = bytes; !left.empty();) {
    const Utf8Step step = NextUtf8(left);
    AppendUtf8(step.codepoint, &text);
    left.remove_prefix(step.length);
  }
  return text;
}

TEST_P(RealTokenizerTest, ByteLevelGivesEveryTextBack) {
  if (!GetParam().byte_level) GTEST_SKIP() << "SentencePiece drops a leading space";
  std::mt19937 random(17);
  for (int i = 0; i < 2000; ++i) {
    const std::string text = RandomText(random);
    const auto ids = tokenizer_->Encode(text);
    ASSERT_TRUE(ids.ok());
    std::string normalized;
    if (!GetParam().normalizes || !NormalizeUnicode(text, NormalizationForm::kNfc, &normalized)) normalized = text;
    EXPECT_EQ(*tokenizer_->Decode(*ids, {.skip_special_tokens = false}), normalized);
    std::string bytes;
    for (const int32_t id : *ids) bytes += tokenizer_->TokenBytes(id);
    EXPECT_EQ(bytes, normalized);
  }
}

TEST_P(RealTokenizerTest, ThreadsThatEncodeAtOnceGetTheSame) {
  std::string text;
  for (const json& row : ReadJsonLines(TokenizerData() / "golden" / GetParam().golden)) {
    text += row["text"].get_ref<const std::string&>() + "\n";
  }
  const auto expected = *tokenizer_->Encode(text);
  std::vector<std::thread> threads;
  threads.reserve(4);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 20; ++i) EXPECT_EQ(*tokenizer_->Encode(text), expected);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

INSTANTIATE_TEST_SUITE_P(All, RealTokenizerTest,
                         ::testing::Values(RealTokenizer{"qwen3", "qwen3.jsonl", true, true, 151669},
                                           RealTokenizer{"olmoe", "olmo.jsonl", true, true, 50280},
                                           RealTokenizer{"deepseek_v3", "deepseek_v3.jsonl", true, false, 128815},
                                           RealTokenizer{"mixtral", "mistral_v1_mixtral8x7b.jsonl", false, false,
                                                         32000}),
                         [](const auto& row) { return row.param.folder; });

TEST(TokenizerTest, ReadsBesideTheTokenizerItsConfiguration) {
  if (TokenizerData().empty()) GTEST_SKIP() << "MOED_TEST_DATA is not set";
  const auto deepseek = TokenizerData() / "deepseek_v3";
  const testing::TempDir folder;
  std::ofstream(folder.File("tokenizer.json")) << ReadXz(deepseek / "tokenizer.json.xz");
  std::filesystem::copy_file(deepseek / "tokenizer_config.json", folder.File("tokenizer_config.json"));
  const auto tokenizer = Tokenizer::Load(folder.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const Tokenizer& t = **tokenizer;
  EXPECT_EQ(t.bos_id(), 0);
  EXPECT_EQ(t.eos_id(), 1);
  EXPECT_TRUE(t.IsSpecial(0));
  EXPECT_EQ(t.IdOf("<｜User｜>"), 128803);
  EXPECT_FALSE(t.IsSpecial(128803));
  // add_bos_token of the configuration, although the post-processor adds nothing.
  EXPECT_THAT(*t.Encode("Hello world"), ElementsAre(0, 19923, 2058));
  EXPECT_THAT(*t.Encode("Hello world", {.add_special_tokens = false}), ElementsAre(19923, 2058));
  EXPECT_EQ(t.TokenContent(2058), "Ġworld");
  EXPECT_EQ(t.TokenBytes(2058), " world");
  EXPECT_EQ(t.TokenBytes(-1), "");
  EXPECT_EQ(t.TokenBytes(t.vocab_size()), "");
}

TEST(TokenizerTest, AFolderWithoutTokenizerIsNotFound) {
  const testing::TempDir folder;
  const auto tokenizer = Tokenizer::Load(folder.path());
  EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(tokenizer.status().message()),
              HasSubstr("no tokenizer.json, tokenizer.model or tiktoken.model"));
}

TEST(TokenizerTest, ErrorsOfALoadNameTheFile) {
  const testing::TempDir folder;
  std::ofstream(folder.File("tokenizer.json")) << R"({"model": {"type": "WordPiece", "vocab": []}})";
  const auto tokenizer = Tokenizer::Load(folder.path());
  EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(tokenizer.status().message()),
              HasSubstr("tokenizer.json: model has the type WordPiece, which is not supported"));
}

TEST(TokenizerTest, InvalidUtf8IsRefusedAtItsByte) {
  const auto tokenizer = MakeTinyTokenizer();
  const auto ids = tokenizer->Encode("abc\xE4\xBDz");
  EXPECT_EQ(ids.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ids.status().message(), "the text is not UTF-8: byte 3 is 0xE4");
}

TEST(TokenizerTest, IdsOutOfRangeAreRefusedByIndexAndValue) {
  const auto tokenizer = MakeTinyTokenizer();
  const std::vector<int32_t> high = {1, 2, 257}, low = {-5};
  EXPECT_EQ(tokenizer->Decode(high).status().message(), "ids[2] is 257; it must be in [0, 257)");
  EXPECT_EQ(tokenizer->Decode(low).status().message(), "ids[0] is -5; it must be in [0, 257)");
}

TEST(TokenizerTest, ConfigurationDecidesOnBosAndEos) {
  const json config = json::parse(TinyTokenizerJson());
  const json eos = {{"eos_token", {{"content", "<eos>"}}}, {"bos_token", "<eos>"}};
  json both = eos;
  both["add_bos_token"] = both["add_eos_token"] = true;
  EXPECT_THAT(*Make(config, eos)->Encode("a"), ElementsAre('a'));
  EXPECT_THAT(*Make(config, both)->Encode("a"), ElementsAre(256, 'a', 256));
  EXPECT_THAT(*Make(config, both)->Encode("a<eos>"), ElementsAre(256, 'a', 256, 256));
  const auto none = Tokenizer::FromJson(config.dump(), R"({"add_bos_token": true, "bos_token": "<bos>"})");
  EXPECT_THAT(std::string(none.status().message()), HasSubstr("add_bos_token is true"));
  const auto added =
      Make(config, json::parse(R"({"added_tokens_decoder": {"257": {"content": "<x>", "special": true}}})"));
  EXPECT_THAT(*added->Encode("<x>y"), ElementsAre(257, 'y'));
}

// Two letters whose merges are drawn at random, and a slow merger that is obviously right.
TEST(TokenizerTest, MergesAsThePlainAlgorithmDoesAtEveryLength) {
  std::mt19937 random(5);
  for (int round = 0; round < 20; ++round) {
    std::vector<std::string> tokens = {"a", "b"};
    std::vector<std::pair<std::string, std::string>> merges;
    while (merges.size() < 30) {
      const std::string left = tokens[random() % tokens.size()], right = tokens[random() % tokens.size()];
      if (left.size() + right.size() > 9 || std::count(merges.begin(), merges.end(), std::pair(left, right)) > 0)
        continue;
      merges.emplace_back(left, right);
      if (std::count(tokens.begin(), tokens.end(), left + right) == 0) tokens.push_back(left + right);
    }
    json model = {{"type", "BPE"}, {"vocab", json::object()}, {"merges", json::array()}};
    for (size_t i = 0; i < tokens.size(); ++i) model["vocab"][tokens[i]] = i;
    for (const auto& [left, right] : merges) model["merges"].push_back(json{left, right});
    const auto tokenizer = Make({{"model", model}});
    ASSERT_NE(tokenizer, nullptr);
    for (const int length : {0, 1, 2, 3, 10, 47, 48, 49, 50, 97, 300}) {
      std::string text;
      for (int i = 0; i < length; ++i) text += static_cast<char>('a' + random() % 2);
      std::vector<std::string> pieces;
      for (const char c : text) pieces.emplace_back(1, c);
      for (bool merged = true; merged;) {
        merged = false;
        size_t best = merges.size(), place = 0;
        for (size_t i = 0; i + 1 < pieces.size(); ++i) {
          const size_t rank =
              std::find(merges.begin(), merges.end(), std::pair(pieces[i], pieces[i + 1])) - merges.begin();
          if (rank < best) best = rank, place = i, merged = true;
        }
        if (!merged) break;
        pieces[place] += pieces[place + 1];
        pieces.erase(pieces.begin() + static_cast<int64_t>(place) + 1);
      }
      std::vector<int32_t> expected;
      expected.reserve(pieces.size());
      for (const std::string& piece : pieces) expected.push_back(*tokenizer->IdOf(piece));
      EXPECT_EQ(*tokenizer->Encode(text), expected) << text;
      EXPECT_EQ(*tokenizer->Encode(text), expected) << "from the cache: " << text;
    }
  }
}

TEST(TokenizerTest, AVeryLongWordTakesLittleTime) {
  // A million letters in one word, all of them merging: a quadratic way would take an hour.
  json model = {{"type", "BPE"}, {"vocab", {{"a", 0}, {"aa", 1}, {"aaaa", 2}}}};
  model["merges"] = {"a a", "aa aa"};
  const auto tokenizer = Make({{"model", model}});
  const auto ids = tokenizer->Encode(std::string((1 << 20) + 3, 'a'));
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(ids->size(), (1u << 18) + 2);
  EXPECT_EQ(ids->front(), 2);
  EXPECT_EQ(ids->back(), 0);
}

}  // namespace
}  // namespace moed
