#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <numeric>

#include "engine/philox.h"
#include "kernels/sampling/logit_row.h"

namespace moed {
namespace {

constexpr float kBarred = -std::numeric_limits<float>::infinity();

// A token that may be chosen, and its logit or its weight in the softmax.
struct Candidate {
  int32_t id;
  float value;
};

// Most likely first; ties by lower id, so that the order is one.
bool Before(const Candidate& a, const Candidate& b) { return a.value > b.value || (a.value == b.value && a.id < b.id); }

struct Maximum {
  float value;
  int32_t id;  // the first of equals
  bool all_finite;
};

Maximum MaximumOf(const ExecContext& ctx, std::span<const float> logits) {
  Maximum maximum = {};
  int32_t finite = 0;
  kernels::cpu::RowMaximum(ctx, {.x = TensorView::Of(logits.data(), {std::ssize(logits)}),
                                 .max = TensorView::Of(&maximum.value, {1}),
                                 .index = TensorView::Of(&maximum.id, {1}),
                                 .finite = TensorView::Of(&finite, {1})});
  maximum.all_finite = finite != 0;
  return maximum;
}

// What the entries of a row weigh in the softmax, relative to the most likely one.
struct Weights {
  static constexpr size_t kBlock = kernels::SoftmaxWeightsArgs::kBlock;

  std::span<const float> all;
  std::vector<float> block_sums;
  double total = 0.0;  // of float sums of short blocks, in double: a sum over a vocabulary in float loses digits

  // out: [vocab], which keeps the weights; may be the logits.
  Weights(const ExecContext& ctx, std::span<const float> logits, float max, float temperature, std::span<float> out)
      : all(out), block_sums((logits.size() + kBlock - 1) / kBlock) {
    kernels::cpu::SoftmaxWeights(
        ctx, {.x = TensorView::Of(logits.data(), {std::ssize(logits)}),
              .max = max,
              .inverse_temperature = std::min(1.0f / temperature, std::numeric_limits<float>::max()),
              .weights = TensorView::Of(out.data(), {std::ssize(out)}),
              .block_sums = TensorView::Of(block_sums.data(), {std::ssize(block_sums)})});
    total = std::accumulate(block_sums.begin(), block_sums.end(), 0.0);
  }
};

// The best n, in order.
std::vector<Candidate> Best(std::span<const float> logits, size_t n) {
  std::vector<Candidate> heap;  // the worst of the best on top
  if (n == 0) return heap;
  heap.reserve(n + 1);
  for (size_t i = 0; i < logits.size(); ++i) {
    const Candidate candidate{static_cast<int32_t>(i), logits[i]};
    if (heap.size() == n) {
      if (!(candidate.value > heap.front().value)) continue;  // of equals the one with the lower id is there already
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

// Leaves the most likely candidates, in order, that together reach `wanted`, a part of the sum of all.
void KeepNucleus(double wanted, std::vector<Candidate>* candidates) {
  double reached = 0.0;
  // Sort only as many as needed: usually a few hundred of a vocabulary.
  size_t sorted = 0;
  for (size_t piece = 256; sorted < candidates->size(); piece *= 8) {
    const auto begin = candidates->begin();
    const size_t end = std::min(candidates->size(), sorted + piece);
    std::partial_sort(begin + sorted, begin + end, candidates->end(), Before);
    for (; sorted < end; ++sorted) {
      reached += static_cast<double>((*candidates)[sorted].value);
      if (reached >= wanted) {
        candidates->resize(sorted + 1);
        return;
      }
    }
  }
}

// The best top_k with their weights.
std::vector<Candidate> TopK(std::span<const float> logits, const SamplingParams& params) {
  std::vector<Candidate> candidates = Best(logits, params.top_k);
  const float max = candidates.front().value;
  for (Candidate& c : candidates) {
    c.value = static_cast<float>(std::exp(static_cast<double>(c.value - max) / params.temperature));
  }
  return candidates;
}

// Those that weigh at least `least`.
std::vector<Candidate> NotBelow(std::span<const float> weights, float least) {
  std::vector<Candidate> candidates;
  for (size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] >= least) candidates.push_back({static_cast<int32_t>(i), weights[i]});
  }
  return candidates;
}

// Inverse of the cumulative distribution over the candidates in their order.
int32_t Draw(std::span<const Candidate> candidates, double uniform) {
  double total = 0.0;
  for (const Candidate& c : candidates) total += static_cast<double>(c.value);
  double left = uniform * total;
  int32_t last = candidates.front().id;  // that has any probability: rounding may leave a crumb
  for (const Candidate& c : candidates) {
    if (c.value == 0.0f) continue;
    last = c.id;
    left -= static_cast<double>(c.value);
    if (left < 0.0) break;
  }
  return last;
}

// The same over all entries, in the order of their ids: first the block, then the entry.
int32_t Draw(const Weights& weights, double uniform) {
  double left = uniform * weights.total;
  size_t block = 0, last_block = 0;
  for (size_t i = 0; i < weights.block_sums.size(); ++i) {
    if (weights.block_sums[i] == 0.0f) continue;
    block = last_block = i;
    if (left < weights.block_sums[i]) break;
    left -= weights.block_sums[i];
    block = weights.block_sums.size();
  }
  block = std::min(block, last_block);
  const size_t begin = block * Weights::kBlock, end = std::min(weights.all.size(), begin + Weights::kBlock);
  int32_t last = static_cast<int32_t>(begin);
  for (size_t i = begin; i < end; ++i) {
    if (weights.all[i] == 0.0f) continue;
    last = static_cast<int32_t>(i);
    left -= static_cast<double>(weights.all[i]);
    if (left < 0.0) break;
  }
  return last;
}

int32_t SampleToken(const ExecContext& ctx, std::span<float> logits, const SamplerSlot& slot) {
  const SamplingParams& params = slot.params();
  const double uniform = params.greedy() ? 0.0 : PhiloxUniform(slot.seed(), slot.num_generated());
  std::vector<Candidate> candidates;
  if (!params.greedy() && params.top_k > 0 && static_cast<size_t>(params.top_k) < logits.size()) {
    candidates = TopK(logits, params);
    if (params.top_p < 1.0f) {
      double total = 0.0;
      for (const Candidate& c : candidates) total += static_cast<double>(c.value);
      KeepNucleus(static_cast<double>(params.top_p) * total, &candidates);
    }
    std::erase_if(candidates, [&](const Candidate& c) { return c.value < params.min_p; });
    return Draw(candidates, uniform);
  }
  const Maximum maximum = MaximumOf(ctx, logits);
  if (params.greedy() || maximum.value == kBarred) return maximum.id;
  const Weights weights(ctx, logits, maximum.value, params.temperature, logits);
  if (params.top_p >= 1.0f && params.min_p <= 0.0f) return Draw(weights, uniform);
  if (params.top_p >= 1.0f) return Draw(NotBelow(weights.all, params.min_p), uniform);
  // Those below this weigh less than 1 - top_p all together: the nucleus is full before the first of them.
  const double outside = (1.0 - static_cast<double>(params.top_p)) * weights.total;
  candidates = NotBelow(weights.all, static_cast<float>(0.999 * outside / static_cast<double>(logits.size())));
  KeepNucleus(static_cast<double>(params.top_p) * weights.total, &candidates);
  std::erase_if(candidates, [&](const Candidate& c) { return c.value < params.min_p; });
  return Draw(candidates, uniform);
}

TokenLogprobs Logprobs(std::span<const float> logits, const std::vector<Candidate>& best, double log_sum,
                       int32_t token) {
  TokenLogprobs result;
  result.chosen = {token, static_cast<float>(logits[token] - log_sum)};
  for (const Candidate& c : best) result.top.push_back({c.id, static_cast<float>(c.value - log_sum)});
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

RowResult SampleRow(const ExecContext& ctx, std::span<float> logits, SamplerSlot* slot) {
  RowResult result;
  const Maximum maximum = MaximumOf(ctx, logits);
  if (!maximum.all_finite) {
    result.status = Internal("the model's logits are not finite");
    return result;
  }
  const SamplingParams& params = slot->params();
  std::vector<Candidate> best;
  std::vector<float> raw;
  double log_sum = 0.0;
  if (params.logprobs >= 0) {
    raw.assign(logits.begin(), logits.end());
    best = Best(raw, std::min<size_t>(params.logprobs, raw.size()));
    std::vector<float> weights(raw.size());
    log_sum = maximum.value + std::log(Weights(ctx, raw, maximum.value, 1.0f, weights).total);
  }
  slot->Adjust(logits);
  const int32_t token = SampleToken(ctx, logits, *slot);
  if (params.logprobs >= 0) result.logprobs.push_back(Logprobs(raw, best, log_sum, token));
  slot->Accept(token);
  result.tokens.push_back(token);
  return result;
}

}  // namespace moed
