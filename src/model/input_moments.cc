#include "model/input_moments.h"

#include <algorithm>
#include <cmath>

#include "base/logging.h"

namespace moed {
namespace {

// Rows of a triangle that a thread takes at a time.
constexpr int64_t kGrain = 8;

// The upper triangular A with A A^T = H, in place of the upper triangle of `h`: Cholesky from the last row up.
void FactorFromTheEnd(std::vector<double>* h, int64_t size, ThreadPool* threads) {
  double* const a = h->data();
  for (int64_t j = size - 1; j >= 0; --j) {
    // Column j: a[i][j] = (h[i][j] - sum over l > j of a[i][l] a[j][l]) / a[j][j].
    const double* const row_j = a + j * size;
    const auto rest = [&](int64_t i) {
      const double* const row_i = a + i * size;
      double sum = row_i[j];
      for (int64_t l = j + 1; l < size; ++l) sum -= row_i[l] * row_j[l];
      return sum;
    };
    const double diagonal = std::sqrt(rest(j));
    a[j * size + j] = diagonal;
    threads->ParallelFor(j, kGrain * 8, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) a[i * size + j] = rest(i) / diagonal;
    });
  }
}

// The inverse of an upper triangular matrix, in place; its rows do not depend on each other once those below are done,
// so column by column.
void InvertUpper(std::vector<double>* matrix, int64_t size, ThreadPool* threads, float* inverse) {
  const double* const a = matrix->data();
  // Row i of the inverse X solves x_i A = e_i: x[i][j] = (d_ij - sum over i <= l < j of x[i][l] a[l][j]) / a[j][j].
  threads->ParallelFor(size, kGrain, [&](int64_t begin, int64_t end, int) {
    std::vector<double> rest(size);
    for (int64_t i = begin; i < end; ++i) {
      std::fill(rest.begin(), rest.end(), 0.0);
      rest[i] = 1.0;
      float* const out = inverse + i * size;
      std::fill_n(out, i, 0.0f);
      for (int64_t j = i; j < size; ++j) {
        const double x = rest[j] / a[j * size + j];
        out[j] = static_cast<float>(x);
        const double* const row = a + j * size;
        for (int64_t l = j + 1; l < size; ++l) rest[l] -= x * row[l];
      }
    }
  });
}

}  // namespace

void InputMoments::Add(const TensorView& x, const float* importance, ThreadPool* threads) {
  MOED_CHECK(x.dim(1) == size_, "rows have {} inputs; the moments are of {}", x.dim(1), size_);
  const int64_t rows = x.dim(0);
  for (int64_t row = 0; row < rows; ++row) importance_ += importance == nullptr ? 1.0 : importance[row];
  threads->ParallelFor(size_, kGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = 0; row < rows; ++row) {
      const float* const values = x.As<float>() + row * x.stride(0);
      const float weight = importance == nullptr ? 1.0f : importance[row];
      for (int64_t i = begin; i < end; ++i) {
        const float factor = weight * values[i];
        float* const sums = sums_.data() + i * size_;
        for (int64_t j = i; j < size_; ++j) sums[j] += factor * values[j];
      }
    }
  });
}

void InputMoments::Finish(ThreadPool* threads) {
  double trace = 0;
  for (int64_t i = 0; i < size_; ++i) trace += sums_[i * size_ + i];
  if (!(importance_ > 0 && trace > 0)) {
    importance_ = 0;
    return;
  }
  const double damping = kDamping * trace / static_cast<double>(size_);
  std::vector<double> moments(size_ * size_);
  for (int64_t i = 0; i < size_; ++i) {
    squares_[i] = static_cast<float>(sums_[i * size_ + i] / importance_);
    for (int64_t j = i; j < size_; ++j) moments[i * size_ + j] = sums_[i * size_ + j] / importance_;
    moments[i * size_ + i] += damping / importance_;
  }
  FactorFromTheEnd(&moments, size_, threads);
  InvertUpper(&moments, size_, threads, sums_.data());
}

kernels::InputStatistics InputMoments::statistics() const {
  if (importance_ == 0) return {};
  return {.squares = squares_, .factor = sums_};
}

}  // namespace moed
