// What a user reads whose model is not known.
#include <gmock/gmock.h>

#include <string>
#include <string_view>

#include "checkpoint/checkpoint.h"
#include "model/family.h"
#include "tests/support/temp_dir.h"

namespace moed {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

std::string Error(std::string_view config) {
  const testing::TempDir dir;
  dir.Write("config.json", config);
  const auto checkpoint = Checkpoint::Open(dir.path(), {.load_format = LoadFormat::kDummy});
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto model = ReadModelConfig(**checkpoint);
  EXPECT_FALSE(model.ok());
  return std::string(Message(model.status()));
}

TEST(UnknownFamilyTest, NamesTheNearestAndWhatDiffers) {
  EXPECT_THAT(Error(R"({"architectures": ["Qwen4MoeForCausalLM"], "model_type": "qwen4_moe", "torch_dtype": "bfloat16",
                "vocab_size": 100, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                "max_position_embeddings": 128, "intermediate_size": 64, "num_experts": 8, "use_cache": true,
                "hyper_connections": 3, "rope_theta": 10000.0})"),
              AllOf(HasSubstr("architecture \"Qwen4MoeForCausalLM\" is not known; the nearest that is: \"Qwen"),
                    HasSubstr("lacks what that one needs: moe_intermediate_size"),
                    HasSubstr("has what that one does not know: hyper_connections"), Not(HasSubstr("use_cache")),
                    Not(HasSubstr("torch_dtype")), Not(HasSubstr("rope_theta"))));
}

TEST(UnknownFamilyTest, GoesByTheTypeWhereNoArchitectureIsNamed) {
  EXPECT_THAT(Error(R"({"model_type": "olmoe2"})"),
              AllOf(HasSubstr("\"olmoe2\" is not known; the nearest that is: \"olmoe\""), HasSubstr("vocab_size")));
}

TEST(UnknownFamilyTest, AFileThatNamesNothing) {
  EXPECT_THAT(Error(R"({"vocab_size": 100})"), HasSubstr("names no model"));
}

// Values of wrong types in a file for another model are no news beside that.
TEST(UnknownFamilyTest, OddValuesDoNotHideTheError) {
  EXPECT_THAT(Error(R"({"architectures": ["LlavaForConditionalGeneration"], "hidden_size": "large",
                        "text_config": {"hidden_size": 64}})"),
              AllOf(HasSubstr("\"LlavaForConditionalGeneration\" is not known"), HasSubstr("text_config")));
}

}  // namespace
}  // namespace moed
