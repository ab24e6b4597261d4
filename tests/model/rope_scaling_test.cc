// RoPE scalings in both spellings, against transformers (tests/golden/rope.json).
#include <gmock/gmock.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "checkpoint/config_reader.h"
#include "model/rope_reader.h"
#include "model/rope_table.h"
#include "tests/support/temp_dir.h"

namespace moed {
namespace {

using Json = nlohmann::json;
using ::testing::HasSubstr;

absl::StatusOr<RopeConfig> Read(const Json& config) {
  const testing::TempDir dir;
  const auto file = JsonFile::Read(dir.Write("config.json", config.dump()));
  EXPECT_TRUE(file.ok()) << file.status();
  const ConfigReader reader(*file);
  ModelConfig model;
  model.max_positions = config["max_position_embeddings"];
  model.attention.k_head_dim = config["hidden_size"].get<int>() / config["num_attention_heads"].get<int>();
  ReadRope(reader, &model);
  MOED_RETURN_IF_ERROR(reader.status());
  return model.rope;
}

// rope_theta and partial_rotary_factor outside, the rest in rope_scaling, with "type" as its name.
Json OlderSpelling(Json config) {
  Json rope = config["rope_parameters"];
  config.erase("rope_parameters");
  for (const char* key : {"rope_theta", "partial_rotary_factor"}) {
    if (!rope.contains(key)) continue;
    config[key] = rope[key];
    rope.erase(key);
  }
  rope["type"] = rope["rope_type"];
  rope.erase("rope_type");
  config["rope_scaling"] = rope;
  return config;
}

TEST(RopeScalingTest, FrequenciesAreThoseOfTransformers) {
  std::ifstream file("tests/golden/rope.json");
  const Json cases = Json::parse(file);
  ASSERT_GE(cases.size(), 12u);
  for (const Json& each : cases) {
    for (const Json& config : {each["config"], OlderSpelling(each["config"])}) {
      SCOPED_TRACE(config.dump());
      const auto rope = Read(config);
      ASSERT_TRUE(rope.ok()) << rope.status();
      const RopeFrequencies frequencies = ComputeRopeFrequencies(*rope, each["positions"]);
      ASSERT_EQ(frequencies.radians.size(), each["radians"].size());
      for (size_t i = 0; i < frequencies.radians.size(); ++i) {
        const double expected = each["radians"][i];
        EXPECT_NEAR(frequencies.radians[i], expected, 2e-6 * expected) << i;
      }
      EXPECT_NEAR(frequencies.magnitude, each["magnitude"], 1e-6);
    }
  }
}

TEST(RopeScalingTest, HunyuansAlphaIsALargerTheta) {
  const auto rope = Read({{"hidden_size", 64},
                          {"num_attention_heads", 2},
                          {"max_position_embeddings", 512},
                          {"rope_theta", 1e4},
                          {"rope_scaling", {{"type", "dynamic"}, {"alpha", 1000.0}}}});
  ASSERT_TRUE(rope.ok()) << rope.status();
  EXPECT_NEAR(rope->theta, 1e4 * std::pow(1000.0, 32.0 / 30.0), 1.0);
  EXPECT_TRUE(std::holds_alternative<std::monostate>(rope->scaling));
}

TEST(RopeScalingTest, WhatDoesNotFitIsNamed) {
  const auto message = [](const Json& scaling) {
    const auto rope = Read(
        {{"hidden_size", 64}, {"num_attention_heads", 2}, {"max_position_embeddings", 512}, {"rope_scaling", scaling}});
    return std::string(Message(rope.status()));
  };
  EXPECT_THAT(message({{"type", "spiral"}}), HasSubstr("RoPE scaling \"spiral\" is not supported; linear"));
  EXPECT_THAT(message({{"type", "linear"}, {"factor", 0.0}}), HasSubstr("factor is 0; it must be positive"));
  EXPECT_THAT(message({{"type", "longrope"}, {"short_factor", {1.0}}, {"long_factor", {1.0}}}),
              HasSubstr("short_factor has 1 numbers; it must have 16"));
  EXPECT_THAT(message({{"rope_type", "llama3"}, {"factor", 8.0}, {"low_freq_factor", 4.0}, {"high_freq_factor", 4.0}}),
              HasSubstr("high_freq_factor is 4; it must be above low_freq_factor"));
}

}  // namespace
}  // namespace moed
