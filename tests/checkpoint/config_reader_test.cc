#include "checkpoint/config_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/support/temp_dir.h"

namespace moed {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

JsonFile Parsed(std::string_view text) {
  auto file = JsonFile::Parse("config.json", text);
  EXPECT_TRUE(file.ok()) << file.status();
  return file.ok() ? *file : JsonFile("broken");
}

TEST(ConfigReader, ReadsEachType) {
  const JsonFile file = Parsed(R"({"n":7,"x":1.5,"whole":10000,"b":true,"s":"silu","none":null,"eos":2,
      "list":[1,2],"names":["a"],"rope":{"factor":4.0,"inner":{"deep":1}}})");
  const ConfigReader config(file);
  EXPECT_EQ(config.Int("n", kPositive), 7);
  EXPECT_EQ(config.Float("x"), 1.5);
  EXPECT_EQ(config.Float("whole"), 10000.0);
  EXPECT_TRUE(config.Bool("b"));
  EXPECT_EQ(config.String("s"), "silu");
  EXPECT_FALSE(config.Has("none"));
  EXPECT_EQ(config.IntOr("none", 5), 5);
  EXPECT_EQ(config.FloatOr("absent", 0.5), 0.5);
  EXPECT_TRUE(config.BoolOr("absent", true));
  EXPECT_EQ(config.StringOr("absent", "gelu"), "gelu");
  EXPECT_THAT(config.Ints("list"), ElementsAre(1, 2));
  EXPECT_THAT(config.Ints("eos"), ElementsAre(2));
  EXPECT_THAT(config.Ints("none"), IsEmpty());
  EXPECT_THAT(config.Floats("list"), ElementsAre(1.0, 2.0));
  EXPECT_THAT(config.Strings("names"), ElementsAre("a"));
  const auto rope = config.Object("rope");
  ASSERT_TRUE(rope.has_value());
  EXPECT_EQ(rope->Float("factor"), 4.0);
  EXPECT_THAT(rope->Keys(), ElementsAre("factor", "inner"));
  EXPECT_FALSE(config.Object("none").has_value());
  EXPECT_TRUE(config.status().ok()) << config.status();
}

TEST(ConfigReader, NamesKeyValueAndRule) {
  const JsonFile file = Parsed(R"({"word":"x","neg":-1,"frac":2.5,"huge":18446744073709551615,"t":true,"list":[1,"b"],
      "rope":{"type":3,"in":{"n":[]}}})");
  struct Case {
    void (*read)(const ConfigReader&);
    const char* message;
  };
  const Case cases[] = {
      {[](const ConfigReader& c) { c.Int("absent"); }, "config.json: absent is missing"},
      {[](const ConfigReader& c) { c.Int("word"); }, "config.json: word is \"x\"; it must be an integer"},
      {[](const ConfigReader& c) { c.Int("neg", kPositive); }, "neg is -1; it must be an integer from 1 to 2147483647"},
      {[](const ConfigReader& c) {
         c.IntOr("neg", 1, {0, 8});
       },
       "neg is -1; it must be an integer from 0 to 8"},
      {[](const ConfigReader& c) { c.Int("frac"); }, "frac is 2.5; it must be an integer"},
      {[](const ConfigReader& c) { c.Int("huge"); }, "huge is 18446744073709551615; it must be an integer"},
      {[](const ConfigReader& c) { c.Int("t"); }, "t is true; it must be an integer"},
      {[](const ConfigReader& c) { c.Float("word"); }, "word is \"x\"; it must be a number"},
      {[](const ConfigReader& c) { c.Bool("neg"); }, "neg is -1; it must be true or false"},
      {[](const ConfigReader& c) { c.String("neg"); }, "neg is -1; it must be a string"},
      {[](const ConfigReader& c) { c.Ints("list"); }, "list[1] is \"b\"; it must be an integer"},
      {[](const ConfigReader& c) { c.Strings("list"); }, "list[0] is 1; it must be a string"},
      {[](const ConfigReader& c) { c.Object("list"); }, "list is a list of 2; it must be an object"},
      {[](const ConfigReader& c) { c.Object("rope")->String("type"); }, "rope.type is 3; it must be a string"},
      {[](const ConfigReader& c) { c.Object("rope")->Object("in")->Float("n"); }, "rope.in.n is a list of 0;"},
  };
  for (const Case& one : cases) {
    const ConfigReader config(file);
    one.read(config);
    EXPECT_TRUE(absl::IsInvalidArgument(config.status())) << one.message;
    EXPECT_THAT(std::string(Message(config.status())), HasSubstr(one.message));
  }
}

TEST(ConfigReader, KeepsTheFirstError) {
  const JsonFile file = Parsed(R"({"a":"x"})");
  const ConfigReader config(file);
  EXPECT_EQ(config.Int("a", kPositive), 1) << "the least that the range allows";
  config.Int("b");
  config.Fail(InvalidArgument("later"));
  EXPECT_THAT(std::string(Message(config.status())), HasSubstr("a is \"x\""));
}

TEST(JsonFile, RefusesWhatIsNotAnObject) {
  const testing::TempDir dir;
  EXPECT_TRUE(absl::IsNotFound(JsonFile::Read(dir.File("none.json")).status()));
  struct Case {
    std::string text;
    const char* message;
  };
  const Case cases[] = {
      {"", "not JSON"},
      {"[1]", "holds array; it must be a JSON object"},
      {"{\"a\": 1,}", "not JSON: parse error at line 1, column 9"},
      {"{\"a\": NaN}", "not JSON"},
      {"{\"a\": \"\xc3\"}", "not JSON"},
      {std::string(100'000, '['), "nested 100000 deep; at most 64 is allowed"},
  };
  for (const Case& one : cases) {
    const std::string path = dir.Write("config.json", one.text);
    const auto file = JsonFile::Read(path);
    EXPECT_TRUE(absl::IsInvalidArgument(file.status())) << one.text.substr(0, 100);
    EXPECT_THAT(std::string(Message(file.status())), HasSubstr(path + ": " + one.message));
  }
  EXPECT_THAT(std::string(Message(JsonFile::Read(dir.Write("big.json", R"({"a":  1})"), 5).status())),
              HasSubstr("the file has 9 bytes; at most 5 are read"));
}

}  // namespace
}  // namespace moed
