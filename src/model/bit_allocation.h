// Which of its formats each part of a model gets when together they may take so many bytes.
#ifndef MOED_MODEL_BIT_ALLOCATION_H_
#define MOED_MODEL_BIT_ALLOCATION_H_

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace moed {

// One of the formats of a part.
struct FormatChoice {
  int64_t bytes = 0;  // may be counted from any point, the same for all choices of a part
  double loss = 0;
};

// The choice of each part whose losses have the least sum while their bytes have a sum of at most `budget`; of equal
// ones that with fewer bytes. A multiple-choice knapsack, solved over bytes in 16384 steps of what is left above the
// smallest choices; what the steps leave over is then given to the parts that gain most by it. Nothing where even the
// smallest choices are too large. Each part has at least one choice and at most 255.
std::optional<std::vector<size_t>> AllocateBits(std::span<const std::vector<FormatChoice>> parts, int64_t budget);

}  // namespace moed

#endif  // MOED_MODEL_BIT_ALLOCATION_H_
