#include "kernels/moe_ffn/moe_ffn.h"

#include <gtest/gtest.h>

#include "tests/kernels/moe_ffn_testing.h"
#include "tests/support/cuda_body_testing.h"

namespace moed::kernels {
namespace {

using moe_ffn_testing::Alone;
using moe_ffn_testing::CopyElements;
using moe_ffn_testing::Experts;
using moe_ffn_testing::Formats;
using moe_ffn_testing::kFormats;
using moe_ffn_testing::Load;
using moe_ffn_testing::Routing;
using moe_ffn_testing::Shape;
using test::GetElement;
using test::NormalTensor;
using test::Random;
using test::TestTensor;

class MoeFfnCudaTest : public test::CudaBodyTest, public testing::WithParamInterface<Formats> {};

TestTensor Copy(const TensorView& from) {
  TestTensor copy({from.dim(0), from.dim(1)});
  CopyElements(from, copy);
  return copy;
}

void ExpectMatchesReference(MoeFfnArgs args, const Shape& shape, const TensorView& old_out, int num_random) {
  const TestTensor expected = Copy(old_out);
  const TestTensor rounded = packed_weight_testing::AsMetByWeight(args.x, args.gate[0].format);
  MoeFfnArgs exact = args;
  exact.x = rounded;
  exact.out = expected;
  ASSERT_EQ(Check(exact), absl::OkStatus());
  reference::MoeFfn(exact);
  // An expert's outputs are sums of `intermediate` products of magnitude 1 / sqrt(intermediate).
  double allowed = moe_ffn_testing::Tolerance(shape) * std::sqrt(shape.intermediate) * shape.top_k;
  allowed += moe_ffn_testing::HalfWayStep(args, shape);
  if (args.down[0].format == WeightFormat::BF16()) allowed += moe_ffn_testing::Bf16HiddenError(args);
  // By warps and by warpgroups, where experts have so many rows.
  for (const bool wgmma : {false, true}) {
    if (wgmma && args.x.dim(0) < 16) continue;
    test::ForEachThreadOrder(
        [&](const ExecContext& ctx) {
          const TestTensor out = Copy(old_out);
          args.out = out;
          cuda::MoeFfn(ctx, args);
          test::Await(ctx);
          EXPECT_TRUE(test::AllClose(out, expected, allowed, allowed))
              << fmt::format("{} tokens, hidden {}, intermediate {}, {} experts, top {}, {}", shape.num_tokens,
                             shape.hidden, shape.intermediate, shape.num_experts, shape.top_k,
                             moe_ffn_testing::FormatsName({args.gate[0].format, args.down[0].format}));
        },
        num_random, wgmma);
  }
}

// All sizes of tiles, experts without rows and with several tiles, one expert for all.
TEST_P(MoeFfnCudaTest, MatchesReference) {
  Random random;
  std::vector<Shape> shapes = {{1, 1, 1, 1, 1},     {1, 64, 64, 8, 2},    {33, 70, 45, 4, 2},
                               {13, 96, 64, 1, 1},  {30, 33, 70, 4, 2},   {7, 40, 24, 75, 3},
                               {150, 40, 64, 2, 1}, {12, 130, 100, 2, 2}, {70, 300, 150, 3, 2}};
  for (int i = 0; i < 2; ++i) {
    const int num_experts = static_cast<int>(random.Int(1, 20));
    shapes.push_back({random.Int(1, 33), random.Int(1, 150), random.Int(1, 100), num_experts,
                      static_cast<int>(random.Int(1, std::min(4, num_experts)))});
  }
  for (const Shape& shape : shapes) {
    const TestTensor x = NormalTensor(random, {shape.num_tokens, shape.hidden});
    const TestTensor old_out = NormalTensor(random, {shape.num_tokens, shape.hidden});
    const Experts experts(random, shape, GetParam());
    for (const Load load : {Load::kRandom, Load::kOneExpert}) {
      const Routing routing(random, shape, load);
      MoeFfnArgs args;
      args.x = x;
      experts.AddTo(args);
      routing.AddTo(args);
      args.activation = load == Load::kRandom ? Activation::kSilu : Activation::kGeluTanh;
      args.accumulate = load == Load::kOneExpert;
      ExpectMatchesReference(args, shape, old_out, 0);
    }
  }
}

TEST_P(MoeFfnCudaTest, BiasesAndClampedSwiglu) {
  Random random;
  for (const Shape& shape : {Shape{1, 40, 31, 5, 2}, Shape{40, 70, 65, 4, 3}, Shape{12, 33, 32, 1, 1}}) {
    const TestTensor x = NormalTensor(random, {shape.num_tokens, shape.hidden}, 2);
    const TestTensor old_out = NormalTensor(random, {shape.num_tokens, shape.hidden});
    const TestTensor gate_bias = NormalTensor(random, {shape.num_experts, shape.intermediate});
    const TestTensor up_bias = NormalTensor(random, {shape.num_experts, shape.intermediate});
    const TestTensor down_bias = NormalTensor(random, {shape.num_experts, shape.hidden});
    const Experts experts(random, shape, GetParam());
    const Routing routing(random, shape, Load::kRandom);
    for (const Activation activation : {Activation::kSilu, Activation::kClampedSwiglu}) {
      MoeFfnArgs args;
      args.x = x;
      experts.AddTo(args);
      routing.AddTo(args);
      args.gate_bias = gate_bias;
      args.up_bias = up_bias;
      args.down_bias = down_bias;
      args.activation = activation;
      args.swiglu_limit = 1.5f;
      ExpectMatchesReference(args, shape, old_out, 1);
    }
  }
}

// A token's row is the same to the bit among others, as long as the body is the same.
TEST_P(MoeFfnCudaTest, ResultsDoNotDependOnCompany) {
  Random random;
  const Shape shape{12, 75, 96, 6, 3};
  const TestTensor x = NormalTensor(random, {shape.num_tokens, shape.hidden});
  const Experts experts(random, shape, GetParam());
  const Routing routing(random, shape, Load::kRandom);
  MoeFfnArgs args;
  args.x = x;
  experts.AddTo(args);
  routing.AddTo(args);
  const TestTensor together({shape.num_tokens, shape.hidden});
  args.out = together;
  const test::CudaContext context;
  cuda::MoeFfn(context, args);
  test::Await(context);
  for (int64_t token = 0; token < shape.num_tokens; ++token) {
    const Alone alone(args, token);
    cuda::MoeFfn(context, alone.args());
    test::Await(context);
    EXPECT_TRUE(test::BitIdentical(alone.out(), together.view().Rows(token, token + 1))) << "token " << token;
  }
}

// Where that is asked for, among so many that they have another body.
TEST_P(MoeFfnCudaTest, ResultsDoNotDependOnCompanyOfAnySize) {
  Random random;
  for (const Shape& shape : {Shape{100, 75, 300, 2, 2}, Shape{90, 40, 70, 3, 1}}) {
    const TestTensor x = NormalTensor(random, {shape.num_tokens, shape.hidden});
    const TestTensor old_out = NormalTensor(random, {shape.num_tokens, shape.hidden});
    const Experts experts(random, shape, GetParam());
    const Routing routing(random, shape, Load::kRandom);
    MoeFfnArgs args;
    args.x = x;
    experts.AddTo(args);
    routing.AddTo(args);
    args.accumulate = true;
    const TestTensor together = Copy(old_out);
    args.out = together;
    const test::CudaContext context;
    ExecContext ctx = context;
    ctx.batch_invariant = true;
    cuda::MoeFfn(ctx, args);
    test::Await(ctx);
    for (const int64_t token : {int64_t{0}, int64_t{41}, shape.num_tokens - 1}) {
      const Alone alone(args, token);
      CopyElements(old_out.view().Rows(token, token + 1), alone.out());
      cuda::MoeFfn(ctx, alone.args());
      test::Await(ctx);
      EXPECT_TRUE(test::BitIdentical(alone.out(), together.view().Rows(token, token + 1))) << "token " << token;
    }
  }
}

TEST_P(MoeFfnCudaTest, StridedRowsAndNoTokens) {
  Random random;
  const Shape shape{5, 40, 24, 3, 2};
  const Experts experts(random, shape, GetParam());
  const Routing routing(random, shape, Load::kRandom);
  const TestTensor wide = NormalTensor(random, {shape.num_tokens, shape.hidden + 7});
  const TensorView x = wide.view().Columns(2, 2 + shape.hidden);
  const TestTensor expected({shape.num_tokens, shape.hidden}), packed_x = Copy(x);
  MoeFfnArgs args;
  experts.AddTo(args);
  routing.AddTo(args);
  args.x = packed_x;
  args.out = expected;
  const test::CudaContext context;
  cuda::MoeFfn(context, args);
  test::Await(context);
  TestTensor wide_out({shape.num_tokens, shape.hidden + 5});
  args.x = x;
  args.out = wide_out.view().Columns(1, 1 + shape.hidden);
  cuda::MoeFfn(context, args);
  test::Await(context);
  EXPECT_TRUE(test::BitIdentical(args.out, expected));
  for (int64_t row = 0; row < shape.num_tokens; ++row) {
    EXPECT_EQ(GetElement(wide_out, row * (shape.hidden + 5)), 0);
    EXPECT_EQ(GetElement(wide_out, row * (shape.hidden + 5) + shape.hidden + 1), 0);
  }
  const TestTensor no_rows({0, shape.hidden}), no_weights({0, 2}), no_pairs({0}, DType::kI32),
      offsets({4}, DType::kI32);
  args.x = args.out = no_rows;
  args.weights = no_weights;
  args.sorted_pairs = no_pairs;
  args.expert_offsets = offsets;
  cuda::MoeFfn(context, args);
  test::Await(context);
}

INSTANTIATE_TEST_SUITE_P(Formats, MoeFfnCudaTest, testing::ValuesIn(kFormats),
                         [](const auto& formats) { return moe_ffn_testing::FormatsName(formats.param); });

}  // namespace
}  // namespace moed::kernels
