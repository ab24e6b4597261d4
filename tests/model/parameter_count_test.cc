// The numbers of weights of models that are published, from the shapes in configs/shapes.
#include <gtest/gtest.h>

#include <string>

#include "checkpoint/checkpoint.h"
#include "model/family.h"

namespace moed {
namespace {

struct Model {
  const char* shape;
  int64_t total;
  // In billions, as their authors say it: with the whole embedding table, of which we count one row.
  double active;
};

class ParameterCountTest : public testing::TestWithParam<Model> {};

TEST_P(ParameterCountTest, IsThatOfTheModel) {
  const auto checkpoint =
      Checkpoint::Open("configs/shapes/" + std::string(GetParam().shape), {.load_format = LoadFormat::kDummy});
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto config = ReadModelConfig(**checkpoint);
  ASSERT_TRUE(config.ok()) << config.status();
  const ParameterCount count = CountParameters(*config);
  EXPECT_EQ(count.total, GetParam().total);
  EXPECT_EQ(count.total, count.embedding + count.attention + count.router + count.experts + count.shared_experts +
                             count.dense + count.norms);
  const int64_t table = config->tied_embeddings ? 0 : int64_t{config->vocab_size} * config->hidden_size;
  EXPECT_NEAR(static_cast<double>(count.active + table) / 1e9, GetParam().active, 0.05 * GetParam().active);
}

INSTANTIATE_TEST_SUITE_P(
    Models, ParameterCountTest,
    testing::Values(Model{"olmoe-1b-7b", 6'919'161'856, 1.28}, Model{"qwen1.5-moe-a2.7b", 14'315'784'192, 2.7},
                    Model{"mixtral-8x7b", 46'702'792'704, 12.9}, Model{"qwen3-30b-a3b", 30'532'122'624, 3.3},
                    Model{"gpt-oss-20b", 20'914'757'184, 4.2}, Model{"phi-3.5-moe", 41'873'153'344, 6.6},
                    Model{"granite-3.0-1b-a400m", 1'334'628'352, 0.43}),
    [](const auto& model) {
      std::string name = model.param.shape;
      for (char& c : name) c = std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
      return name;
    });

}  // namespace
}  // namespace moed
