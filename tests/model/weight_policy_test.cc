#include "model/weight_policy.h"

#include <gmock/gmock.h>

#include "tests/support/temp_dir.h"

namespace moed {
namespace {

using kernels::WeightFormat;
using ::testing::HasSubstr;

TEST(WeightFormatTextTest, GoesBothWays) {
  for (const char* text : {"fp32", "bf16", "int8", "int4", "int8:32", "int4:1024"}) {
    const auto format = ParseWeightFormat(text);
    ASSERT_TRUE(format.ok()) << format.status();
    EXPECT_EQ(WeightFormatText(*format), text);
  }
  EXPECT_EQ(*ParseWeightFormat("int8:128"), WeightFormat::Int8());
}

TEST(WeightFormatTextTest, RefusesWithWords) {
  for (const char* text : {"int8:", "int8:4", "int4:12", "int4:2048", "bf16:32", "int8:x"}) {
    EXPECT_THAT(Message(ParseWeightFormat(text).status()), HasSubstr("only int8 and int4 have groups, of 8 to 1024"))
        << text;
  }
  EXPECT_THAT(Message(ParseWeightFormat("int3").status()),
              HasSubstr("there is no weight format \"int3\"; it must be fp32, bf16, int8 or int4"));
}

class WeightRulesTest : public ::testing::Test {
 protected:
  absl::StatusOr<WeightPolicy> Read(const std::string& text) {
    MOED_ASSIGN_OR_RETURN(auto rules, ReadWeightRules(dir_.Write("policy.yaml", text)));
    return WeightPolicy{.dtype = DType::kF32, .rules = std::move(rules)};
  }
  std::string Error(const std::string& text) { return std::string(Message(Read(text).status())); }

  testing::TempDir dir_;
};

TEST_F(WeightRulesTest, TheFirstThatFitsDecides) {
  const auto policy = Read(
      "rules:\n"
      "  - {parts: [experts, shared], layers: 0-3, format: \"int8:64\"}\n"
      "  - {parts: [experts], format: int4}\n"
      "  - {layers: 2, format: bf16}\n"
      "  - {parts: [head], format: int8}\n");
  ASSERT_TRUE(policy.ok()) << policy.status();
  EXPECT_EQ(policy->Format(WeightPart::kExperts, 0), WeightFormat::Int8(64));
  EXPECT_EQ(policy->Format(WeightPart::kExperts, 3), WeightFormat::Int8(64));
  EXPECT_EQ(policy->Format(WeightPart::kExperts, 4), WeightFormat::Int4());
  EXPECT_EQ(policy->Format(WeightPart::kShared, 4), WeightFormat::F32());
  EXPECT_EQ(policy->Format(WeightPart::kAttention, 2), WeightFormat::BF16());
  EXPECT_EQ(policy->Format(WeightPart::kAttention, 1), WeightFormat::F32());
  EXPECT_EQ(policy->HeadFormat(), WeightFormat::Int8());
  EXPECT_EQ(policy->EmbeddingFormat(), WeightFormat::F32());
}

TEST_F(WeightRulesTest, RulesWithLayersPassTheHeadBy) {
  const auto policy = Read("rules:\n  - {layers: 0-99, format: int4}\n");
  ASSERT_TRUE(policy.ok()) << policy.status();
  EXPECT_EQ(policy->HeadFormat(), WeightFormat::F32());
  EXPECT_EQ(policy->EmbeddingFormat(), WeightFormat::F32());
  EXPECT_EQ(WeightPolicy::Uniform(DType::kBF16, WeightFormat::Int4()).HeadFormat(), WeightFormat::Int4());
}

TEST_F(WeightRulesTest, WhatIsWrittenIsReadBack) {
  const std::vector<WeightPolicy::Rule> rules = {
      {.parts = {WeightPart::kExperts, WeightPart::kShared},
       .first_layer = 2,
       .last_layer = 7,
       .format = WeightFormat::Int4(32)},
      {.parts = {WeightPart::kEmbedding}, .format = WeightFormat::Int8()},
      {.parts = {}, .first_layer = 5, .last_layer = 5, .format = WeightFormat::BF16()},
      {.parts = {}, .format = WeightFormat::F32()}};
  const std::string path = dir_.File("written.yaml");
  ASSERT_TRUE(WriteWeightRules(rules, path).ok());
  const auto read = ReadWeightRules(path);
  ASSERT_TRUE(read.ok()) << read.status();
  ASSERT_EQ(read->size(), rules.size());
  for (size_t i = 0; i < rules.size(); ++i) {
    EXPECT_EQ((*read)[i].parts, rules[i].parts);
    EXPECT_EQ((*read)[i].first_layer, rules[i].first_layer);
    EXPECT_EQ((*read)[i].last_layer, rules[i].last_layer);
    EXPECT_EQ((*read)[i].format, rules[i].format);
  }
  EXPECT_FALSE(WriteWeightRules(rules, "/nowhere/written.yaml").ok());
}

TEST_F(WeightRulesTest, TablesAreInt8BesideInt4) {
  const WeightPolicy policy{.dtype = DType::kBF16, .rules = IntegerRules(WeightFormat::Int4(64))};
  EXPECT_EQ(policy.HeadFormat(), WeightFormat::Int8(64));
  EXPECT_EQ(policy.EmbeddingFormat(), WeightFormat::Int8(64));
  EXPECT_EQ(policy.Format(WeightPart::kAttention, 0), WeightFormat::Int8(64));
  EXPECT_EQ(policy.Format(WeightPart::kShared, 0), WeightFormat::Int4(64));
}

TEST_F(WeightRulesTest, ErrorsNameThePlaceAndWhatWouldBeRight) {
  EXPECT_THAT(
      Error("rules:\n  - {format: int8}\n  - {parts: [mlp], format: int8}\n"),
      HasSubstr(
          "policy.yaml:3: there is no part \"mlp\"; parts are attention, experts, shared, dense, head, embedding"));
  EXPECT_THAT(Error("rules:\n  - {parts: [head]}\n"), HasSubstr("policy.yaml:2: a rule has no format"));
  EXPECT_THAT(Error("rules:\n  - {layers: 3-1, format: int8}\n"), HasSubstr("layers is \"3-1\"; it must be"));
  EXPECT_THAT(Error("rules:\n  - {layer: 3, format: int8}\n"), HasSubstr("a rule has the key \"layer\""));
  EXPECT_THAT(Error("rules:\n  - int8\n"), HasSubstr("a rule is not a map"));
  EXPECT_THAT(Error("- {format: int8}\n"), HasSubstr("it must have one key, rules, with a list"));
  EXPECT_THAT(Error("rules: [\n"), HasSubstr("policy.yaml"));
  EXPECT_EQ(ReadWeightRules("/nowhere/policy.yaml").status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace moed
