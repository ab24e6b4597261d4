// A real language model for tests: stories260K as a Mixtral checkpoint.
#ifndef MOED_TESTS_SUPPORT_STORIES_MODEL_H_
#define MOED_TESTS_SUPPORT_STORIES_MODEL_H_

#include <cstdint>
#include <optional>
#include <string>

#include "base/status.h"

namespace moed::testing {

// The folder with stories260K.bin, tok512.bin and golden_temp0_n200.txt; nothing where MOED_TEST_DATA is not set, and a
// test then skips.
std::optional<std::string> StoriesFolder();

struct StoriesOptions {
  int num_experts = 4;
  int experts_per_token = 2;
  uint64_t seed = 1;  // of the router
};

// Writes to the existing folder `out` a checkpoint (config.json, model.safetensors in fp32, tokenizer.model,
// tokenizer_config.json) of the dense Llama in llama2.c's format that lies in `stories`. Every expert is a copy of the
// dense FFN under a random router. Mixtral renormalises its top-k weights to a sum of 1, so whatever the router
// chooses, the model computes what the dense one does: greedy decoding from the token <s> alone must give the text of
// golden_temp0_n200.txt.
//
// 5 layers, hidden 64, FFN 172, 8 heads of 8 and 4 KV heads, vocabulary 512, tied embeddings, context 512.
absl::Status WriteStoriesModel(const std::string& stories, const std::string& out, const StoriesOptions& options = {});

}  // namespace moed::testing

#endif  // MOED_TESTS_SUPPORT_STORIES_MODEL_H_
