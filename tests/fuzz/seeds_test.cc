// Runs every target over its seeds: inputs that fuzzing starts from, and those on which it once found a mistake.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "tests/fuzz/targets.h"

namespace moed::fuzz {
namespace {

struct Target {
  const char* name;
  void (*run)(std::string_view input);
};

constexpr Target kTargets[] = {
    {"safetensors_header", SafetensorsHeader},
    {"gguf_header", GgufHeader},
    {"model_config", ModelConfig},
    {"tokenizer_json", TokenizerJson},
    {"tokenizer_model", TokenizerModel},
    {"tokenizer_text", TokenizerText},
    {"chat_template", ChatTemplate},
    {"step_plan", StepPlan},
    {"request", Request},
};

std::vector<std::filesystem::path> Seeds(const Target& target) {
  std::vector<std::filesystem::path> seeds;
  for (const auto& entry :
       std::filesystem::directory_iterator(std::filesystem::path("tests/fuzz/seeds") / target.name)) {
    seeds.push_back(entry.path());
  }
  std::sort(seeds.begin(), seeds.end());
  return seeds;
}

class SeedsTest : public testing::TestWithParam<Target> {};

TEST_P(SeedsTest, NoneDoesHarm) {
  const auto seeds = Seeds(GetParam());
  ASSERT_FALSE(seeds.empty());
  for (const auto& seed : seeds) {
    SCOPED_TRACE(seed);
    std::ifstream file(seed, std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(file), {}};
    GetParam().run(bytes);
    // Cut short anywhere.
    for (size_t cut = 0; cut < bytes.size(); cut += 1 + bytes.size() / 16) GetParam().run(bytes.substr(0, cut));
  }
}

INSTANTIATE_TEST_SUITE_P(Targets, SeedsTest, testing::ValuesIn(kTargets),
                         [](const auto& tested) { return std::string(tested.param.name); });

}  // namespace
}  // namespace moed::fuzz
