// A real language model, end to end: stories260K with its feed-forward copied into the experts of a Mixtral must tell
// llama2.c's story to the byte.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "engine/moe_engine.h"
#include "scheduler/policy.h"
#include "scheduler/scheduler.h"
#include "tests/support/serve_all.h"
#include "tests/support/stories_model.h"
#include "tokenizer/tokenizer.h"

namespace moed {
namespace {

// llama2.c was asked for 200 steps, at temperature 0, from <s> alone.
constexpr int32_t kSteps = 200;

TEST(StoriesTest, GreedyTextIsThatOfLlama2C) {
  const auto stories = testing::StoriesFolder();
  if (!stories) GTEST_SKIP() << "MOED_TEST_DATA is not set";
  const std::filesystem::path dir = std::filesystem::path(::testing::TempDir()) / "stories_test";
  std::filesystem::create_directories(dir);
  const absl::Status written = testing::WriteStoriesModel(*stories, dir, {.num_experts = 5, .experts_per_token = 3});
  ASSERT_TRUE(written.ok()) << written;
  const auto tokenizer = Tokenizer::Load(dir);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();

  MoeEngineOptions options;
  options.device = Device{};
  options.model_dir = dir;
  options.max_num_seqs = 4;
  auto engine = MoeEngine::Load(options);
  ASSERT_TRUE(engine.ok()) << engine.status();
  auto scheduler = Scheduler::Create({.max_num_seqs = 4}, (*engine)->info(), MakeFcfsPolicy());
  ASSERT_TRUE(scheduler.ok()) << scheduler.status();
  Request request;
  request.id = 1;
  request.prompt_ids = {(*tokenizer)->bos_id().value()};
  request.params.temperature = 0.0f;
  request.params.max_tokens = kSteps;
  const auto served = test::ServeAll(**engine, **scheduler, {request}).at(1);
  ASSERT_EQ(served.tokens.size(), kSteps);

  const auto text = (*tokenizer)->Decode(served.tokens, {.skip_special_tokens = true});
  ASSERT_TRUE(text.ok()) << text.status();
  std::ifstream golden(std::filesystem::path(*stories) / "golden_temp0_n200.txt", std::ios::binary);
  const std::string expected((std::istreambuf_iterator<char>(golden)), std::istreambuf_iterator<char>());
  // llama2.c ends its output with a newline of its own.
  EXPECT_EQ(*text + "\n", expected);
}

}  // namespace
}  // namespace moed
