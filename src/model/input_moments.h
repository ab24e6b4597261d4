// What matrices meet while a model runs on a text: the second moments of their inputs.
#ifndef MOED_MODEL_INPUT_MOMENTS_H_
#define MOED_MODEL_INPUT_MOMENTS_H_

#include <cstdint>
#include <vector>

#include "base/thread_pool.h"
#include "kernels/gemm/integer_weight.h"
#include "tensor/tensor_view.h"

namespace moed {

// Rows are added, then the moments are finished once, and read from then on. Results do not depend on the number of
// threads.
class InputMoments {
 public:
  // Of the mean diagonal, added to it: rows that are few, or always much the same, say nothing of some directions.
  static constexpr float kDamping = 0.01f;

  explicit InputMoments(int64_t size) : size_(size), sums_(size * size), squares_(size) {}

  // Adds rows x, f32 [n, size], each with importance[i], or 1 where that is null.
  void Add(const TensorView& x, const float* importance, ThreadPool* threads);

  void Finish(ThreadPool* threads);

  // Views that live as long as this; without a factor, and without squares, where no row was added.
  kernels::InputStatistics statistics() const;

  static uint64_t Bytes(int64_t size) { return static_cast<uint64_t>(size * size) * sizeof(float); }

 private:
  int64_t size_;
  double importance_ = 0;       // of all rows
  std::vector<float> sums_;     // [size, size]: the upper triangle of the sum of x x^T; from Finish on the factor
  std::vector<float> squares_;  // [size]
};

}  // namespace moed

#endif  // MOED_MODEL_INPUT_MOMENTS_H_
