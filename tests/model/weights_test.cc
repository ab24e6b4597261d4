#include "model/weights.h"

#include <gmock/gmock.h>

#include <filesystem>
#include <string>

#include "base/thread_pool.h"
#include "model/family.h"
#include "model/open_model.h"
#include "tests/support/temp_dir.h"

namespace moed {
namespace {

using ::testing::HasSubstr;

constexpr const char* kModel = "tests/golden/mixtral_plain";

struct Loaded {
  absl::Status status;
  int steps;  // so often it told of progress
};

// What loading kModel says when `from` in its configuration reads `to`.
Loaded Load(const std::string& from, const std::string& to) {
  const testing::TempDir dir;
  std::ifstream file(std::string(kModel) + "/config.json");
  std::string config{std::istreambuf_iterator<char>(file), {}};
  const size_t at = config.find(from);
  MOED_CHECK(at != std::string::npos);
  dir.Write("config.json", config.replace(at, from.size(), to));
  std::filesystem::create_symlink(std::filesystem::absolute(std::string(kModel) + "/model.safetensors"),
                                  dir.File("model.safetensors"));
  const auto checkpoint = OpenModel(dir.path());
  MOED_CHECK(checkpoint.ok(), "{}", checkpoint.status().ToString());
  const auto model = ReadModelConfig(**checkpoint);
  MOED_CHECK(model.ok(), "{}", model.status().ToString());
  ThreadPool threads(1);
  int told = 0;
  const auto weights =
      ModelWeights::Load(*model, **checkpoint, {.dtype = DType::kF32}, {.threads = &threads}, [&](double) { ++told; });
  return {weights.status(), told};
}

TEST(ModelWeights, WhatIsMissingIsToldBeforeAnythingIsRead) {
  const Loaded whole = Load("}", "}");
  EXPECT_TRUE(whole.status.ok()) << whole.status;
  EXPECT_EQ(whole.steps, 4);  // three layers and the end

  const Loaded no_layer = Load("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 4");
  EXPECT_TRUE(absl::IsNotFound(no_layer.status));
  EXPECT_THAT(Message(no_layer.status), HasSubstr("there is no tensor \"model.layers.3.self_attn.q_proj.weight\""));
  EXPECT_EQ(no_layer.steps, 0);

  // More than any machine has.
  const Loaded too_large = Load("\"intermediate_size\": 32", "\"intermediate_size\": 16777216");
  EXPECT_TRUE(absl::IsInvalidArgument(too_large.status));
  EXPECT_THAT(Message(too_large.status), HasSubstr("the configuration asks for [16777216, 64]"));
  EXPECT_EQ(too_large.steps, 0);
}

}  // namespace
}  // namespace moed
