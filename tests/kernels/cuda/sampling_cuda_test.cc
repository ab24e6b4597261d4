#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "kernels/sampling/sample_rows.h"
#include "tests/support/cuda_body_testing.h"

namespace moed::kernels {
namespace {

using test::TestTensor;
using SamplingCudaTest = test::CudaBodyTest;

// Rows of one vocabulary and how each is to be sampled.
struct Rows {
  Rows(int64_t num_rows, int64_t vocab, int64_t max_top) : logits({num_rows, vocab}), how(num_rows), top(max_top) {}

  int64_t size() const { return logits.view().dim(0); }

  TestTensor logits;
  std::vector<SamplingRow> how;
  std::vector<LogitAdjustment> adjustments;
  int64_t top;
};

struct Result {
  explicit Result(const Rows& rows)
      : logits({rows.size(), rows.logits.view().dim(1)}),
        tokens({rows.size()}, DType::kI32),
        token_logprobs({rows.size()}),
        top_ids({rows.size(), rows.top}, DType::kI32),
        top_logprobs({rows.size(), rows.top}),
        how(Copy(rows.how)),
        adjustments(Copy(rows.adjustments)) {
    std::copy_n(rows.logits.As<float>(), logits.view().num_elements(), logits.As<float>());
  }

  // In memory that bodies reach.
  template <typename T>
  static TestTensor Copy(const std::vector<T>& values) {
    TestTensor copy({static_cast<int64_t>(values.size() * sizeof(T))}, DType::kU8);
    std::copy(values.begin(), values.end(), copy.As<T>());
    return copy;
  }

  SampleRowsArgs Args(const Rows& rows) const {
    return {.logits = logits,
            .rows = how.As<SamplingRow>(),
            .adjustments = adjustments.As<LogitAdjustment>(),
            .num_adjustments = std::ssize(rows.adjustments),
            .tokens = tokens,
            .token_logprobs = token_logprobs,
            .top_ids = top_ids,
            .top_logprobs = top_logprobs};
  }

  int32_t Token(int64_t row) const { return tokens.As<int32_t>()[row]; }

  TestTensor logits, tokens, token_logprobs, top_ids, top_logprobs, how, adjustments;
};

// Whether the reference draws the same token a little to either side of what `how` draws: elsewhere the rounding of
// weights may decide.
bool IsAwayFromBorders(const Rows& rows, int32_t token, int64_t r) {
  for (const double nudge : {-1e-6, 1e-6}) {
    Rows alone(1, rows.logits.view().dim(1), rows.top);
    std::copy_n(rows.logits.As<float>() + r * rows.logits.view().dim(1), rows.logits.view().dim(1),
                alone.logits.As<float>());
    alone.how[0] = rows.how[r];
    alone.adjustments = rows.adjustments;
    alone.how[0].uniform = std::clamp(alone.how[0].uniform + nudge, 0.0, 1.0 - 1e-9);
    const Result moved(alone);
    reference::SampleRows(moved.Args(alone));
    if (moved.Token(0) != token) return false;
  }
  return true;
}

// Every body gives the reference's tokens and log-probabilities. Returns how many rows were near a border.
int ExpectReference(const Rows& rows) {
  const Result expected(rows);
  EXPECT_TRUE(Check(expected.Args(rows)).ok()) << Check(expected.Args(rows));
  reference::SampleRows(expected.Args(rows));
  std::vector<bool> is_clear(rows.size());
  for (int64_t r = 0; r < rows.size(); ++r) is_clear[r] = IsAwayFromBorders(rows, expected.Token(r), r);
  const auto expect_equal = [&](const Result& actual) {
    for (int64_t r = 0; r < rows.size(); ++r) {
      if (!is_clear[r]) continue;
      SCOPED_TRACE("row " + std::to_string(r));
      ASSERT_EQ(actual.Token(r), expected.Token(r));
      if (rows.how[r].logprobs < 0 || expected.Token(r) < 0) continue;
      EXPECT_NEAR(actual.token_logprobs.As<float>()[r], expected.token_logprobs.As<float>()[r], 1e-4);
      for (int64_t i = 0; i < std::min<int64_t>(rows.how[r].logprobs, rows.logits.view().dim(1)); ++i) {
        EXPECT_EQ(actual.top_ids.As<int32_t>()[r * rows.top + i], expected.top_ids.As<int32_t>()[r * rows.top + i]);
        EXPECT_NEAR(actual.top_logprobs.As<float>()[r * rows.top + i],
                    expected.top_logprobs.As<float>()[r * rows.top + i], 1e-4);
      }
    }
  };
  {
    SCOPED_TRACE("cpu");
    const test::TestContext ctx;
    const Result actual(rows);
    cpu::SampleRows(ctx, actual.Args(rows));
    expect_equal(actual);
  }
  test::ForEachThreadOrder(
      [&](const ExecContext& ctx) {
        const Result actual(rows);
        cuda::SampleRows(ctx, actual.Args(rows));
        test::Await(ctx);
        expect_equal(actual);
      },
      /*num_random=*/1);
  return static_cast<int>(std::count(is_clear.begin(), is_clear.end(), false));
}

SamplingRow RandomRow(test::Random& random, int64_t vocab) {
  SamplingRow row;
  const double temperatures[] = {0.0, 0.01, 0.7, 1.0, 1.5, 20.0};
  row.temperature = static_cast<float>(temperatures[random.Int(0, 5)]);
  if (random.Int(0, 1) == 0) row.top_k = static_cast<int32_t>(random.Int(1, vocab + 2));
  if (random.Int(0, 1) == 0) row.top_p = static_cast<float>(random.Uniform(0.05, 1));
  if (random.Int(0, 2) == 0) row.min_p = static_cast<float>(random.Uniform(0, 0.5));
  row.uniform = random.Uniform();
  return row;
}

// Adjustments of some ids of row `r`, each once.
void AddAdjustments(test::Random& random, int64_t r, int64_t vocab, Rows* rows) {
  SamplingRow& how = rows->how[r];
  how.repetition_penalty = static_cast<float>(random.Uniform(0.5, 2));
  how.first_adjustment = static_cast<int32_t>(rows->adjustments.size());
  for (int32_t id = 0; id < vocab; ++id) {
    if (random.Int(0, 3) != 0) continue;
    rows->adjustments.push_back({.id = id,
                                 .bias = random.Int(0, 1) == 0 ? 0.0f : static_cast<float>(random.Normal(3)),
                                 .subtract = random.Int(0, 1) == 0 ? 0.0f : static_cast<float>(random.Uniform(-2, 4)),
                                 .is_seen = random.Int(0, 1) == 0,
                                 .is_barred = random.Int(0, 7) == 0});
  }
  how.num_adjustments = static_cast<int32_t>(rows->adjustments.size()) - how.first_adjustment;
}

TEST_F(SamplingCudaTest, EqualsReference) {
  test::Random random;
  int near_border = 0;
  for (const int64_t vocab : {1, 33, 1000, 4099}) {
    Rows rows(8, vocab, 5);
    test::FillNormal(rows.logits, random, 3);
    for (int64_t r = 0; r < rows.size(); ++r) {
      rows.how[r] = RandomRow(random, vocab);
      if (r % 2 == 0) rows.how[r].logprobs = static_cast<int32_t>(random.Int(0, 5));
      if (r % 4 < 2) AddAdjustments(random, r, vocab, &rows);
    }
    SCOPED_TRACE("vocabulary of " + std::to_string(vocab));
    near_border += ExpectReference(rows);
  }
  EXPECT_LE(near_border, 5);
}

// Each way to choose by itself, over a range of draws that reaches both ends.
TEST_F(SamplingCudaTest, EveryWayToChoose) {
  test::Random random;
  constexpr int64_t kVocab = 300;
  for (const auto& [top_k, top_p, min_p] : {std::tuple{0, 1.0f, 0.0f},
                                            {0, 1.0f, 0.1f},
                                            {7, 1.0f, 0.0f},
                                            {0, 0.7f, 0.0f},
                                            {40, 0.8f, 0.05f},
                                            {1, 0.001f, 1.0f}}) {
    Rows rows(4, kVocab, 0);
    const TestTensor one = test::NormalTensor(random, {kVocab}, 2);
    for (int64_t r = 0; r < rows.size(); ++r) {
      std::copy_n(one.As<float>(), kVocab, rows.logits.As<float>() + r * kVocab);
      rows.how[r] = {.temperature = 0.9f, .top_k = top_k, .top_p = top_p, .min_p = min_p};
      rows.how[r].uniform = r == 0 ? 0.0 : r == 1 ? 1.0 - 0x1p-53 : random.Uniform();
    }
    SCOPED_TRACE(fmt::format("top_k {}, top_p {}, min_p {}", top_k, top_p, min_p));
    EXPECT_LE(ExpectReference(rows), 2);
  }
}

// Few different values: many equal logits at every border, of some more than are listed in shared memory.
TEST_F(SamplingCudaTest, EqualLogitsGoByTheirIds) {
  test::Random random;
  constexpr int64_t kVocab = 6000;
  Rows rows(6, kVocab, 32);
  for (int64_t i = 0; i < rows.logits.view().num_elements(); ++i) {
    rows.logits.As<float>()[i] = static_cast<float>(random.Int(-2, 1)) * (random.Int(0, 1) == 0 ? 1.0f : -0.0f);
  }
  for (int64_t r = 0; r < rows.size(); ++r) {
    rows.how[r] = RandomRow(random, kVocab);
    // Halves of a part so that the target lies inside an entry, not at the border of two.
    rows.how[r].uniform = (std::floor(rows.how[r].uniform * 64) + 0.5) / 64;
    if (r < 2) rows.how[r].logprobs = static_cast<int32_t>(r == 0 ? 32 : 3);
  }
  EXPECT_LE(ExpectReference(rows), 4);
}

TEST_F(SamplingCudaTest, RowsThatAreNotFiniteAndRowsThatAreBarred) {
  constexpr int64_t kVocab = 100;
  test::Random random;
  Rows rows(6, kVocab, 1);
  test::FillNormal(rows.logits, random, 1);
  for (const auto& [row, value] : {std::pair{0, NAN}, {1, INFINITY}, {2, -INFINITY}}) {
    rows.logits.As<float>()[row * kVocab + random.Int(0, kVocab - 1)] = value;
  }
  for (const int64_t r : {4, 5}) {
    rows.how[r].first_adjustment = static_cast<int32_t>(rows.adjustments.size());
    rows.how[r].num_adjustments = kVocab;
    rows.how[r].top_k = r == 4 ? 0 : 3;
    for (int32_t id = 0; id < kVocab; ++id) rows.adjustments.push_back({.id = id, .is_barred = true});
  }
  EXPECT_EQ(ExpectReference(rows), 0);
}

// Numbers that are far apart, large and tiny: most weigh nothing.
TEST_F(SamplingCudaTest, EdgeValues) {
  test::Random random;
  Rows rows(6, 600, 3);
  test::FillEdgeValues(rows.logits, random);
  for (int64_t r = 0; r < rows.size(); ++r) {
    rows.how[r] = RandomRow(random, 600);
    rows.how[r].uniform = (std::floor(rows.how[r].uniform * 8) + 0.37) / 8;
    if (r < 2) rows.how[r].logprobs = 3;
  }
  EXPECT_LE(ExpectReference(rows), 4);
}

}  // namespace
}  // namespace moed::kernels
