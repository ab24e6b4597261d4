#include "request/sampling_params.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "request/sequence.h"

namespace moed {
namespace {

constexpr int32_t kVocabSize = 1000;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Case {
  std::string says;  // part of the message; empty: the parameters are right
  std::function<void(SamplingParams&)> change;
};

TEST(SamplingParamsTest, DefaultsAreRight) { EXPECT_TRUE(Validate(SamplingParams{}, kVocabSize).ok()); }

TEST(SamplingParamsTest, EdgesOfEveryRange) {
  const Case cases[] = {
      {"", [](auto& p) { p.temperature = 0; }},
      {"", [](auto& p) { p.temperature = 100; }},
      {"temperature is -0.1; it must be in [0, 100]", [](auto& p) { p.temperature = -0.1f; }},
      {"temperature is 100.1", [](auto& p) { p.temperature = 100.1f; }},
      {"temperature is nan", [](auto& p) { p.temperature = kNan; }},
      {"temperature is inf", [](auto& p) { p.temperature = kInfinity; }},
      {"", [](auto& p) { p.top_k = 1 << 30; }},
      {"top_k is -1", [](auto& p) { p.top_k = -1; }},
      {"", [](auto& p) { p.top_p = 1e-6f; }},
      {"top_p is 0; it must be in (0, 1]", [](auto& p) { p.top_p = 0; }},
      {"top_p is 1.5", [](auto& p) { p.top_p = 1.5f; }},
      {"top_p is nan", [](auto& p) { p.top_p = kNan; }},
      {"", [](auto& p) { p.min_p = 0; }},
      {"", [](auto& p) { p.min_p = 1; }},
      {"min_p is -0.5", [](auto& p) { p.min_p = -0.5f; }},
      {"min_p is nan", [](auto& p) { p.min_p = kNan; }},
      {"", [](auto& p) { p.repetition_penalty = 100; }},
      {"repetition_penalty is 0", [](auto& p) { p.repetition_penalty = 0; }},
      {"repetition_penalty is nan", [](auto& p) { p.repetition_penalty = kNan; }},
      {"", [](auto& p) { p.presence_penalty = -2; }},
      {"presence_penalty is 2.5; it must be in [-2, 2]", [](auto& p) { p.presence_penalty = 2.5f; }},
      {"presence_penalty is nan", [](auto& p) { p.presence_penalty = kNan; }},
      {"", [](auto& p) { p.frequency_penalty = 2; }},
      {"frequency_penalty is -2.5", [](auto& p) { p.frequency_penalty = -2.5f; }},
      {"frequency_penalty is -inf", [](auto& p) { p.frequency_penalty = -kInfinity; }},
      {"", [](auto& p) { p.max_tokens = 1; }},
      {"max_tokens is 0; it must be at least 1", [](auto& p) { p.max_tokens = 0; }},
      {"max_tokens is -5", [](auto& p) { p.max_tokens = -5; }},
      {"", [](auto& p) { p.min_tokens = p.max_tokens; }},
      {"min_tokens is -1", [](auto& p) { p.min_tokens = -1; }},
      {"min_tokens is 257; it must be in [0, max_tokens = 256]", [](auto& p) { p.min_tokens = 257; }},
      {"", [](auto& p) { p.logprobs = SamplingParams::kMaxLogprobs; }},
      {"logprobs is -2", [](auto& p) { p.logprobs = -2; }},
      {"logprobs is 33; it must be in [-1, 32]", [](auto& p) { p.logprobs = 33; }},
  };
  for (const Case& c : cases) {
    SamplingParams params;
    c.change(params);
    const absl::Status status = Validate(params, kVocabSize);
    EXPECT_EQ(status.ok(), c.says.empty()) << status << " where \"" << c.says << "\" was due";
    if (status.ok()) continue;
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(Message(status).find(c.says), std::string_view::npos) << status << " instead of \"" << c.says << '"';
  }
}

TEST(SamplingParamsTest, ListsAreBoundedAndTheirIdsChecked) {
  const Case cases[] = {
      {"",
       [](auto& p) {
         p.logit_bias = {{0, -100.0f}, {kVocabSize - 1, 100.0f}};
       }},
      {"logit_bias names token 1000; token ids of this model are in [0, 1000)",
       [](auto& p) {
         p.logit_bias = {{kVocabSize, 1.0f}};
       }},
      {"logit_bias names token -1",
       [](auto& p) {
         p.logit_bias = {{-1, 1.0f}};
       }},
      {"logit_bias is nan",
       [](auto& p) {
         p.logit_bias = {{1, kNan}};
       }},
      {"logit_bias is 101",
       [](auto& p) {
         p.logit_bias = {{1, 101.0f}};
       }},
      {"", [](auto& p) { p.logit_bias.resize(SamplingParams::kMaxLogitBias); }},
      {"logit_bias has 1025 entries", [](auto& p) { p.logit_bias.resize(SamplingParams::kMaxLogitBias + 1); }},
      {"", [](auto& p) { p.stop.resize(SamplingParams::kMaxStops, "x"); }},
      {"stop has 10000 strings; at most 64", [](auto& p) { p.stop.resize(10'000, "x"); }},
      {"stop[1] is empty",
       [](auto& p) {
         p.stop = {"x", ""};
       }},
      {"", [](auto& p) { p.stop = {std::string(SamplingParams::kMaxStopBytes, 'x')}; }},
      {"stop[0] has 1025 bytes", [](auto& p) { p.stop = {std::string(SamplingParams::kMaxStopBytes + 1, 'x')}; }},
      {"",
       [](auto& p) {
         p.stop_token_ids = {0, kVocabSize - 1};
       }},
      {"stop_token_ids[1] is 1000",
       [](auto& p) {
         p.stop_token_ids = {0, kVocabSize};
       }},
      {"stop_token_ids[0] is -7", [](auto& p) { p.stop_token_ids = {-7}; }},
      {"stop_token_ids has 65 entries", [](auto& p) { p.stop_token_ids.resize(65); }},
  };
  for (const Case& c : cases) {
    SamplingParams params;
    c.change(params);
    const absl::Status status = Validate(params, kVocabSize);
    EXPECT_EQ(status.ok(), c.says.empty()) << status << " where \"" << c.says << "\" was due";
    EXPECT_NE(Message(status).find(c.says), std::string_view::npos) << status << " instead of \"" << c.says << '"';
  }
}

TEST(SamplingParamsTest, EndOfSequenceTokensStopUnlessIgnored) {
  const std::vector<int32_t> eos = {2, 7};
  SamplingParams params;
  params.stop_token_ids = {7, 9};
  AddEosTokens(eos, &params);
  EXPECT_EQ(params.stop_token_ids, (std::vector<int32_t>{7, 9, 2}));
  AddEosTokens(eos, &params);
  EXPECT_EQ(params.stop_token_ids, (std::vector<int32_t>{7, 9, 2}));
  SamplingParams ignores;
  ignores.ignore_eos = true;
  AddEosTokens(eos, &ignores);
  EXPECT_TRUE(ignores.stop_token_ids.empty());
}

TEST(SequenceTest, FinishReasonsHaveTheNamesThatClientsKnow) {
  EXPECT_EQ(FinishReasonName(FinishReason::kNone), "");
  EXPECT_EQ(FinishReasonName(FinishReason::kStop), "stop");
  EXPECT_EQ(FinishReasonName(FinishReason::kLength), "length");
  EXPECT_EQ(FinishReasonName(FinishReason::kCancelled), "cancelled");
  EXPECT_EQ(FinishReasonName(FinishReason::kDeadline), "deadline");
  EXPECT_EQ(FinishReasonName(FinishReason::kError), "error");
}

}  // namespace
}  // namespace moed
