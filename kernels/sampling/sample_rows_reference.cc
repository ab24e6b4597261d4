#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/common/reference.h"
#include "kernels/sampling/sample_rows.h"

namespace moed::kernels::reference {
namespace {

struct Entry {
  int32_t id;
  double logit;
  double weight = 0.0;  // relative to the most likely one
};

std::vector<Entry> MostLikelyFirst(const SampleRowsArgs& args, int64_t row) {
  std::vector<Entry> entries;
  for (int64_t i = 0; i < args.logits.dim(1); ++i) {
    entries.push_back({static_cast<int32_t>(i), static_cast<double>(At<float>(args.logits, row, i))});
  }
  std::stable_sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.logit > b.logit; });
  return entries;
}

double TotalWeight(const std::vector<Entry>& entries) {
  double total = 0.0;
  for (const Entry& entry : entries) total += entry.weight;
  return total;
}

void Adjust(const SampleRowsArgs& args, int64_t r) {
  const SamplingRow& row = args.rows[r];
  for (int32_t i = row.first_adjustment; i < row.first_adjustment + row.num_adjustments; ++i) {
    const LogitAdjustment& adjustment = args.adjustments[i];
    float& logit = At<float>(args.logits, r, adjustment.id);
    logit += adjustment.bias;
    if (adjustment.is_seen && logit > 0.0f) {
      logit /= row.repetition_penalty;
    } else if (adjustment.is_seen) {
      logit *= row.repetition_penalty;
    }
    logit -= adjustment.subtract;
    if (adjustment.is_barred) logit = -INFINITY;
  }
}

int32_t Choose(const SampleRowsArgs& args, int64_t r) {
  const SamplingRow& row = args.rows[r];
  std::vector<Entry> entries = MostLikelyFirst(args, r);
  const double best = entries.front().logit;
  if (row.temperature == 0.0f || std::isinf(best)) return entries.front().id;
  for (Entry& entry : entries) entry.weight = std::exp((entry.logit - best) / static_cast<double>(row.temperature));
  const bool cut_k = row.top_k > 0 && row.top_k < args.logits.dim(1), cut_p = row.top_p < 1.0f;
  if (cut_k) entries.resize(row.top_k);
  if (cut_p) {
    const double wanted = static_cast<double>(row.top_p) * TotalWeight(entries);
    double reached = 0.0;
    size_t kept = 0;
    while (kept < entries.size() && reached < wanted) reached += entries[kept++].weight;
    entries.resize(kept);
  }
  std::erase_if(entries, [&](const Entry& entry) { return entry.weight < static_cast<double>(row.min_p); });
  if (!cut_k && !cut_p) {
    std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.id < b.id; });
  }
  double left = row.uniform * TotalWeight(entries);
  for (const Entry& entry : entries) {
    left -= entry.weight;
    if (left < 0.0) return entry.id;
  }
  return entries.back().id;
}

bool IsFinite(const SampleRowsArgs& args, int64_t r) {
  for (int64_t i = 0; i < args.logits.dim(1); ++i) {
    if (!std::isfinite(At<float>(args.logits, r, i))) return false;
  }
  return true;
}

}  // namespace

void SampleRows(const SampleRowsArgs& args) {
  for (int64_t r = 0; r < args.logits.dim(0); ++r) {
    At<int32_t>(args.tokens, r) = SampleRowsArgs::kNotFinite;
    if (!IsFinite(args, r)) continue;
    const std::vector<Entry> own = MostLikelyFirst(args, r);
    double sum = 0.0;
    for (const Entry& entry : own) sum += std::exp(entry.logit - own.front().logit);
    const double log_sum = own.front().logit + std::log(sum);
    Adjust(args, r);
    const int32_t token = Choose(args, r);
    At<int32_t>(args.tokens, r) = token;
    if (args.rows[r].logprobs < 0) continue;
    const auto chosen = std::find_if(own.begin(), own.end(), [&](const Entry& entry) { return entry.id == token; });
    At<float>(args.token_logprobs, r) = static_cast<float>(chosen->logit - log_sum);
    for (int32_t i = 0; i < args.rows[r].logprobs && i < args.logits.dim(1); ++i) {
      At<int32_t>(args.top_ids, r, i) = own[i].id;
      At<float>(args.top_logprobs, r, i) = static_cast<float>(own[i].logit - log_sum);
    }
  }
}

}  // namespace moed::kernels::reference
