// The tokenizers in the folder of test data.
#ifndef MOED_TESTS_TOKENIZER_REAL_TOKENIZERS_H_
#define MOED_TESTS_TOKENIZER_REAL_TOKENIZERS_H_

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "tests/tokenizer/golden_files.h"
#include "tokenizer/tokenizer.h"

namespace moed {

inline constexpr const char* kRealTokenizers[] = {"deepseek_v3", "mixtral", "olmoe", "qwen3"};

// Only where TokenizerData() is not empty.
inline std::unique_ptr<Tokenizer> LoadRealTokenizer(const std::string& name) {
  const auto folder = TokenizerData() / name;
  auto tokenizer = std::filesystem::exists(folder / "tokenizer.model")
                       ? Tokenizer::FromSentencePiece(ReadFile(folder / "tokenizer.model"))
                       : Tokenizer::FromJson(ReadXz(folder / "tokenizer.json.xz"));
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

}  // namespace moed

#endif  // MOED_TESTS_TOKENIZER_REAL_TOKENIZERS_H_
