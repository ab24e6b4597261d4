// The goldens in tests/golden are whole, and small.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/config_reader.h"
#include "checkpoint/safetensors_file.h"

namespace moed {
namespace {

namespace fs = std::filesystem;

const fs::path kGolden = "tests/golden";

std::vector<std::string> GoldenFolders() {
  std::vector<std::string> folders;
  for (const auto& item : fs::directory_iterator(kGolden)) {
    // The demo model itself is in models/demo.
    if (item.path().filename() == "demo") continue;
    if (fs::exists(item.path() / "golden.safetensors")) folders.push_back(item.path().string());
  }
  return folders;
}

TEST(Goldens, OpenAndAgreeWithTheirConfig) {
  const std::vector<std::string> folders = GoldenFolders();
  ASSERT_FALSE(folders.empty());
  for (const std::string& folder : folders) {
    const auto checkpoint = Checkpoint::Open(folder);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    const ConfigReader config((*checkpoint)->config());
    const int64_t vocab_size = config.Int("vocab_size", kPositive);
    const int64_t hidden_size = config.Int("hidden_size", kPositive);
    ASSERT_TRUE(config.status().ok()) << config.status();
    EXPECT_TRUE((*checkpoint)->Get("model.embed_tokens.weight", {vocab_size, hidden_size}).ok()) << folder;

    const auto golden = SafetensorsFile::Open(folder + "/golden.safetensors");
    ASSERT_TRUE(golden.ok()) << golden.status();
    const auto ids = (*golden)->Get("prompts.3.ids");
    const auto rows = (*golden)->Get("prompts.3.rows");
    const auto logits = (*golden)->Get("prompts.3.logits");
    const auto greedy = (*golden)->Get("prompts.3.greedy");
    ASSERT_TRUE(ids.ok() && rows.ok() && logits.ok() && greedy.ok()) << folder;
    EXPECT_TRUE(ids->HasShape({100}) && ids->dtype == DType::kI32) << folder;
    EXPECT_TRUE(logits->HasShape({rows->dim(0), vocab_size}) && logits->dtype == DType::kF32) << folder;
    EXPECT_TRUE(greedy->HasShape({64})) << folder;
    for (int i = 0; i < 100; ++i) EXPECT_LT(ids->As<int32_t>()[i], vocab_size) << folder;
  }
}

TEST(Goldens, StaySmall) {
  uintmax_t bytes = 0;
  for (const auto& item : fs::recursive_directory_iterator(kGolden)) {
    if (item.is_regular_file()) bytes += item.file_size();
  }
  EXPECT_LE(bytes, 8u << 20) << "all goldens together, which every clone downloads";
}

}  // namespace
}  // namespace moed
