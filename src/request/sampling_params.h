// How the next token is chosen, and when to stop.
#ifndef MOED_REQUEST_SAMPLING_PARAMS_H_
#define MOED_REQUEST_SAMPLING_PARAMS_H_

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"

namespace moed {

// Names, ranges and defaults as users know them from other servers. Order of application: logit bias, penalties,
// min_tokens, temperature, top-k, top-p, min-p.
struct SamplingParams {
  // 0 is greedy; otherwise logits are divided by it. [0, 100]
  float temperature = 1.0f;
  // Keep the k most likely tokens; 0: all.
  int32_t top_k = 0;
  // Keep the smallest set of most likely tokens whose probabilities reach top_p. (0, 1]
  float top_p = 1.0f;
  // Drop tokens less likely than min_p times the most likely one. [0, 1]
  float min_p = 0.0f;

  // Keskar et al. 2019 (arXiv:1909.05858): logits of tokens in prompt or output are divided by it where positive, else
  // multiplied. (0, 100]
  float repetition_penalty = 1.0f;
  // Subtracted once from every token in the output. [-2, 2]
  float presence_penalty = 0.0f;
  // Subtracted for each time that a token is in the output. [-2, 2]
  float frequency_penalty = 0.0f;
  // Added to the logits of these token ids; each in [-100, 100], at most kMaxLogitBias of them.
  std::vector<std::pair<int32_t, float>> logit_bias;

  // The same seed gives the same tokens for the same prompt and parameters, whatever else is served.
  std::optional<uint64_t> seed;

  // Tokens to generate at most and at least; until min_tokens are there, stop ids cannot be sampled.
  int32_t max_tokens = 256;
  int32_t min_tokens = 0;
  // Generation ends at one of these strings, which is not part of the output unless include_stop_in_output.
  // At most kMaxStops of at most kMaxStopBytes each.
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;
  bool include_stop_in_output = false;
  // Do not stop at the model's end-of-sequence tokens.
  bool ignore_eos = false;
  // Leave special tokens out of the text.
  bool skip_special_tokens = true;

  // Report the log-probability of each token and of the n most likely ones beside it, of the model's own distribution
  // (before bias, penalties and temperature). -1: none; 0: the token's own only; at most kMaxLogprobs.
  int32_t logprobs = -1;

  static constexpr int kMaxLogitBias = 1024;
  static constexpr int kMaxStops = 64;
  static constexpr int kMaxStopBytes = 1024;
  static constexpr int kMaxLogprobs = 32;

  bool greedy() const { return temperature == 0.0f; }
  bool operator==(const SamplingParams&) const = default;
};

// INVALID_ARGUMENT that names the field, its value and what would be right; token ids are checked against
// `vocab_size`. NaN is never right.
absl::Status Validate(const SamplingParams& params, int32_t vocab_size);

// Makes the model's end-of-sequence tokens stop ids, unless ignore_eos.
void AddEosTokens(std::span<const int32_t> eos_token_ids, SamplingParams* params);

}  // namespace moed

#endif  // MOED_REQUEST_SAMPLING_PARAMS_H_
