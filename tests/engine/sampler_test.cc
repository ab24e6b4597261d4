#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>

#include "engine/philox.h"

namespace moed {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

SamplerSlot Slot(const SamplingParams& params, std::vector<int32_t> prompt = {}, std::vector<int32_t> output = {},
                 uint64_t seed = 1) {
  return SamplerSlot(SlotInit{0, params, seed, std::move(prompt), std::move(output)});
}

std::vector<float> RandomLogits(int n, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, 2.0f);
  std::vector<float> logits(n);
  for (float& logit : logits) logit = normal(random);
  return logits;
}

int32_t Sample(std::vector<float> logits, SamplerSlot slot) {
  const RowResult result = SampleRow({}, logits, &slot);
  EXPECT_TRUE(result.status.ok()) << result.status;
  EXPECT_EQ(result.tokens.size(), 1u);
  return result.tokens.at(0);
}

// The ids that may be drawn and their probabilities, the slow way: everything sorted, everything in double.
std::map<int32_t, double> Reference(const std::vector<float>& logits, const SamplingParams& params) {
  std::vector<std::pair<double, int32_t>> sorted;
  for (size_t i = 0; i < logits.size(); ++i) {
    sorted.push_back({-static_cast<double>(logits[i]) / params.temperature, static_cast<int32_t>(i)});
  }
  std::sort(sorted.begin(), sorted.end());
  if (params.top_k > 0) sorted.resize(std::min<size_t>(sorted.size(), params.top_k));
  const double best = sorted.front().first;
  const auto weight = [&](const auto& entry) { return std::exp(best - entry.first); };
  const auto total = [&] {
    return std::accumulate(sorted.begin(), sorted.end(), 0.0, [&](double s, const auto& e) { return s + weight(e); });
  };
  const double wanted = params.top_p * total();
  double reached = 0.0;
  size_t keep = 0;
  while (keep < sorted.size() && (keep == 0 || reached < wanted)) reached += weight(sorted[keep++]);
  if (params.top_p < 1.0f) sorted.resize(keep);
  std::erase_if(sorted, [&](const auto& entry) { return weight(entry) < params.min_p; });
  std::map<int32_t, double> result;
  for (const auto& entry : sorted) result[entry.second] = weight(entry) / total();
  return result;
}

TEST(PhiloxTest, KnownAnswers) {
  // From the reference implementation of Random123.
  EXPECT_EQ(Philox4x32(0, 0), (std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const double u = PhiloxUniform(7, 9);
  EXPECT_EQ(u, PhiloxUniform(7, 9));
  EXPECT_NE(u, PhiloxUniform(7, 10));
  EXPECT_NE(u, PhiloxUniform(8, 9));
}

TEST(SamplerTest, GreedyTakesTheFirstOfEqualMaxima) {
  SamplingParams params;
  params.temperature = 0.0f;
  EXPECT_EQ(Sample({1.0f, 3.0f, -2.0f, 3.0f}, Slot(params)), 1);
}

TEST(SamplerTest, DrawsFollowTheDistribution) {
  const std::vector<float> logits = RandomLogits(300, 5);
  for (auto [temperature, top_k, top_p, min_p] : {std::tuple{1.0f, 0, 1.0f, 0.0f},
                                                  {0.7f, 5, 1.0f, 0.0f},
                                                  {1.3f, 0, 0.6f, 0.0f},
                                                  {1.0f, 0, 1.0f, 0.2f},
                                                  {0.9f, 40, 0.8f, 0.05f},
                                                  {1.0f, 1, 1.0f, 0.0f},
                                                  {5.0f, 0, 0.999f, 0.0f}}) {
    SamplingParams params;
    params.temperature = temperature;
    params.top_k = top_k;
    params.top_p = top_p;
    params.min_p = min_p;
    const std::map<int32_t, double> expected = Reference(logits, params);
    std::map<int32_t, int> counts;
    constexpr int kDraws = 20000;
    for (int i = 0; i < kDraws; ++i) ++counts[Sample(logits, Slot(params, {}, {}, 1000 + i))];
    for (const auto& [id, count] : counts) EXPECT_TRUE(expected.contains(id)) << "token " << id << " may not be drawn";
    for (const auto& [id, p] : expected) {
      // Six standard deviations: about one false alarm in a billion draws of this test.
      EXPECT_NEAR(counts[id], kDraws * p, 6.0 * std::sqrt(kDraws * p * (1.0 - p)) + 1e-9)
          << "token " << id << " at temperature " << temperature;
    }
  }
}

TEST(SamplerTest, SameSeedAndPlaceGiveTheSameToken) {
  const std::vector<float> logits = RandomLogits(1000, 6);
  SamplingParams params;
  int differing = 0;
  for (int n = 0; n < 20; ++n) {
    const std::vector<int32_t> output(n, 3);
    EXPECT_EQ(Sample(logits, Slot(params, {}, output, 42)), Sample(logits, Slot(params, {}, output, 42)));
    differing += Sample(logits, Slot(params, {}, output, 42)) != Sample(logits, Slot(params, {}, output, 43));
  }
  EXPECT_GT(differing, 10);
}

TEST(SamplerTest, ResumedSlotGoesOnAsIfNothingHadBeen) {
  SamplingParams params;
  params.presence_penalty = 0.5f;
  params.frequency_penalty = 0.3f;
  params.repetition_penalty = 1.2f;
  const std::vector<int32_t> prompt = {1, 2, 3};
  SamplerSlot whole = Slot(params, prompt);
  std::vector<int32_t> output;
  for (int step = 0; step < 30; ++step) {
    std::vector<float> logits = RandomLogits(50, 100 + step), again = logits;
    SamplerSlot resumed = Slot(params, prompt, output);
    const RowResult a = SampleRow({}, logits, &whole), b = SampleRow({}, again, &resumed);
    ASSERT_EQ(a.tokens, b.tokens) << "step " << step;
    output.push_back(a.tokens[0]);
  }
}

// What the slot's parameters make of the logits.
std::vector<float> Adjusted(std::vector<float> logits, SamplerSlot slot) {
  EXPECT_TRUE(slot.params().greedy()) << "which chooses without another change";
  EXPECT_TRUE(SampleRow({}, logits, &slot).status.ok());
  return logits;
}

TEST(SamplerTest, Penalties) {
  const std::vector<float> logits = {4.0f, -1.0f, 1.0f};
  SamplingParams params;
  params.temperature = 0.0f;
  params.repetition_penalty = 2.0f;
  EXPECT_EQ(Adjusted(logits, Slot(params, {0}, {1})), (std::vector<float>{2.0f, -2.0f, 1.0f}));

  params.repetition_penalty = 1.0f;
  params.presence_penalty = 0.5f;
  params.frequency_penalty = 0.25f;
  EXPECT_EQ(Adjusted(logits, Slot(params, {0}, {1, 1, 2})), (std::vector<float>{4.0f, -2.0f, 0.25f}));

  params = {};
  params.temperature = 0.0f;
  params.logit_bias = {{2, 10.0f}, {0, -100.0f}};
  EXPECT_EQ(Adjusted(logits, Slot(params)), (std::vector<float>{-96.0f, -1.0f, 11.0f}));

  // All for one token, in their order, and a bias that is told twice.
  params.logit_bias = {{0, 1.0f}, {0, 1.0f}};
  params.repetition_penalty = 2.0f;
  params.presence_penalty = 0.5f;
  params.frequency_penalty = 0.25f;
  EXPECT_EQ(Adjusted(logits, Slot(params, {0}, {0, 0})), (std::vector<float>{2.0f, -1.0f, 1.0f}));
}

TEST(SamplerTest, StopIdsAreBarredUntilMinTokens) {
  SamplingParams params;
  params.temperature = 0.0f;
  params.min_tokens = 2;
  params.stop_token_ids = {1};
  const std::vector<float> logits = {0.0f, 9.0f, 1.0f};
  EXPECT_EQ(Sample(logits, Slot(params)), 2);
  EXPECT_EQ(Sample(logits, Slot(params, {}, {0})), 2);
  EXPECT_EQ(Sample(logits, Slot(params, {}, {0, 0})), 1);
}

TEST(SamplerTest, LogprobsAreOfTheModelsOwnDistribution) {
  SamplingParams params;
  params.temperature = 0.5f;
  params.logit_bias = {{3, 50.0f}};
  params.logprobs = 2;
  std::vector<float> logits = {1.0f, 2.0f, 2.0f, -1.0f};
  const double log_sum = std::log(std::exp(1.0) + 2 * std::exp(2.0) + std::exp(-1.0));
  SamplerSlot slot = Slot(params);
  const RowResult result = SampleRow({}, logits, &slot);
  ASSERT_EQ(result.tokens, std::vector<int32_t>{3});
  ASSERT_EQ(result.logprobs.size(), 1u);
  EXPECT_EQ(result.logprobs[0].chosen.id, 3);
  EXPECT_NEAR(result.logprobs[0].chosen.logprob, -1.0 - log_sum, 1e-6);
  ASSERT_EQ(result.logprobs[0].top.size(), 2u);
  EXPECT_EQ(result.logprobs[0].top[0].id, 1);
  EXPECT_EQ(result.logprobs[0].top[1].id, 2);
  EXPECT_NEAR(result.logprobs[0].top[0].logprob, 2.0 - log_sum, 1e-6);
}

TEST(SamplerTest, LogprobsWithoutAlternatives) {
  SamplingParams params;
  params.logprobs = 0;
  std::vector<float> logits = {1.0f, 2.0f};
  SamplerSlot slot = Slot(params);
  const RowResult result = SampleRow({}, logits, &slot);
  ASSERT_EQ(result.logprobs.size(), 1u);
  EXPECT_TRUE(result.logprobs[0].top.empty());
  EXPECT_LT(result.logprobs[0].chosen.logprob, 0.0f);
}

TEST(SamplerTest, LogitsThatAreNotFiniteFailTheRowAlone) {
  SamplingParams params;
  for (float bad : {std::nanf(""), kInfinity, -kInfinity}) {
    std::vector<float> logits = {1.0f, bad, 2.0f};
    SamplerSlot slot = Slot(params);
    const RowResult result = SampleRow({}, logits, &slot);
    EXPECT_EQ(result.status.code(), absl::StatusCode::kInternal);
    EXPECT_TRUE(result.tokens.empty());
  }
}

}  // namespace
}  // namespace moed
