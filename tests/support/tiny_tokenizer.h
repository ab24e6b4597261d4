// A tokenizer for tests whose tokens are easy to name: ids 0 to 255 are the bytes, then come the words that a test
// gives, then the special token "<eos>".
#ifndef MOED_TESTS_SUPPORT_TINY_TOKENIZER_H_
#define MOED_TESTS_SUPPORT_TINY_TOKENIZER_H_

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/logging.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/tokenizer.h"

namespace moed {

inline std::string TinyTokenizerJson(const std::vector<std::string>& words = {}) {
  const auto byte_level = [](std::string_view bytes) {
    std::string text;
    AppendByteLevel(bytes, &text);
    return text;
  };
  nlohmann::json vocab = nlohmann::json::object();
  for (int byte = 0; byte < 256; ++byte) vocab[byte_level(std::string(1, static_cast<char>(byte)))] = byte;
  for (const std::string& word : words) vocab[byte_level(word)] = vocab.size();
  const nlohmann::json eos = {{"id", vocab.size()}, {"content", "<eos>"},  {"single_word", false}, {"lstrip", false},
                              {"rstrip", false},    {"normalized", false}, {"special", true}};
  const nlohmann::json byte_level_part = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", false}, {"use_regex", false}};
  const nlohmann::json tokenizer = {
      {"version", "1.0"},
      {"added_tokens", nlohmann::json::array({eos})},
      {"normalizer", nullptr},
      {"pre_tokenizer", byte_level_part},
      {"post_processor", nullptr},
      {"decoder", byte_level_part},
      {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", nlohmann::json::array()}}},
  };
  return tokenizer.dump();
}

inline std::shared_ptr<const Tokenizer> MakeTinyTokenizer(const std::vector<std::string>& words = {}) {
  auto tokenizer = Tokenizer::FromJson(TinyTokenizerJson(words));
  MOED_CHECK(tokenizer.ok(), "{}", tokenizer.status().ToString());
  return std::move(tokenizer).value();
}

}  // namespace moed

#endif  // MOED_TESTS_SUPPORT_TINY_TOKENIZER_H_
