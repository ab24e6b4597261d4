// Integers that are chosen for what they are multiplied with.
#include "kernels/gemm/integer_weight.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "tests/support/tensor_testing.h"

namespace moed::kernels {
namespace {

constexpr int64_t kRows = 24, kInputs = 72;

// Rows of weights, and what is known of inputs of which neighbours go together and every ninth is large.
struct Problem {
  Problem() {
    test::Random random;
    const test::TestTensor source = test::NormalTensor(random, {kRows, kInputs}, 0.05);
    weights.assign(source.As<float>(), source.As<float>() + kRows * kInputs);
    for (int64_t i = 0; i < kInputs; ++i) deviations.push_back(i % 9 == 4 ? 15.0 : 1.0);
    for (int64_t i = 0; i < kInputs; ++i) {
      squares.push_back(static_cast<float>(deviations[i] * deviations[i]));
      for (int64_t j = 0; j < kInputs; ++j) {
        moments.push_back(deviations[i] * deviations[j] * std::pow(kCorrelation, std::abs(i - j)));
      }
    }
    // The moments are those of a chain x_i / d_i = c x_(i-1) / d_(i-1) + noise, so the inverse is B^T B / (1 - c^2)
    // with B bidiagonal: row i of the factor has two entries.
    factor.resize(kInputs * kInputs);
    const double noise = std::sqrt(1 - kCorrelation * kCorrelation);
    for (int64_t i = 0; i < kInputs; ++i) {
      const bool last = i + 1 == kInputs;
      factor[i * kInputs + i] = static_cast<float>((last ? 1.0 : 1 / noise) / deviations[i]);
      if (!last) factor[i * kInputs + i + 1] = static_cast<float>(-kCorrelation / noise / deviations[i + 1]);
    }
  }

  struct Result {
    std::vector<int8_t> codes;
    std::vector<float> scales;
  };
  Result Quantize(WeightFormat format, const InputStatistics& inputs, int64_t rows_at_once = kRows) const {
    const int64_t groups = (kInputs + format.group_size - 1) / format.group_size;
    Result result{std::vector<int8_t>(kRows * kInputs), std::vector<float>(kRows * groups)};
    std::vector<float> changed = weights;
    for (int64_t row = 0; row < kRows; row += rows_at_once) {
      const absl::Status status =
          QuantizeIntegerRows(changed.data() + row * kInputs, rows_at_once, kInputs, format, inputs,
                              result.codes.data() + row * kInputs, result.scales.data() + row * groups);
      EXPECT_TRUE(status.ok()) << status;
    }
    return result;
  }

  // The mean square of the products' error: of independent inputs, or of these.
  double Error(WeightFormat format, const Result& result, bool correlated) const {
    const int64_t groups = (kInputs + format.group_size - 1) / format.group_size;
    double sum = 0;
    for (int64_t row = 0; row < kRows; ++row) {
      std::vector<double> error(kInputs);
      for (int64_t i = 0; i < kInputs; ++i) {
        const int64_t at = row * kInputs + i;
        error[i] = weights[at] - double{result.scales[row * groups + i / format.group_size]} * result.codes[at];
      }
      for (int64_t i = 0; i < kInputs; ++i) {
        for (int64_t j = 0; j < kInputs; ++j) {
          if (correlated || i == j) sum += error[i] * error[j] * moments[i * kInputs + j];
        }
      }
    }
    return sum / kRows;
  }

  static constexpr double kCorrelation = 0.9;
  std::vector<double> deviations, moments;
  std::vector<float> weights, squares, factor;
};

constexpr WeightFormat kFormats[] = {WeightFormat::Int8(), WeightFormat::Int4(), WeightFormat::Int4(32),
                                     WeightFormat::Int4(8)};

TEST(QuantizeIntegerRows, WithoutStatisticsAreThoseOfEachRow) {
  const Problem problem;
  for (const WeightFormat format : kFormats) {
    const Problem::Result result = problem.Quantize(format, {});
    const int64_t groups = std::ssize(result.scales) / kRows;
    std::vector<int8_t> codes(kInputs);
    std::vector<float> scales(groups);
    for (int64_t row = 0; row < kRows; ++row) {
      ASSERT_TRUE(
          QuantizeIntegerRow(problem.weights.data() + row * kInputs, kInputs, format, codes.data(), scales.data())
              .ok());
      EXPECT_TRUE(std::equal(codes.begin(), codes.end(), result.codes.begin() + row * kInputs));
      EXPECT_TRUE(std::equal(scales.begin(), scales.end(), result.scales.begin() + row * groups));
    }
  }
}

TEST(QuantizeIntegerRows, ScalesAreForTheInputsThatMatter) {
  const Problem problem;
  for (const WeightFormat format : {WeightFormat::Int4(), WeightFormat::Int4(32)}) {
    const double plain = problem.Error(format, problem.Quantize(format, {}), false);
    const double weighted = problem.Error(format, problem.Quantize(format, {.squares = problem.squares}), false);
    EXPECT_LT(weighted, 0.8 * plain) << format.ToString();
  }
}

TEST(QuantizeIntegerRows, ErrorsAreMadeUpForByWhatFollows) {
  const Problem problem;
  for (const WeightFormat format : kFormats) {
    const InputStatistics squares{.squares = problem.squares},
        all{.squares = problem.squares, .factor = problem.factor};
    const double alone = problem.Error(format, problem.Quantize(format, squares), true);
    const double compensated = problem.Error(format, problem.Quantize(format, all), true);
    EXPECT_LT(compensated, 0.5 * alone) << format.ToString();
  }
}

TEST(QuantizeIntegerRows, IndependentInputsHaveNothingToMakeUpFor) {
  const Problem problem;
  std::vector<float> diagonal(kInputs * kInputs);
  for (int64_t i = 0; i < kInputs; ++i) diagonal[i * kInputs + i] = 1 / std::sqrt(problem.squares[i]);
  for (const WeightFormat format : kFormats) {
    const Problem::Result expected = problem.Quantize(format, {.squares = problem.squares});
    const Problem::Result actual = problem.Quantize(format, {.squares = problem.squares, .factor = diagonal});
    EXPECT_EQ(actual.codes, expected.codes);
    EXPECT_EQ(actual.scales, expected.scales);
  }
}

TEST(QuantizeIntegerRows, DoNotDependOnTheOtherRows) {
  const Problem problem;
  for (const WeightFormat format : kFormats) {
    const InputStatistics inputs{.squares = problem.squares, .factor = problem.factor};
    const Problem::Result together = problem.Quantize(format, inputs), alone = problem.Quantize(format, inputs, 1);
    EXPECT_EQ(together.codes, alone.codes);
    EXPECT_EQ(together.scales, alone.scales);
  }
}

}  // namespace
}  // namespace moed::kernels
