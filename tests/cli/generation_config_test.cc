#include "cli/generation_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/temp_dir.h"

namespace moed {
namespace {

using ::testing::HasSubstr;

SamplingParams Read(const std::string& json) {
  const testing::TempDir dir;
  dir.Write("generation_config.json", json);
  const auto params = ReadGenerationConfig(dir.path());
  EXPECT_TRUE(params.ok()) << params.status();
  return params.value_or(SamplingParams());
}

TEST(GenerationConfig, SetsWhatItNames) {
  const SamplingParams params = Read(
      R"({"do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.05, "repetition_penalty": 1.05,
          "eos_token_id": [1, 2], "max_new_tokens": 7, "transformers_version": "4.51.0"})");
  EXPECT_EQ(
      params,
      (SamplingParams{.temperature = 0.6f, .top_k = 20, .top_p = 0.95f, .min_p = 0.05f, .repetition_penalty = 1.05f}));
}

TEST(GenerationConfig, LeavesTheRestAsItIs) {
  EXPECT_EQ(Read("{}"), SamplingParams());
  EXPECT_EQ(Read(R"({"temperature": null, "top_k": -1, "eos_token_id": 3})"), SamplingParams());
  const testing::TempDir dir;
  for (const std::string& model : {dir.path(), dir.Write("model.gguf", "GGUF")}) {
    const auto params = ReadGenerationConfig(model);
    ASSERT_TRUE(params.ok()) << params.status();
    EXPECT_EQ(*params, SamplingParams());
  }
}

TEST(GenerationConfig, WithoutSamplingIsGreedy) {
  EXPECT_TRUE(Read(R"({"do_sample": false, "temperature": 0.6})").greedy());
  EXPECT_FALSE(Read(R"({"top_p": 0.9})").greedy());
}

TEST(GenerationConfig, RefusesWhatNoRequestCouldHave) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"temperature": -1})", "temperature is -1; it must be in [0, 100]"},
      {R"({"top_p": 0})", "top_p is 0; it must be in (0, 1]"},
      {R"({"top_k": -2})", "top_k is -2"},
      {R"({"top_k": 1.5})", "top_k is 1.5"},
      {R"({"do_sample": "yes"})", "do_sample is \"yes\""},
      {R"([])", "generation_config.json"},
  };
  for (const auto& [json, message] : cases) {
    const testing::TempDir dir;
    dir.Write("generation_config.json", json);
    const absl::Status status = ReadGenerationConfig(dir.path()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << json;
    EXPECT_THAT(std::string(Message(status)), HasSubstr(message));
    EXPECT_THAT(std::string(Message(status)), HasSubstr("generation_config.json"));
  }
}

}  // namespace
}  // namespace moed
