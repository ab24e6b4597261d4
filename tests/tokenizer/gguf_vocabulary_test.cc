#include "tokenizer/gguf_vocabulary.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/status.h"

namespace moed {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// models/demo/tokenizer.json as a converter to GGUF would write it.
struct DemoVocabulary {
  DemoVocabulary() {
    std::ifstream file("models/demo/tokenizer.json");
    const nlohmann::json json = nlohmann::json::parse(file);
    const auto put = [&](const std::string& token, size_t id, int64_t type) {
      if (tokens.size() <= id) {
        tokens.resize(id + 1);
        types.resize(id + 1, 1);
      }
      tokens[id] = token;
      types[id] = type;
    };
    for (const auto& [token, id] : json["model"]["vocab"].items()) put(token, id.get<size_t>(), 1);
    for (const auto& token : json["added_tokens"])
      put(token["content"].get<std::string>(), token["id"].get<size_t>(), 3);
    for (const auto& merge : json["model"]["merges"]) {
      merges.push_back(merge.is_array() ? merge[0].get<std::string>() + " " + merge[1].get<std::string>()
                                        : merge.get<std::string>());
    }
    vocabulary.model = "gpt2";
    vocabulary.pre = "qwen2";
    vocabulary.tokens.assign(tokens.begin(), tokens.end());
    vocabulary.merges.assign(merges.begin(), merges.end());
    vocabulary.types = types;
  }

  std::vector<std::string> tokens, merges;
  std::vector<int64_t> types;
  GgufVocabulary vocabulary;
};

TEST(GgufVocabulary, Gpt2EncodesAsTheModelsOwnTokenizer) {
  DemoVocabulary demo;
  demo.vocabulary.eos_id = 4093;
  const auto expected = Tokenizer::Load("models/demo");
  const auto actual = MakeTokenizer(demo.vocabulary);
  ASSERT_TRUE(expected.ok() && actual.ok()) << actual.status();
  EXPECT_EQ((*actual)->vocab_size(), (*expected)->vocab_size());
  EXPECT_EQ((*actual)->eos_id(), 4093);
  EXPECT_FALSE((*actual)->bos_id().has_value());
  for (const char* text :
       {"Once upon a time, there weren't 1234 cats.", "床前明月光，疑是地上霜。\n\n  two  spaces\tand tabs ",
        "<|im_start|>user\nHi<|im_end|>", "", "naïve 🎈 café"}) {
    const auto ids = (*actual)->Encode(text);
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(*ids, *(*expected)->Encode(text)) << text;
    EXPECT_EQ(*(*actual)->Decode(*ids, {.skip_special_tokens = false}), text);
  }
  EXPECT_TRUE((*actual)->IsSpecial(4094));
}

// Of the families that are served, by the names that files have.
TEST(GgufVocabulary, PreTokenizersCutAsTheirModelsDo) {
  const auto encode = [](std::string_view pre, std::string_view text) {
    GgufVocabulary vocabulary;
    vocabulary.model = "gpt2";
    vocabulary.pre = pre;
    vocabulary.tokens = {"1", "2", "12", "Ġ", "a", "Ġa", "!", "!!", "a!", "Ġa!", "é", "Ã", "©", "Ã©", "1212"};
    vocabulary.merges = {"1 2", "Ġ a", "! !", "a !", "Ġa !", "12 12", "Ã ©"};
    const auto tokenizer = MakeTokenizer(vocabulary);
    EXPECT_TRUE(tokenizer.ok()) << pre << ": " << tokenizer.status();
    const auto ids = (*tokenizer)->Encode(text);
    EXPECT_TRUE(ids.ok()) << pre << ": " << ids.status();
    return *ids;
  };
  const std::vector<int32_t> digits_alone = {0, 1, 0, 1, 5, 7}, digits_by_three = {2, 0, 1, 5, 7},
                             digits_together = {14, 5, 7};
  const std::pair<std::string_view, std::vector<int32_t>> expected[] = {
      {"gpt-2", digits_together},       {"olmo", digits_together},       {"dbrx", digits_by_three},
      {"llama-bpe", digits_by_three},   {"qwen2", digits_alone},         {"hunyuan", digits_alone},
      {"gpt-4o", digits_by_three},      {"minimax-m2", digits_by_three}, {"kimi-k2", digits_by_three},
      {"glm4", digits_by_three},        {"tekken", digits_alone},        {"refact", digits_alone},
      {"deepseek-v3", digits_by_three}, {"deepseek-llm", digits_alone},  {"deepseek-coder", digits_alone},
  };
  for (const auto& [pre, ids] : expected) EXPECT_EQ(encode(pre, "1212 a!!"), ids) << pre;
  EXPECT_THAT(encode("deepseek-llm", "é a"), ElementsAre(13, 5));
}

GgufVocabulary Llama() {
  GgufVocabulary vocabulary;
  vocabulary.model = "llama";
  vocabulary.tokens = {"<unk>", "<s>", "</s>", "▁", "a", "b", "ab", "▁ab", "<pad0>"};
  vocabulary.scores = {0, 0, 0, -4, -5, -6, -1, -2, -1000};
  vocabulary.types = {2, 3, 3, 1, 1, 1, 1, 1, 5};
  vocabulary.bos_id = 1;
  vocabulary.eos_id = 2;
  vocabulary.unknown_id = 0;
  return vocabulary;
}

TEST(GgufVocabulary, LlamaMergesByScore) {
  GgufVocabulary vocabulary = Llama();
  const auto tokenizer = MakeTokenizer(vocabulary);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT(*(*tokenizer)->Encode("ab abba"), ElementsAre(1, 7, 7, 5, 4));
  // Text as any other, though a token is written like it.
  EXPECT_NE((*tokenizer)->Encode("<pad0>", {.add_special_tokens = false, .parse_special = false})->front(), 8);
  EXPECT_EQ(*(*tokenizer)->Decode(std::vector<int32_t>{1, 7, 7, 5}), "ab abb");

  vocabulary.add_bos = false;
  vocabulary.add_eos = true;
  vocabulary.add_space_prefix = false;
  EXPECT_THAT(*(*MakeTokenizer(vocabulary))->Encode("ab"), ElementsAre(6, 2));
}

TEST(GgufVocabulary, NamesWhatIsWrong) {
  const auto error = [](void (*spoil)(GgufVocabulary*)) {
    GgufVocabulary vocabulary = Llama();
    spoil(&vocabulary);
    return std::string(Message(MakeTokenizer(vocabulary).status()));
  };
  EXPECT_THAT(error([](GgufVocabulary* v) { v->model = "bert"; }), HasSubstr("tokenizer.ggml.model is \"bert\""));
  EXPECT_THAT(error([](GgufVocabulary* v) { v->tokens.clear(); }), HasSubstr("tokens is missing or empty"));
  EXPECT_THAT(error([](GgufVocabulary* v) { v->types.pop_back(); }), HasSubstr("token_type has 8 elements"));
  EXPECT_THAT(error([](GgufVocabulary* v) { v->types[4] = 7; }), HasSubstr("token_type[4] is 7"));
  EXPECT_THAT(error([](GgufVocabulary* v) { v->scores.pop_back(); }), HasSubstr("scores has 8 elements"));
  EXPECT_THAT(error([](GgufVocabulary* v) { v->tokens[4] = "\xff"; }), HasSubstr("tokens[4] is not UTF-8"));
  EXPECT_THAT(error([](GgufVocabulary* v) { v->eos_id = 9; }), HasSubstr("eos_token_id is 9; there are 9 tokens"));
  EXPECT_THAT(error([](GgufVocabulary* v) {
                v->model = "gpt2";
                v->pre = "qwen3";
              }),
              HasSubstr("tokenizer.ggml.pre is \"qwen3\", which is not known; the nearest that is: \"qwen2\""));
}

}  // namespace
}  // namespace moed
