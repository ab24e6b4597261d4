// The files that the tokenizer tests read, line by line.
#ifndef MOED_TESTS_TOKENIZER_GOLDEN_FILES_H_
#define MOED_TESTS_TOKENIZER_GOLDEN_FILES_H_

#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace moed {

// One JSON value a line.
inline std::vector<nlohmann::json> ReadJsonLines(const std::filesystem::path& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file.good()) << path;
  std::vector<nlohmann::json> rows;
  for (std::string line; std::getline(file, line);) rows.push_back(nlohmann::json::parse(line));
  return rows;
}

// Beside this header; tests run from the root of the source tree.
inline std::vector<nlohmann::json> ReadGolden(const std::string& name) {
  return ReadJsonLines(std::filesystem::path("tests/tokenizer/golden") / name);
}

// The folder of real tokenizers; empty where MOED_TEST_DATA is not set.
inline std::filesystem::path TokenizerData() {
  const char* root = std::getenv("MOED_TEST_DATA");
  return root == nullptr ? std::filesystem::path() : std::filesystem::path(root) / "tokenizers";
}

// What `xz -dc` makes of a file.
inline std::string ReadXz(const std::filesystem::path& path) {
  std::FILE* pipe = popen(("xz -dc '" + path.string() + "'").c_str(), "r");
  EXPECT_NE(pipe, nullptr);
  std::string content;
  std::array<char, 65536> buffer;
  for (size_t got; (got = fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) content.append(buffer.data(), got);
  EXPECT_EQ(pclose(pipe), 0) << path;
  return content;
}

inline std::string ReadFile(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace moed

#endif  // MOED_TESTS_TOKENIZER_GOLDEN_FILES_H_
