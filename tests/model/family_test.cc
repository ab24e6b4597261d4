// The shapes of real models, as their families read them.
#include "model/family.h"

#include <gmock/gmock.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "checkpoint/checkpoint.h"
#include "tests/support/temp_dir.h"

namespace moed {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<ModelConfig> ReadFolder(const std::string& dir) {
  MOED_ASSIGN_OR_RETURN(const auto checkpoint, Checkpoint::Open(dir, {.load_format = LoadFormat::kDummy}));
  return ReadModelConfig(*checkpoint);
}

ModelConfig ReadShape(const std::string& name) {
  auto config = ReadFolder("configs/shapes/" + name);
  EXPECT_TRUE(config.ok()) << config.status();
  return std::move(config).value();
}

// configs/shapes/`name` with some fields changed.
absl::StatusOr<ModelConfig> ReadChanged(const std::string& name, const nlohmann::json& changes) {
  std::ifstream file("configs/shapes/" + name + "/config.json");
  nlohmann::json config = nlohmann::json::parse(file);
  config.update(changes);
  const testing::TempDir dir;
  dir.Write("config.json", config.dump());
  return ReadFolder(dir.path());
}

int64_t KvBytesPerToken(const ModelConfig& config) {
  int64_t bytes = 0;
  for (const CacheSpec& spec : CacheSpecs(config, DType::kBF16)) bytes += spec.bytes_per_position();
  return bytes;
}

// Totals are those that transformers counts for the same files, correction biases included.
TEST(FamilyTest, ParametersAndCacheOfRealModels) {
  const ModelConfig v2_lite = ReadShape("deepseek-v2-lite");
  EXPECT_EQ(CountParameters(v2_lite).total, 15'706'484'224);
  EXPECT_NEAR(static_cast<double>(CountParameters(v2_lite).active) / 1e9, 2.45, 0.01);
  EXPECT_EQ(KvBytesPerToken(v2_lite), 27 * (512 + 64) * 2);

  const ModelConfig v3 = ReadShape("deepseek-v3");
  EXPECT_EQ(CountParameters(v3).total, 671'026'419'200);
  EXPECT_NEAR(static_cast<double>(CountParameters(v3).active) / 1e9, 36.63, 0.01);
  EXPECT_EQ(KvBytesPerToken(v3), 61 * (512 + 64) * 2);

  const ModelConfig kimi = ReadShape("kimi-k2");
  EXPECT_EQ(kimi.family, "kimi_k2");
  EXPECT_EQ(CountParameters(kimi).total, 1'026'408'232'448);
  EXPECT_NEAR(static_cast<double>(CountParameters(kimi).active) / 1e9, 31.69, 0.01);

  const ModelConfig glm = ReadShape("glm-4.5-air");
  EXPECT_EQ(CountParameters(glm).total, 106'852'251'264);
  EXPECT_NEAR(static_cast<double>(CountParameters(glm).active) / 1e9, 12.80, 0.01);
  EXPECT_EQ(KvBytesPerToken(glm), 46 * 2 * 8 * 128 * 2);
}

TEST(FamilyTest, DeepseekV2LiteHasNoLatentOfQueries) {
  const ModelConfig config = ReadShape("deepseek-v2-lite");
  EXPECT_TRUE(config.attention.is_latent());
  EXPECT_EQ(config.attention.latent.q_lora_rank, 0);
  EXPECT_EQ(config.attention.latent.cached_dim(), 576);
  EXPECT_EQ(config.attention.k_head_dim, 192);
  EXPECT_EQ(config.rope.rotary_dim, 64);
  EXPECT_TRUE(config.rope.interleaved);
  // 1 / sqrt(192) times the square of 0.1 * 0.707 * ln(40) + 1.
  EXPECT_NEAR(config.attention.scale, 0.11472, 1e-5);
  EXPECT_FALSE(config.layers[0].is_moe);
  EXPECT_EQ(config.num_moe_layers(), 26);
  EXPECT_EQ(config.moe.shared_intermediate_size, 2 * 1408);
  EXPECT_EQ(config.moe.scoring, kernels::RouterScoring::kSoftmax);
  EXPECT_FALSE(config.moe.correction_bias);
}

TEST(FamilyTest, DeepseekV3ChoosesAmongGroups) {
  const ModelConfig config = ReadShape("deepseek-v3");
  EXPECT_EQ(config.moe.scoring, kernels::RouterScoring::kSigmoid);
  EXPECT_TRUE(config.moe.correction_bias);
  EXPECT_EQ(config.moe.num_groups, 8);
  EXPECT_EQ(config.moe.top_groups, 4);
  EXPECT_EQ(config.num_moe_layers(), 58);
  EXPECT_FLOAT_EQ(config.moe.weight_scale, 2.5f);
}

TEST(FamilyTest, WhatDoesNotFitIsNamed) {
  const auto message = [](const std::string& name, const nlohmann::json& changes) {
    return std::string(Message(ReadChanged(name, changes).status()));
  };
  EXPECT_THAT(message("deepseek-v3", {{"n_group", 7}}), HasSubstr("n_group is 7; it must divide"));
  EXPECT_THAT(message("deepseek-v3", {{"topk_group", 9}}),
              HasSubstr("topk_group is 9; it must be at most n_group (8)"));
  EXPECT_THAT(message("deepseek-v3", {{"num_experts_per_tok", 200}}), HasSubstr("4 groups of experts hold only 128"));
  EXPECT_THAT(message("deepseek-v3", {{"scoring_func", "tanh"}}), HasSubstr("scoring_func \"tanh\" is not supported"));
  EXPECT_THAT(message("deepseek-v2-lite", {{"topk_method", "best"}}), HasSubstr("topk_method \"best\""));
  EXPECT_THAT(message("deepseek-v2-lite", {{"qk_rope_head_dim", 63}}), HasSubstr("63 dimensions of each head"));
  EXPECT_THAT(message("deepseek-v2-lite", {{"kv_lora_rank", 0}}), HasSubstr("kv_lora_rank is 0"));
  EXPECT_THAT(message("glm-4.5-air", {{"partial_rotary_factor", 1e30}}), HasSubstr("it must be at most 1"));
}

TEST(FamilyTest, NumbersThatNoModelHasAreNamed) {
  const auto message = [](const std::string& name, const nlohmann::json& changes) {
    return std::string(Message(ReadChanged(name, changes).status()));
  };
  // Would be 0 as a 32-bit number.
  EXPECT_THAT(message("deepseek-v3", {{"n_group", 4294967296}}), HasSubstr("n_group"));
  EXPECT_THAT(message("deepseek-v3", {{"topk_group", 4294967297}}), HasSubstr("topk_group"));
  EXPECT_THAT(message("mixtral-8x7b", {{"sliding_window", 4294967296}}), HasSubstr("sliding_window"));
  EXPECT_THAT(message("mixtral-8x7b", {{"num_local_experts", 4096},
                                       {"intermediate_size", 1 << 20},
                                       {"hidden_size", 1 << 20},
                                       {"num_hidden_layers", 1000}}),
              HasSubstr("parameters; at most 1e+15 can be counted"));
}

}  // namespace
}  // namespace moed
