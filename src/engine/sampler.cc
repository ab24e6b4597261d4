#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/philox.h"

namespace moed {
namespace {

constexpr float kBarred = -std::numeric_limits<float>::infinity();

// A token that may be drawn and its logit, the temperature in it.
struct Candidate {
  int32_t id;
  float logit;
};

// Most likely first; ties by lower id, so that the order is one.
bool Before(const Candidate& a, const Candidate& b) { return a.logit > b.logit || (a.logit == b.logit && a.id < b.id); }

int32_t ArgMax(std::span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

// log(sum(exp(logits))), in double: sums over a vocabulary in float lose digits.
double LogSumExp(std::span<const float> logits, float max) {
  double sum = 0.0;
  for (float logit : logits) sum += std::exp(static_cast<double>(logit - max));
  return max + std::log(sum);
}

// The best n, in order.
std::vector<Candidate> Best(std::span<const float> logits, size_t n) {
  std::vector<Candidate> heap;  // the worst of the best on top
  if (n == 0) return heap;
  heap.reserve(n + 1);
  for (size_t i = 0; i < logits.size(); ++i) {
    const Candidate candidate{static_cast<int32_t>(i), logits[i]};
    if (heap.size() == n) {
      if (!Before(candidate, heap.front())) continue;
      std::pop_heap(heap.begin(), heap.end(), Before);
      heap.back() = candidate;
    } else {
      heap.push_back(candidate);
    }
    std::push_heap(heap.begin(), heap.end(), Before);
  }
  std::sort_heap(heap.begin(), heap.end(), Before);
  return heap;
}

// The most likely candidates, in order, that together reach top_p of the probability of all.
std::vector<Candidate> Nucleus(std::vector<Candidate> all, float max, double top_p) {
  double total = 0.0;
  for (const Candidate& c : all) total += std::exp(static_cast<double>(c.logit - max));
  const double wanted = top_p * total;
  double reached = 0.0;
  // Sort only as many as needed: usually a few hundred of a vocabulary.
  size_t sorted = 0;
  for (size_t piece = 256; sorted < all.size(); piece *= 8) {
    const size_t end = std::min(all.size(), sorted + piece);
    std::partial_sort(all.begin() + sorted, all.begin() + end, all.end(), Before);
    for (; sorted < end; ++sorted) {
      reached += std::exp(static_cast<double>(all[sorted].logit - max));
      if (reached >= wanted) {
        all.resize(sorted + 1);
        return all;
      }
    }
  }
  return all;
}

// Inverse of the cumulative distribution over the candidates in their order.
int32_t Draw(std::span<const Candidate> candidates, float max, double uniform) {
  double total = 0.0;
  for (const Candidate& c : candidates) total += std::exp(static_cast<double>(c.logit - max));
  double left = uniform * total;
  for (const Candidate& c : candidates) {
    left -= std::exp(static_cast<double>(c.logit - max));
    if (left < 0.0) return c.id;
  }
  // Rounding left a crumb: the last one that has any probability.
  for (size_t i = candidates.size(); i-- > 0;) {
    if (candidates[i].logit != kBarred) return candidates[i].id;
  }
  return candidates.front().id;
}

int32_t SampleToken(std::span<float> logits, const SamplerSlot& slot) {
  const SamplingParams& params = slot.params();
  if (params.greedy()) return ArgMax(logits);
  const float inverse_temperature = 1.0f / params.temperature;
  for (float& logit : logits) logit *= inverse_temperature;

  const float max = *std::max_element(logits.begin(), logits.end());
  std::vector<Candidate> candidates;
  if (params.top_k > 0 && static_cast<size_t>(params.top_k) < logits.size()) {
    candidates = Best(logits, params.top_k);
  } else {
    candidates.reserve(logits.size());
    for (size_t i = 0; i < logits.size(); ++i) candidates.push_back({static_cast<int32_t>(i), logits[i]});
  }
  if (params.top_p < 1.0f) candidates = Nucleus(std::move(candidates), max, params.top_p);
  if (params.min_p > 0.0f) {
    const float floor = max + std::log(params.min_p);
    std::erase_if(candidates, [floor](const Candidate& c) { return c.logit < floor; });
  }
  return Draw(candidates, max, PhiloxUniform(slot.seed(), slot.num_generated()));
}

TokenLogprobs Logprobs(std::span<const float> logits, const std::vector<Candidate>& best, double log_sum,
                       int32_t token) {
  TokenLogprobs result;
  result.chosen = {token, static_cast<float>(logits[token] - log_sum)};
  for (const Candidate& c : best) result.top.push_back({c.id, static_cast<float>(c.logit - log_sum)});
  return result;
}

}  // namespace

SamplerSlot::SamplerSlot(const SlotInit& init)
    : params_(init.params), seed_(init.seed), num_generated_(static_cast<int32_t>(init.output_ids.size())) {
  if (!init.output_ids.empty()) last_token_ = init.output_ids.back();
  if (params_.presence_penalty != 0.0f || params_.frequency_penalty != 0.0f) {
    for (int32_t id : init.output_ids) ++output_counts_[id];
  }
  if (params_.repetition_penalty != 1.0f) {
    for (int32_t id : init.prompt_ids) seen_.insert(id);
    for (int32_t id : init.output_ids) seen_.insert(id);
  }
}

void SamplerSlot::Adjust(std::span<float> logits) const {
  for (const auto& [id, bias] : params_.logit_bias) logits[id] += bias;
  for (int32_t id : seen_) {
    logits[id] = logits[id] > 0.0f ? logits[id] / params_.repetition_penalty : logits[id] * params_.repetition_penalty;
  }
  for (const auto& [id, count] : output_counts_) {
    logits[id] -= params_.presence_penalty + params_.frequency_penalty * static_cast<float>(count);
  }
  if (num_generated_ < params_.min_tokens) {
    for (int32_t id : params_.stop_token_ids) logits[id] = kBarred;
  }
}

void SamplerSlot::Accept(int32_t token) {
  ++num_generated_;
  last_token_ = token;
  if (params_.presence_penalty != 0.0f || params_.frequency_penalty != 0.0f) ++output_counts_[token];
  if (params_.repetition_penalty != 1.0f) seen_.insert(token);
}

RowResult SampleRow(std::span<float> logits, SamplerSlot* slot) {
  RowResult result;
  const float max = *std::max_element(logits.begin(), logits.end());
  // 0 * x is NaN for infinities and NaN, and a sum keeps it.
  float probe = 0.0f;
  for (float logit : logits) probe += logit * 0.0f;
  if (probe != 0.0f) {
    result.status = Internal("the model's logits are not finite");
    return result;
  }
  const SamplingParams& params = slot->params();
  std::vector<Candidate> best;
  std::vector<float> raw;
  double log_sum = 0.0;
  if (params.logprobs >= 0) {
    raw.assign(logits.begin(), logits.end());
    log_sum = LogSumExp(raw, max);
    best = Best(raw, std::min<size_t>(params.logprobs, raw.size()));
  }
  slot->Adjust(logits);
  const int32_t token = SampleToken(logits, *slot);
  if (params.logprobs >= 0) result.logprobs.push_back(Logprobs(raw, best, log_sum, token));
  slot->Accept(token);
  result.tokens.push_back(token);
  return result;
}

}  // namespace moed
