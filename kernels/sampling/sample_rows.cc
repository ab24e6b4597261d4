#include "kernels/sampling/sample_rows.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <numeric>
#include <optional>
#include <span>
#include <vector>

#include "kernels/common/check.h"
#include "kernels/sampling/logit_row.h"

namespace moed::kernels {

absl::Status Check(const SampleRowsArgs& args) {
  MOED_RETURN_IF_ERROR(CheckTensor("logits", args.logits, {DType::kF32}, {kAnySize, kAnySize}));
  MOED_RETURN_IF_ERROR(CheckContiguous("logits", args.logits));
  const int64_t rows = args.logits.dim(0);
  if (args.logits.dim(1) == 0) return InvalidArgument("logits is {}; a row has elements", args.logits.ToString());
  if (rows > 0 && args.rows == nullptr) return InvalidArgument("rows is null; there are {} of them", rows);
  if (args.num_adjustments > 0 && args.adjustments == nullptr) {
    return InvalidArgument("adjustments is null; there are {} of them", args.num_adjustments);
  }
  MOED_RETURN_IF_ERROR(CheckTensor("tokens", args.tokens, {DType::kI32}, {rows}));
  MOED_RETURN_IF_ERROR(CheckTensor("token_logprobs", args.token_logprobs, {DType::kF32}, {rows}));
  MOED_RETURN_IF_ERROR(CheckTensor("top_ids", args.top_ids, {DType::kI32}, {rows, kAnySize}));
  const int64_t top = args.top_ids.dim(1);
  if (top > SampleRowsArgs::kMaxTop) {
    return InvalidArgument("top_ids has {} columns; it must have {} at most", top, SampleRowsArgs::kMaxTop);
  }
  return CheckTensor("top_logprobs", args.top_logprobs, {DType::kF32}, {rows, top});
}

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
  cpu::RowMaximum(ctx, {.x = TensorView::Of(logits.data(), {std::ssize(logits)}),
                        .max = TensorView::Of(&maximum.value, {1}),
                        .index = TensorView::Of(&maximum.id, {1}),
                        .finite = TensorView::Of(&finite, {1})});
  maximum.all_finite = finite != 0;
  return maximum;
}

// What the entries of a row weigh in the softmax, relative to the most likely one.
struct Weights {
  static constexpr size_t kBlock = SoftmaxWeightsArgs::kBlock;

  std::span<const float> all;
  std::vector<float> block_sums;
  double total = 0.0;  // of float sums of short blocks, in double: a sum over a vocabulary in float loses digits

  // out: [vocab], which keeps the weights; may be the logits.
  Weights(const ExecContext& ctx, std::span<const float> logits, float max, float temperature, std::span<float> out)
      : all(out), block_sums((logits.size() + kBlock - 1) / kBlock) {
    cpu::SoftmaxWeights(ctx, {.x = TensorView::Of(logits.data(), {std::ssize(logits)}),
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

// Logits, best first, to weights.
void ToWeights(float temperature, std::vector<Candidate>* candidates) {
  const float max = candidates->front().value;
  for (Candidate& c : *candidates) {
    c.value = static_cast<float>(std::exp(static_cast<double>(c.value - max) / temperature));
  }
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

void Adjust(const SamplingRow& row, const LogitAdjustment* adjustments, std::span<float> logits) {
  for (int32_t i = 0; i < row.num_adjustments; ++i) {
    const LogitAdjustment& adjustment = adjustments[row.first_adjustment + i];
    float& logit = logits[adjustment.id];
    logit += adjustment.bias;
    if (adjustment.is_seen) {
      logit = logit > 0.0f ? logit / row.repetition_penalty : logit * row.repetition_penalty;
    }
    logit -= adjustment.subtract;
    if (adjustment.is_barred) logit = kBarred;
  }
}

int32_t ChooseToken(const ExecContext& ctx, std::span<float> logits, const SamplingRow& row) {
  const bool greedy = row.temperature == 0.0f;
  std::vector<Candidate> candidates;
  if (!greedy && row.top_k > 0 && static_cast<size_t>(row.top_k) < logits.size()) {
    candidates = Best(logits, row.top_k);
    if (candidates.front().value == kBarred) return candidates.front().id;
    ToWeights(row.temperature, &candidates);
    if (row.top_p < 1.0f) {
      double total = 0.0;
      for (const Candidate& c : candidates) total += static_cast<double>(c.value);
      KeepNucleus(static_cast<double>(row.top_p) * total, &candidates);
    }
    std::erase_if(candidates, [&](const Candidate& c) { return c.value < row.min_p; });
    return Draw(candidates, row.uniform);
  }
  const Maximum maximum = MaximumOf(ctx, logits);
  if (greedy || maximum.value == kBarred) return maximum.id;
  const Weights weights(ctx, logits, maximum.value, row.temperature, logits);
  if (row.top_p >= 1.0f && row.min_p <= 0.0f) return Draw(weights, row.uniform);
  if (row.top_p >= 1.0f) return Draw(NotBelow(weights.all, row.min_p), row.uniform);
  // Those below this weigh less than 1 - top_p all together: the nucleus is full before the first of them.
  const double outside = (1.0 - static_cast<double>(row.top_p)) * weights.total;
  candidates = NotBelow(weights.all, static_cast<float>(0.999 * outside / static_cast<double>(logits.size())));
  KeepNucleus(static_cast<double>(row.top_p) * weights.total, &candidates);
  std::erase_if(candidates, [&](const Candidate& c) { return c.value < row.min_p; });
  return Draw(candidates, row.uniform);
}

// What the model itself says of the entries, kept before they are adjusted.
struct OwnDistribution {
  OwnDistribution(const ExecContext& ctx, std::span<const float> row, float max, size_t num_best)
      : logits(row.begin(), row.end()), best(Best(row, std::min(num_best, row.size()))) {
    std::vector<float> weights(row.size());
    log_sum = max + std::log(Weights(ctx, row, max, 1.0f, weights).total);
  }
  float Logprob(int32_t token) const { return static_cast<float>(logits[token] - log_sum); }

  std::vector<float> logits;
  std::vector<Candidate> best;
  double log_sum;
};

void SampleOneRow(const ExecContext& ctx, const SampleRowsArgs& args, int64_t r) {
  const SamplingRow& row = args.rows[r];
  const int64_t vocab = args.logits.dim(1);
  const std::span<float> logits(args.logits.As<float>() + r * vocab, vocab);
  const Maximum maximum = MaximumOf(ctx, logits);
  int32_t& token = args.tokens.As<int32_t>()[r];
  token = SampleRowsArgs::kNotFinite;
  if (!maximum.all_finite) return;
  std::optional<OwnDistribution> own;
  if (row.logprobs >= 0) own.emplace(ctx, logits, maximum.value, row.logprobs);
  Adjust(row, args.adjustments, logits);
  token = ChooseToken(ctx, logits, row);
  if (!own) return;
  args.token_logprobs.As<float>()[r] = own->Logprob(token);
  for (size_t i = 0; i < own->best.size(); ++i) {
    args.top_ids.As<int32_t>()[r * args.top_ids.stride(0) + i] = own->best[i].id;
    args.top_logprobs.As<float>()[r * args.top_logprobs.stride(0) + i] = own->Logprob(own->best[i].id);
  }
}

}  // namespace

namespace cpu {

void SampleRows(const ExecContext& ctx, const SampleRowsArgs& args) {
  for (int64_t r = 0; r < args.logits.dim(0); ++r) SampleOneRow(ctx, args, r);
}

}  // namespace cpu
}  // namespace moed::kernels
