#include "checkpoint/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "checkpoint/config_reader.h"
#include "checkpoint/safetensors_writer.h"
#include "tests/support/temp_dir.h"

namespace moed {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::TempDir;

constexpr LoadOptions kDummy = {.load_format = LoadFormat::kDummy};

// Writes tensors of these names, [2, 3] of bf16 each, its first element numbering it.
void WriteShard(const std::string& path, const std::vector<std::string>& names) {
  std::vector<std::vector<BFloat16>> data;
  std::vector<std::pair<std::string, TensorView>> tensors;
  for (const std::string& name : names) {
    data.emplace_back(6, ToBFloat16(static_cast<float>(data.size())));
    tensors.emplace_back(name, TensorView(nullptr, {2, 3}, DType::kBF16));
  }
  for (size_t i = 0; i < data.size(); ++i) tensors[i].second.data = data[i].data();
  ASSERT_TRUE(WriteSafetensors(path, tensors).ok());
}

// A good folder of two shards: a and b in the first, c in the second.
void WriteSharded(const TempDir& dir) {
  dir.Write("config.json", R"({"model_type":"mixtral","hidden_size":3})");
  WriteShard(dir.File("one.safetensors"), {"a", "b"});
  WriteShard(dir.File("two.safetensors"), {"c"});
  dir.Write("model.safetensors.index.json",
            R"({"metadata":{"total_size":36},"weight_map":{"a":"one.safetensors","b":"one.safetensors",)"
            R"("c":"two.safetensors"}})");
}

TEST(Checkpoint, ReadsShards) {
  const TempDir dir;
  WriteSharded(dir);
  dir.Write("generation_config.json", R"({"eos_token_id":[2,5]})");
  const auto checkpoint = Checkpoint::Open(dir.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(ConfigReader((*checkpoint)->config()).Int("hidden_size"), 3);
  EXPECT_THAT(ConfigReader((*checkpoint)->generation_config()).Ints("eos_token_id"), ElementsAre(2, 5));
  EXPECT_EQ((*checkpoint)->total_bytes(), 36u);
  EXPECT_EQ((*checkpoint)->List().size(), 3u);
  EXPECT_TRUE((*checkpoint)->Has("c"));
  EXPECT_FALSE((*checkpoint)->Has("d"));
  const auto b = (*checkpoint)->Get("b", {2, 3});
  ASSERT_TRUE(b.ok()) << b.status();
  EXPECT_EQ(ToFloat(b->As<BFloat16>()[5]), 1.0f);
  EXPECT_THAT((*checkpoint)->UnusedTensors(), ElementsAre("a", "c"));
  (*checkpoint)->Release("b");
  EXPECT_EQ(ToFloat((*checkpoint)->Get("b", {2, 3})->As<BFloat16>()[5]), 1.0f);
}

TEST(Checkpoint, ReadsOneFile) {
  const TempDir dir;
  dir.Write("config.json", "{}");
  WriteShard(dir.File("model.safetensors"), {"a", "b"});
  const auto checkpoint = Checkpoint::Open(dir.path(), {.load_format = LoadFormat::kSafetensors});
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_TRUE((*checkpoint)->Get("a", {2, 3}).ok());
  EXPECT_THAT(ConfigReader((*checkpoint)->generation_config()).Keys(), IsEmpty());

  const absl::Status shape = (*checkpoint)->Get("a", {3, 2}).status();
  EXPECT_TRUE(absl::IsInvalidArgument(shape));
  EXPECT_THAT(std::string(Message(shape)),
              HasSubstr("model.safetensors: tensor \"a\" has the shape [2, 3]; the configuration asks for [3, 2]"));
  EXPECT_TRUE(absl::IsInvalidArgument((*checkpoint)->Get("a", {6}).status()));
  const absl::Status missing = (*checkpoint)->Get("z", {4}).status();
  EXPECT_TRUE(absl::IsNotFound(missing));
  EXPECT_THAT(std::string(Message(missing)), HasSubstr("no tensor \"z\"; the configuration asks for one of shape [4]"));
}

TEST(Checkpoint, RefusesWeightsOfOtherTypes) {
  const TempDir dir;
  dir.Write("config.json", "{}");
  const std::vector<int8_t> bytes(6);
  ASSERT_TRUE(WriteSafetensors(dir.File("model.safetensors"), {{"q", TensorView::Of(bytes.data(), {2, 3})}}).ok());
  const auto checkpoint = Checkpoint::Open(dir.path());
  ASSERT_TRUE(checkpoint.ok());
  const absl::Status status = (*checkpoint)->Get("q", {2, 3}).status();
  EXPECT_TRUE(absl::IsUnimplemented(status));
  EXPECT_THAT(std::string(Message(status)), HasSubstr("tensor \"q\" is of type I8; weights must be F32, F16 or BF16"));
}

TEST(Checkpoint, NamesWhatIsWrongWithAFolder) {
  struct Case {
    const char* what;
    std::function<void(const TempDir&)> spoil;  // of a good folder of two shards
    absl::StatusCode code;
    const char* message;
  };
  const auto Index = [](const char* weight_map) {
    return [weight_map](const TempDir& dir) {
      dir.Write("model.safetensors.index.json", fmt::format(R"({{"weight_map":{}}})", weight_map));
    };
  };
  const auto Remove = [](const char* name) {
    return [name](const TempDir& dir) { std::filesystem::remove(dir.File(name)); };
  };
  const Case cases[] = {
      {"no config", Remove("config.json"), absl::StatusCode::kNotFound, "there is no config.json"},
      {"config not JSON", [](const TempDir& dir) { dir.Write("config.json", "{"); }, absl::StatusCode::kInvalidArgument,
       "config.json: not JSON"},
      {"generation config not JSON", [](const TempDir& dir) { dir.Write("generation_config.json", "[]"); },
       absl::StatusCode::kInvalidArgument, "generation_config.json: holds array"},
      {"no weights", Remove("model.safetensors.index.json"), absl::StatusCode::kNotFound,
       "neither model.safetensors nor model.safetensors.index.json"},
      {"a GGUF file instead",
       [](const TempDir& dir) {
         std::filesystem::remove(dir.File("config.json"));
         dir.Write("b.gguf", "");
         dir.Write("a.gguf", "");
         dir.Write("a.bin", "");
       },
       absl::StatusCode::kNotFound, "; it holds \"a.gguf\", a model by itself"},
      {"pickled weights instead",
       [](const TempDir& dir) {
         std::filesystem::remove(dir.File("model.safetensors.index.json"));
         dir.Write("pytorch_model.bin", "");
       },
       absl::StatusCode::kNotFound, "; it holds \"pytorch_model.bin\", and pickled weights are not read"},
      {"missing shard", Remove("two.safetensors"), absl::StatusCode::kNotFound,
       "index.json: names the shard \"two.safetensors\", which is not there"},
      {"broken shard", [](const TempDir& dir) { dir.Write("two.safetensors", "oops"); },
       absl::StatusCode::kInvalidArgument, "two.safetensors: the file has 4 bytes"},
      {"wrong shard", Index(R"({"a":"one.safetensors","b":"two.safetensors","c":"two.safetensors"})"),
       absl::StatusCode::kInvalidArgument,
       "one.safetensors: holds tensor \"b\", which model.safetensors.index.json puts into \"two.safetensors\""},
      {"tensor in no shard",
       Index(R"({"a":"one.safetensors","b":"one.safetensors","c":"two.safetensors","d":"two.safetensors"})"),
       absl::StatusCode::kInvalidArgument, "puts tensor \"d\" into \"two.safetensors\", which does not hold it"},
      {"no weight_map", [](const TempDir& dir) { dir.Write("model.safetensors.index.json", "{}"); },
       absl::StatusCode::kInvalidArgument, "index.json: weight_map is missing"},
      {"empty weight_map", Index("{}"), absl::StatusCode::kInvalidArgument, "weight_map is empty"},
      {"weight_map is a list", Index("[]"), absl::StatusCode::kInvalidArgument, "not an object"},
      {"shard is a number", Index(R"({"a":1})"), absl::StatusCode::kInvalidArgument, "weight_map \"a\" is of type"},
      {"shard outside of the folder", Index(R"({"a":"../one.safetensors"})"), absl::StatusCode::kInvalidArgument,
       "must be the name of a file beside the index"},
      {"shard is the folder", Index(R"({"a":".."})"), absl::StatusCode::kInvalidArgument, "beside the index"},
  };
  for (const Case& one : cases) {
    const TempDir dir;
    WriteSharded(dir);
    one.spoil(dir);
    const absl::Status status = Checkpoint::Open(dir.path()).status();
    EXPECT_EQ(status.code(), one.code) << one.what << ": " << status;
    EXPECT_THAT(std::string(Message(status)), HasSubstr(one.message)) << one.what;
    EXPECT_THAT(std::string(Message(status)), HasSubstr(dir.path())) << one.what;
  }
}

TEST(Checkpoint, TensorsOutsideOfTheIndexAreLeftOut) {
  const TempDir dir;
  WriteSharded(dir);
  WriteShard(dir.File("two.safetensors"), {"c", "extra"});
  const auto checkpoint = Checkpoint::Open(dir.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_FALSE((*checkpoint)->Has("extra"));
}

TEST(Checkpoint, NotAFolder) {
  const TempDir dir;
  EXPECT_TRUE(absl::IsNotFound(Checkpoint::Open(dir.File("none")).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(Checkpoint::Open(dir.Write("model.bin", "x")).status()));
  // A pipe is refused, not waited for.
  ASSERT_EQ(mkfifo(dir.File("config.json").c_str(), 0600), 0);
  EXPECT_TRUE(absl::IsInvalidArgument(Checkpoint::Open(dir.path()).status()));
}

TEST(Checkpoint, DummyWeightsAreMadeOnDemand) {
  const TempDir dir;
  dir.Write("config.json", R"({"torch_dtype":"float32","initializer_range":0.5})");
  const auto checkpoint = Checkpoint::Open(dir.path(), kDummy);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto first = (*checkpoint)->Get("w", {3, 5});
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(first->ToString(), "fp32[3, 5]");
  const std::vector<float> values(first->As<float>(), first->As<float>() + 15);
  EXPECT_EQ((*checkpoint)->Get("w", {3, 5})->data, first->data);
  EXPECT_TRUE(absl::IsInvalidArgument((*checkpoint)->Get("w", {5, 3}).status()));
  (*checkpoint)->Release("w");
  const auto again = (*checkpoint)->Get("w", {5, 3});
  ASSERT_TRUE(again.ok());
  EXPECT_TRUE(std::equal(values.begin(), values.end(), again->As<float>()));
  EXPECT_EQ((*checkpoint)->Get("model.norm.weight", {4})->As<float>()[3], 1.0f);
  EXPECT_TRUE(absl::IsResourceExhausted((*checkpoint)->Get("big", {int64_t{1} << 40, int64_t{1} << 40}).status()));
  EXPECT_FALSE((*checkpoint)->Has("w"));

  const auto other = Checkpoint::Open(dir.path(), {.load_format = LoadFormat::kDummy, .dummy_seed = 1});
  ASSERT_TRUE(other.ok());
  EXPECT_FALSE(std::equal(values.begin(), values.end(), (*other)->Get("w", {3, 5})->As<float>()));
}

TEST(Checkpoint, DummyWeightsTakeTheirTypeFromTheConfig) {
  const TempDir dir;
  const auto Dtype = [&dir](const char* config) -> std::string {
    dir.Write("config.json", config);
    const auto checkpoint = Checkpoint::Open(dir.path(), kDummy);
    if (!checkpoint.ok()) return std::string(Message(checkpoint.status()));
    return (*checkpoint)->Get("w", {1})->ToString();
  };
  EXPECT_EQ(Dtype("{}"), "bf16[1]");
  EXPECT_EQ(Dtype(R"({"dtype":"float16"})"), "fp16[1]");
  EXPECT_EQ(Dtype(R"({"torch_dtype":"bfloat16"})"), "bf16[1]");
  EXPECT_THAT(Dtype(R"({"dtype":"int4"})"), HasSubstr("dtype is \"int4\""));
  EXPECT_THAT(Dtype(R"({"dtype":7})"), HasSubstr("dtype is 7; it must be a string"));
  EXPECT_THAT(Dtype(R"({"initializer_range":-1})"), HasSubstr("initializer_range is -1"));
}

TEST(Checkpoint, LoadFormatNames) {
  EXPECT_EQ(*ParseLoadFormat("auto"), LoadFormat::kAuto);
  EXPECT_EQ(*ParseLoadFormat("dummy"), LoadFormat::kDummy);
  EXPECT_THAT(std::string(Message(ParseLoadFormat("pickle").status())),
              HasSubstr("load_format is \"pickle\"; it must be auto, safetensors, gguf or dummy"));
}

}  // namespace
}  // namespace moed
