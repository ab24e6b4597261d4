#include "tests/support/stories_model.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

#include "checkpoint/checkpoint.h"
#include "checkpoint/config_reader.h"
#include "tests/support/temp_dir.h"

namespace moed::testing {
namespace {

TEST(StoriesModel, IsACheckpointOfEqualExperts) {
  const auto stories = StoriesFolder();
  if (!stories.has_value()) GTEST_SKIP() << "MOED_TEST_DATA is not set";
  const TempDir dir;
  const StoriesOptions options = {.num_experts = 5, .experts_per_token = 3, .seed = 7};
  const absl::Status written = WriteStoriesModel(*stories, dir.path(), options);
  ASSERT_TRUE(written.ok()) << written;
  const auto checkpoint = Checkpoint::Open(dir.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(ConfigReader((*checkpoint)->config()).Int("num_local_experts"), 5);
  EXPECT_EQ((*checkpoint)->List().size(), 2u + 5 * (7 + 5 * 3));
  const auto first = (*checkpoint)->Get("model.layers.4.block_sparse_moe.experts.0.w2.weight", {64, 172});
  const auto last = (*checkpoint)->Get("model.layers.4.block_sparse_moe.experts.4.w2.weight", {64, 172});
  ASSERT_TRUE(first.ok() && last.ok()) << first.status() << last.status();
  EXPECT_NE(first->data, last->data);
  EXPECT_EQ(std::memcmp(first->data, last->data, first->num_bytes()), 0);
  EXPECT_TRUE((*checkpoint)->Get("model.layers.0.self_attn.k_proj.weight", {32, 64}).ok());
  EXPECT_TRUE((*checkpoint)->Get("model.layers.0.block_sparse_moe.gate.weight", {5, 64}).ok());
  EXPECT_GT(std::filesystem::file_size(dir.File("tokenizer.model")), 4000u);
}

}  // namespace
}  // namespace moed::testing
