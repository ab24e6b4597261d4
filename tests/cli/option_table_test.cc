#include "cli/option_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <CLI/CLI.hpp>
#include <set>
#include <string>
#include <vector>

#include "cli/server_config.h"

namespace moed {
namespace {

using ::testing::HasSubstr;

std::string MessageOf(const absl::Status& status) {
  EXPECT_FALSE(status.ok());
  return std::string(Message(status));
}

class ServerConfigTest : public ::testing::Test {
 protected:
  ServerConfigTest() {
    config_.AddModelOptions(&table_);
    config_.AddServingOptions(&table_);
    config_.AddServerOptions(&table_);
  }

  absl::Status Parse(std::vector<std::string> arguments) {
    CLI::App app;
    table_.AddFlags(&app);
    std::reverse(arguments.begin(), arguments.end());  // as CLI11 wants them
    try {
      app.parse(arguments);
    } catch (const CLI::ParseError& error) {
      return InvalidArgument("{}", error.what());
    }
    return table_.ApplyFlags();
  }

  ServerConfig config_;
  OptionTable table_;
};

TEST_F(ServerConfigTest, YamlFillsAndFlagsOverride) {
  ASSERT_TRUE(table_
                  .ApplyYaml("max_num_seqs: 7\nport: 1234\nmodel: a/b\nkv_cache_memory: 2GiB\n"
                             "slow_reader_timeout: 1m30s\nenable_prefix_caching: false\ndtype: bf16\n",
                             "test.yaml")
                  .ok());
  ASSERT_TRUE(Parse({"--port", "99", "--enable-prefix-caching", "--seed=5"}).ok());
  EXPECT_EQ(config_.serving.scheduler.max_num_seqs, 7);
  EXPECT_EQ(config_.server.port, 99);
  EXPECT_EQ(config_.engine.model_dir, "a/b");
  EXPECT_EQ(config_.engine.kv_cache_bytes, uint64_t{2} << 30);
  EXPECT_EQ(config_.serving.slow_reader_timeout, absl::Seconds(90));
  EXPECT_TRUE(config_.serving.scheduler.enable_prefix_caching);
  EXPECT_EQ(config_.engine.dtype, DType::kBF16);

  ASSERT_TRUE(config_.Resolve().ok());
  EXPECT_EQ(config_.engine.max_num_seqs, 7);
  EXPECT_EQ(config_.engine.served_model_name, "b");
  EXPECT_EQ(config_.serving.scheduler.seed, 5u);
  EXPECT_EQ(config_.engine.dummy_seed, 5u);
}

TEST_F(ServerConfigTest, NegatedFlag) {
  ASSERT_TRUE(Parse({"--no-enable-prefix-caching"}).ok());
  EXPECT_FALSE(config_.serving.scheduler.enable_prefix_caching);
}

TEST_F(ServerConfigTest, AnUnknownKeyNamesTheNearest) {
  EXPECT_EQ(MessageOf(table_.ApplyYaml("port: 1\nmax_num_sequences: 3\n", "test.yaml")),
            "test.yaml:2: unknown key \"max_num_sequences\"; did you mean \"max_num_seqs\"?");
  EXPECT_THAT(MessageOf(table_.ApplyYaml("max-num-seqs: 3", "test.yaml")), HasSubstr("\"max_num_seqs\""));
}

TEST_F(ServerConfigTest, WrongTypesNameFileLineAndKey) {
  EXPECT_EQ(MessageOf(table_.ApplyYaml("\nport: abc", "test.yaml")),
            "test.yaml:2: port: \"abc\" is not a number; it must be an integer");
  EXPECT_THAT(MessageOf(table_.ApplyYaml("port: [1, 2]", "test.yaml")),
              HasSubstr("test.yaml:1: port must be a single"));
  EXPECT_THAT(MessageOf(table_.ApplyYaml("port: 99999999999", "test.yaml")), HasSubstr("out of range"));
  EXPECT_THAT(MessageOf(table_.ApplyYaml("port: 1.5", "test.yaml")), HasSubstr("integer"));
  EXPECT_THAT(MessageOf(table_.ApplyYaml("port:", "test.yaml")), HasSubstr("single value"));
  EXPECT_THAT(MessageOf(table_.ApplyYaml("log_requests: maybe", "test.yaml")), HasSubstr("true or false"));
  EXPECT_THAT(MessageOf(table_.ApplyYaml("drain_timeout: 5", "test.yaml")), HasSubstr("unit"));
  EXPECT_THAT(MessageOf(table_.ApplyYaml("dtype: fp5", "test.yaml")), HasSubstr("bf16"));
  EXPECT_THAT(MessageOf(table_.ApplyYaml("load_format: zip", "test.yaml")), HasSubstr("safetensors"));
  EXPECT_THAT(MessageOf(table_.ApplyYaml("kv_cache_memory: -1", "test.yaml")), HasSubstr("size"));
  EXPECT_THAT(MessageOf(table_.ApplyYaml("kv_cache_memory: 99999999999999GiB", "test.yaml")), HasSubstr("size"));
  EXPECT_THAT(MessageOf(Parse({"--port", "x"})), HasSubstr("--port: \"x\" is not a number"));
}

TEST_F(ServerConfigTest, MalformedYamlNamesTheLine) {
  EXPECT_THAT(MessageOf(table_.ApplyYaml("port: 1\nhost: [x\n", "test.yaml")), HasSubstr("test.yaml:"));
  EXPECT_THAT(MessageOf(table_.ApplyYaml("- 1\n- 2\n", "test.yaml")), HasSubstr("must map keys to values"));
  EXPECT_THAT(MessageOf(table_.ApplyYaml("port: 1\nport: 2\n", "test.yaml")), HasSubstr("given twice"));
  EXPECT_THAT(MessageOf(table_.ApplyYaml(std::string(2 << 20, ' '), "test.yaml")), HasSubstr("bytes"));
  EXPECT_TRUE(table_.ApplyYaml("# nothing\n", "test.yaml").ok());
  EXPECT_TRUE(absl::IsNotFound(table_.ApplyYamlFile("/no/such/file.yaml")));
}

TEST_F(ServerConfigTest, WhatIsPrintedIsReadBack) {
  config_.engine.model_dir = "a: strange #name";
  config_.seed = 3;
  config_.serving.scheduler.max_queue = 11;
  config_.engine.kv_cache_dtype = DType::kF16;
  const std::string printed = table_.PrintYaml();
  ServerConfig again;
  OptionTable table;
  again.AddModelOptions(&table);
  again.AddServingOptions(&table);
  again.AddServerOptions(&table);
  ASSERT_TRUE(table.ApplyYaml(printed, "printed").ok()) << printed;
  EXPECT_EQ(table.PrintYaml(), printed);
  EXPECT_EQ(again.engine.model_dir, "a: strange #name");
  EXPECT_EQ(again.seed, 3u);
}

TEST_F(ServerConfigTest, AModelMustBeNamed) { EXPECT_THAT(MessageOf(config_.Resolve()), HasSubstr("--model")); }

TEST_F(ServerConfigTest, TheNameOfAModelIsItsFolder) {
  for (const char* dir : {"x/demo", "x/demo/", "./demo", "x/y/../demo//"}) {
    config_.engine.model_dir = dir;
    config_.engine.served_model_name.clear();
    ASSERT_TRUE(config_.Resolve().ok());
    EXPECT_EQ(config_.engine.served_model_name, "demo") << dir;
  }
}

TEST_F(ServerConfigTest, TheConfigurationsThatShipAreRead) {
  for (const char* file : {"configs/demo.yaml", "configs/cpu.yaml"}) {
    ServerConfig config;
    OptionTable table;
    config.AddModelOptions(&table);
    config.AddServingOptions(&table);
    config.AddServerOptions(&table);
    const absl::Status status = table.ApplyYamlFile(file);
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_TRUE(config.Resolve().ok());
  }
}

}  // namespace
}  // namespace moed
