#include "model/bit_allocation.h"

#include <algorithm>
#include <limits>

namespace moed {
namespace {

using Choices = std::vector<FormatChoice>;

constexpr int64_t kSteps = 16384;

int64_t Smallest(const Choices& choices) {
  return std::min_element(choices.begin(), choices.end(),
                          [](const FormatChoice& a, const FormatChoice& b) { return a.bytes < b.bytes; })
      ->bytes;
}

// The best choices whose extra bytes, each rounded up to steps, are at most kSteps.
std::vector<size_t> SolveInSteps(std::span<const Choices> parts, int64_t slack) {
  const double step = static_cast<double>(std::max<int64_t>(slack, 1)) / kSteps;
  // The least loss of the parts so far within so many steps.
  std::vector<double> best(kSteps + 1, 0.0), next(kSteps + 1);
  std::vector<std::vector<uint8_t>> taken;  // [parts][steps]
  const auto steps_of = [&](const Choices& choices, size_t i) {
    const double steps = static_cast<double>(choices[i].bytes - Smallest(choices)) / step;
    return steps > kSteps ? kSteps + 1 : static_cast<int64_t>(steps) + (steps > static_cast<int64_t>(steps) ? 1 : 0);
  };
  for (const Choices& choices : parts) {
    std::fill(next.begin(), next.end(), std::numeric_limits<double>::infinity());
    auto& take = taken.emplace_back(kSteps + 1);
    std::vector<size_t> by_bytes(choices.size());
    for (size_t i = 0; i < by_bytes.size(); ++i) by_bytes[i] = i;
    std::stable_sort(by_bytes.begin(), by_bytes.end(),
                     [&](size_t a, size_t b) { return choices[a].bytes < choices[b].bytes; });
    for (const size_t i : by_bytes) {
      const int64_t steps = steps_of(choices, i);
      for (int64_t at = steps; at <= kSteps; ++at) {
        const double loss = best[at - steps] + choices[i].loss;
        if (loss < next[at]) next[at] = loss, take[at] = static_cast<uint8_t>(i);
      }
    }
    best.swap(next);
  }
  std::vector<size_t> chosen(parts.size());
  int64_t at = kSteps;
  for (size_t part = parts.size(); part-- > 0;) {
    chosen[part] = taken[part][at];
    at -= steps_of(parts[part], chosen[part]);
  }
  return chosen;
}

// Gives what is left to whoever gains most by it.
void Improve(std::span<const Choices> parts, int64_t left, std::vector<size_t>* chosen) {
  while (true) {
    double gain = 0;
    size_t best_part = 0, best_choice = 0;
    for (size_t part = 0; part < parts.size(); ++part) {
      const FormatChoice& now = parts[part][(*chosen)[part]];
      for (size_t i = 0; i < parts[part].size(); ++i) {
        const FormatChoice& other = parts[part][i];
        if (other.bytes - now.bytes > left || now.loss - other.loss <= gain) continue;
        gain = now.loss - other.loss, best_part = part, best_choice = i;
      }
    }
    if (gain <= 0) return;
    left -= parts[best_part][best_choice].bytes - parts[best_part][(*chosen)[best_part]].bytes;
    (*chosen)[best_part] = best_choice;
  }
}

}  // namespace

std::optional<std::vector<size_t>> AllocateBits(std::span<const Choices> parts, int64_t budget) {
  int64_t slack = budget;
  for (const Choices& choices : parts) slack -= Smallest(choices);
  if (slack < 0) return std::nullopt;
  std::vector<size_t> chosen = SolveInSteps(parts, slack);
  int64_t left = budget;
  for (size_t part = 0; part < parts.size(); ++part) left -= parts[part][chosen[part]].bytes;
  Improve(parts, left, &chosen);
  return chosen;
}

}  // namespace moed
