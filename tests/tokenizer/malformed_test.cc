// Files that are broken, or ask for what is not there: each gets a message that names the place, and none does harm.
#include <absl/strings/escaping.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <random>
#include <tuple>

#include "base/status.h"
#include "tests/support/tiny_tokenizer.h"

namespace moed {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;

json Good() {
  json config = json::parse(TinyTokenizerJson({"ab"}));
  config["model"]["merges"] = {"a b"};
  return config;
}

json Part(const char* text) { return json::parse(text); }

struct Row {
  const char* what;
  std::function<void(json&)> damage;
  absl::StatusCode code;
  const char* message;
};

const Row kRows[] = {
    {"no model", [](json& c) { c.erase("model"); }, kInvalid, "model is missing; it must be an object"},
    {"model null", [](json& c) { c["model"] = nullptr; }, kInvalid, "model is null; it must be an object"},
    {"model type", [](json& c) { c["model"]["type"] = "WordPiece"; }, kUnimplemented, "model has the type WordPiece"},
    {"model type kind", [](json& c) { c["model"]["type"] = 3; }, kInvalid, "model.type is 3; it must be a string"},
    {"no vocab", [](json& c) { c["model"].erase("vocab"); }, kInvalid, "model.vocab is missing"},
    {"vocab array", [](json& c) { c["model"]["vocab"] = json::array(); }, kInvalid, "model.vocab is an array"},
    {"id text", [](json& c) { c["model"]["vocab"]["a"] = "x"; }, kInvalid, "model.vocab['a'] is \"x\""},
    {"id fraction", [](json& c) { c["model"]["vocab"]["a"] = 1.5; }, kInvalid, "it must be an integer"},
    {"id negative", [](json& c) { c["model"]["vocab"]["a"] = -1; }, kInvalid, "token 'a' has the id -1"},
    {"id huge", [](json& c) { c["model"]["vocab"]["a"] = 4'000'000'000; }, kInvalid, "has the id 4000000000"},
    {"id over int64", [](json& c) { c["model"]["vocab"]["a"] = UINT64_MAX; }, kInvalid, "it must be an integer"},
    {"id twice", [](json& c) { c["model"]["vocab"]["a"] = 98; }, kInvalid, "have the same id 98"},
    {"no merges", [](json& c) { c["model"].erase("merges"); }, kInvalid, "model.merges is missing"},
    {"merges object", [](json& c) { c["model"]["merges"] = json::object(); }, kInvalid, "model.merges is an object"},
    {"merge number", [](json& c) { c["model"]["merges"] = {7}; }, kInvalid, "model.merges[0] is 7"},
    {"merge of one", [](json& c) { c["model"]["merges"] = {"ab"}; }, kInvalid, "model.merges[0] is \"ab\""},
    {"merge of three", [](json& c) { c["model"]["merges"] = {"a b c"}; }, kInvalid, "with one space between"},
    {"merge array of one", [](json& c) { c["model"]["merges"] = {{"a"}}; }, kInvalid, "model.merges[0]"},
    {"merge unknown", [](json& c) { c["model"]["merges"] = {"a zz"}; }, kInvalid,
     "not all three are in the vocabulary"},
    {"dropout", [](json& c) { c["model"]["dropout"] = 0.1; }, kUnimplemented, "model.dropout"},
    {"prefix", [](json& c) { c["model"]["continuing_subword_prefix"] = "##"; }, kUnimplemented, "'##'"},
    {"suffix", [](json& c) { c["model"]["end_of_word_suffix"] = "</w>"; }, kUnimplemented, "end_of_word_suffix"},
    {"unknown token", [](json& c) { c["model"]["unk_token"] = "<u>"; }, kInvalid, "model.unk_token is \"<u>\""},
    {"flag", [](json& c) { c["model"]["byte_fallback"] = 1; }, kInvalid,
     "byte_fallback is 1; it must be true or false"},
    {"added kind", [](json& c) { c["added_tokens"] = 5; }, kInvalid, "added_tokens is 5; it must be an array"},
    {"added element", [](json& c) { c["added_tokens"][0] = "x"; }, kInvalid, "added_tokens[0] is \"x\""},
    {"added content", [](json& c) { c["added_tokens"][0].erase("content"); }, kInvalid, "added_tokens[0].content"},
    {"added id", [](json& c) { c["added_tokens"][0]["id"] = 1 << 30; }, kInvalid, "added_tokens[0].id is 1073741824"},
    {"added id taken", [](json& c) { c["added_tokens"][0]["id"] = 97; }, kInvalid, "have the same id 97"},
    {"added id other",
     [](json& c) {
       c["added_tokens"][0] = {{"content", "a"}, {"id", 98}};
     },
     kInvalid, "added_tokens gives 'a' the id 98, but the vocabulary gives it 97"},
    {"normalizer kind", [](json& c) { c["normalizer"] = "NFC"; }, kInvalid, "normalizer is \"NFC\""},
    {"normalizer type", [](json& c) { c["normalizer"] = Part(R"({"type": "BertNormalizer"})"); }, kUnimplemented,
     "normalizer has the type BertNormalizer"},
    {"normalizer nested",
     [](json& c) { c["normalizer"] = Part(R"({"type": "Sequence", "normalizers": [{"type": "X"}]})"); }, kUnimplemented,
     "normalizer.normalizers[0] has the type X"},
    {"sequence empty", [](json& c) { c["normalizer"] = Part(R"({"type": "Sequence"})"); }, kInvalid,
     "normalizer.normalizers is missing"},
    {"strip flags", [](json& c) { c["normalizer"] = Part(R"({"type": "Strip"})"); }, kInvalid, "normalizer.strip_left"},
    {"replace pattern", [](json& c) { c["normalizer"] = Part(R"({"type": "Replace", "content": ""})"); }, kInvalid,
     "normalizer.pattern is missing; it must be an object with String or Regex"},
    {"replace empty",
     [](json& c) { c["normalizer"] = Part(R"({"type": "Replace", "content": "", "pattern": {"String": ""}})"); },
     kInvalid, "normalizer.pattern.String is \"\""},
    {"pre-tokenizer type", [](json& c) { c["pre_tokenizer"] = Part(R"({"type": "BertPreTokenizer"})"); },
     kUnimplemented, "pre_tokenizer has the type BertPreTokenizer"},
    {"behavior",
     [](json& c) { c["pre_tokenizer"] = Part(R"({"type": "Split", "pattern": {"String": "a"}, "behavior": "X"})"); },
     kInvalid, "pre_tokenizer.behavior is \"X\""},
    {"regex",
     [](json& c) {
       c["pre_tokenizer"] = Part(R"({"type": "Split", "pattern": {"Regex": "(a"}, "behavior": "Isolated"})");
     },
     kInvalid, "pre_tokenizer.pattern.Regex: regular expression '(a': a group is not closed"},
    {"regex class",
     [](json& c) {
       c["pre_tokenizer"] = Part(R"({"type": "Split", "pattern": {"Regex": "[a"}, "behavior": "Isolated"})");
     },
     kInvalid, "a class is not closed"},
    {"regex verb",
     [](json& c) {
       c["pre_tokenizer"] = Part(R"({"type": "Split", "pattern": {"Regex": "(*COMMIT)a"}, "behavior": "Isolated"})");
     },
     kUnimplemented, "'(*' is not supported"},
    {"regex property",
     [](json& c) {
       c["pre_tokenizer"] = Part(R"({"type": "Split", "pattern": {"Regex": "\\p{Nope}"}, "behavior": "Isolated"})");
     },
     kInvalid, "does not compile"},
    {"metaspace", [](json& c) { c["pre_tokenizer"] = Part(R"({"type": "Metaspace", "replacement": "__"})"); }, kInvalid,
     "pre_tokenizer.replacement is \"__\"; it must be one character"},
    {"decoder type", [](json& c) { c["decoder"] = Part(R"({"type": "CTC"})"); }, kUnimplemented,
     "decoder has the type CTC"},
    {"decoder order",
     [](json& c) {
       c["decoder"] = Part(R"({"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "ByteFallback"}]})");
     },
     kUnimplemented, "decoder.decoders[1]: ByteFallback behind Fuse is not supported"},
    {"decoder strip",
     [](json& c) { c["decoder"] = Part(R"({"type": "Strip", "content": " ", "start": -1, "stop": 0})"); }, kInvalid,
     "decoder.start is -1"},
    {"post-processor", [](json& c) { c["post_processor"] = Part(R"({"type": "BertProcessing"})"); }, kUnimplemented,
     "post_processor has the type BertProcessing"},
    {"template", [](json& c) { c["post_processor"] = Part(R"({"type": "TemplateProcessing", "single": []})"); },
     kInvalid, "post_processor.single"},
    {"template token",
     [](json& c) {
       c["post_processor"] = Part(R"({"type": "TemplateProcessing", "special_tokens": {},
        "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}]})");
     },
     kInvalid, "post_processor.special_tokens.<s>.ids is missing"},
    {"template id",
     [](json& c) {
       c["post_processor"] = Part(R"({"type": "TemplateProcessing", "special_tokens": {"<s>": {"ids": [9999]}},
        "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}]})");
     },
     kInvalid, "adds the unknown id 9999"},
};

TEST(MalformedTest, EachFaultIsNamed) {
  ASSERT_TRUE(Tokenizer::FromJson(Good().dump()).ok());
  for (const Row& row : kRows) {
    json config = Good();
    row.damage(config);
    const absl::Status status = Tokenizer::FromJson(config.dump()).status();
    EXPECT_EQ(status.code(), row.code) << row.what << ": " << status;
    EXPECT_THAT(std::string(Message(status)), HasSubstr(row.message)) << row.what;
  }
}

// A unigram model in the place of the other one.
json GoodUnigram() {
  json config = Good();
  config["pre_tokenizer"] = nullptr;
  config["model"] = Part(R"({"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0], ["a", -1.5]]})");
  config["added_tokens"] = json::array();
  return config;
}

TEST(MalformedTest, EachFaultOfAUnigramModelIsNamed) {
  ASSERT_TRUE(Tokenizer::FromJson(GoodUnigram().dump()).ok());
  const Row rows[] = {
      {"no vocab", [](json& c) { c["model"].erase("vocab"); }, kInvalid, "model.vocab is missing"},
      {"vocab object", [](json& c) { c["model"]["vocab"] = json::object(); }, kInvalid, "model.vocab is an object"},
      {"a token alone", [](json& c) { c["model"]["vocab"][1] = "a"; }, kInvalid, "model.vocab[1] is \"a\""},
      {"no score", [](json& c) { c["model"]["vocab"][1] = {"a"}; }, kInvalid, "must be a token and its score"},
      {"score text", [](json& c) { c["model"]["vocab"][1][1] = "x"; }, kInvalid, "must be a token and its score"},
      {"token twice", [](json& c) { c["model"]["vocab"][1][0] = "<unk>"; }, kInvalid, "has two ids"},
      {"token long", [](json& c) { c["model"]["vocab"][1][0] = std::string(2000, 'a'); }, kInvalid, "2000 bytes"},
      {"no unknown", [](json& c) { c["model"].erase("unk_id"); }, kInvalid, "model.unk_id is missing"},
      {"unknown", [](json& c) { c["model"]["unk_id"] = 2; }, kInvalid, "model.unk_id is 2"},
      {"byte level", [](json& c) { c["pre_tokenizer"] = Part(R"({"type": "ByteLevel"})"); }, kUnimplemented,
       "Unigram model behind ByteLevel"},
  };
  for (const Row& row : rows) {
    json config = GoodUnigram();
    row.damage(config);
    const absl::Status status = Tokenizer::FromJson(config.dump()).status();
    EXPECT_EQ(status.code(), row.code) << row.what << ": " << status;
    EXPECT_THAT(std::string(Message(status)), HasSubstr(row.message)) << row.what;
  }
}

TEST(MalformedTest, EachFaultOfATiktokenFileIsNamed) {
  constexpr const char* kMoonshot = R"({"tokenizer_class": "TikTokenTokenizer"})";
  std::string bytes;
  for (int byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    bytes += fmt::format("{} {}\n", absl::Base64Escape(absl::string_view(&c, 1)), byte);
  }
  EXPECT_TRUE(Tokenizer::FromTiktoken(bytes, kMoonshot).ok());
  const std::tuple<std::string, const char*, absl::StatusCode, const char*> rows[] = {
      {bytes, "{}", kUnimplemented, "tokenizer_class of tokenizer_config.json is ''"},
      {bytes, R"({"tokenizer_class": "Other"})", kUnimplemented, "only TikTokenTokenizer is supported"},
      {"", kMoonshot, kInvalid, "no token for the byte 0x00"},
      {bytes + "YWI=", kMoonshot, kInvalid, "line 257 is not a token in base64, a space and its rank"},
      {bytes + "Y!I= 256", kMoonshot, kInvalid, "line 257 is not"},
      {bytes + "YWI= x", kMoonshot, kInvalid, "line 257: the rank is no integer"},
      {bytes + "YWI= 5", kMoonshot, kInvalid, "have the same id 5"},
      {bytes + "YQ== 256", kMoonshot, kInvalid, "has two ids"},
      {bytes + "YWI= 99999999", kMoonshot, kInvalid, "has the id 99999999"},
      {bytes + std::string(4000, 'A') + " 256", kMoonshot, kInvalid, "3000 bytes"},
  };
  for (const auto& [file, config, code, message] : rows) {
    const absl::Status status = Tokenizer::FromTiktoken(file, config).status();
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(Message(status)), HasSubstr(message));
  }
}

TEST(MalformedTest, WhatIsNotJson) {
  for (const std::string text : {"", "{", "nonsense", "{\"model\": \"\xFF\"}", "[1, 2", "\"\\ud800\""}) {
    EXPECT_EQ(Tokenizer::FromJson(text).status().code(), kInvalid) << text;
  }
  EXPECT_THAT(Tokenizer::FromJson("[]").status().ToString(), HasSubstr("the document is an array"));
  EXPECT_THAT(Tokenizer::FromJson("{\"a\": }").status().ToString(), HasSubstr("not JSON"));
}

TEST(MalformedTest, NestingWithoutEnd) {
  const std::string brackets(200'000, '[');
  EXPECT_EQ(Tokenizer::FromJson(brackets).status().code(), kInvalid);
  json nested = Part(R"({"type": "NFC"})");
  for (int i = 0; i < 1000; ++i) nested = {{"type", "Sequence"}, {"normalizers", json::array({nested})}};
  json config = Good();
  config["normalizer"] = nested;
  EXPECT_THAT(Tokenizer::FromJson(config.dump()).status().ToString(), HasSubstr("is nested more than"));
}

TEST(MalformedTest, TheConfigurationBeside) {
  const std::string good = Good().dump();
  for (const auto& [config, message] : {
           std::pair{"{", "not JSON"},
           std::pair{"[]", "the document is an array"},
           std::pair{R"({"add_bos_token": "yes"})", "add_bos_token is \"yes\""},
           std::pair{R"({"bos_token": 5})", "bos_token is 5"},
           std::pair{R"({"added_tokens_decoder": {"x": {"content": "<a>"}}})", "'x' is not the id of a token"},
           std::pair{R"({"added_tokens_decoder": {"1": {"content": "<a>"}}})", "have the same id 1"},
           std::pair{R"({"added_tokens_decoder": {"300": 1}})", "added_tokens_decoder['300'] is 1"},
       }) {
    const absl::Status status = Tokenizer::FromJson(good, config).status();
    EXPECT_EQ(status.code(), kInvalid) << config;
    EXPECT_THAT(std::string(Message(status)), HasSubstr(message));
  }
}

// Whatever is changed in a good file, it is loaded or refused.
TEST(MalformedTest, DamageAtRandomPlacesDoesNoHarm) {
  std::mt19937 random(99);
  const std::string good = Good().dump();
  int loaded = 0;
  for (int round = 0; round < 400; ++round) {
    std::string text = good;
    for (int i = random() % 3; i >= 0; --i) {
      const size_t place = random() % text.size();
      switch (random() % 3) {
        case 0:
          text[place] = static_cast<char>(random());
          break;
        case 1:
          text.erase(place, random() % 20);
          break;
        default:
          text.insert(place, text.substr(random() % text.size(), random() % 20));
      }
    }
    const auto tokenizer = Tokenizer::FromJson(text);
    if (!tokenizer.ok()) continue;
    ++loaded;
    const auto ids = (*tokenizer)->Encode("abc <eos> \u4f60");
    if (ids.ok()) {
      EXPECT_TRUE((*tokenizer)->Decode(*ids).ok());
    }
  }
  EXPECT_GT(loaded, 0);
}

}  // namespace
}  // namespace moed
