#include <gtest/gtest.h>

#include "kernels/embedding/embedding.h"
#include "tests/kernels/packed_weight_testing.h"
#include "tests/support/cuda_body_testing.h"

namespace moed::kernels {
namespace {

using test::TestTensor;
using EmbeddingCudaTest = test::CudaBodyTest;

TEST_F(EmbeddingCudaTest, EqualsReference) {
  const int64_t vocab = 19;
  test::Random random;
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const int64_t hidden : {1, 100, 513}) {
      for (const int64_t num_tokens : {0, 1, 6}) {
        const TestTensor table = test::NormalTensor(random, {vocab, hidden}, 1, dtype);
        const TestTensor ids({num_tokens}, DType::kI32), expected({num_tokens, hidden});
        for (int64_t i = 0; i < num_tokens; ++i) ids.As<int32_t>()[i] = static_cast<int32_t>(random.Int(0, vocab - 1));
        reference::Embedding({.ids = ids, .table = table, .scale = 3.5f, .out = expected});
        test::ForEachThreadOrder([&](const ExecContext& ctx) {
          const TestTensor out({num_tokens, hidden});
          cuda::Embedding(ctx, {.ids = ids, .table = table, .scale = 3.5f, .out = out});
          test::Await(ctx);
          EXPECT_TRUE(test::BitIdentical(out, expected)) << DTypeName(dtype) << " " << hidden;
        });
      }
    }
  }
}

TEST_F(EmbeddingCudaTest, ReadsPackedWeights) {
  const int64_t vocab = 70, num_tokens = 6;
  test::Random random;
  for (const WeightFormat format : packed_weight_testing::kFormats) {
    for (const int64_t hidden : {1, 100, 513}) {
      const packed_weight_testing::Weights weights(random, 1, vocab, hidden, format);
      const TestTensor ids({num_tokens}, DType::kI32), expected({num_tokens, hidden});
      for (int64_t i = 0; i < num_tokens; ++i) ids.As<int32_t>()[i] = static_cast<int32_t>(random.Int(0, vocab - 1));
      reference::Embedding({.ids = ids, .table = {}, .packed = weights[0], .scale = 3.5f, .out = expected});
      test::ForEachThreadOrder([&](const ExecContext& ctx) {
        const TestTensor out({num_tokens, hidden});
        cuda::Embedding(ctx, {.ids = ids, .table = {}, .packed = weights[0], .scale = 3.5f, .out = out});
        test::Await(ctx);
        EXPECT_TRUE(test::BitIdentical(out, expected)) << format.ToString() << " " << hidden;
      });
    }
  }
}

}  // namespace
}  // namespace moed::kernels
