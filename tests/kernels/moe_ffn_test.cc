#include "kernels/moe_ffn/moe_ffn.h"

#include <gmock/gmock.h>

#include "tests/kernels/moe_ffn_testing.h"

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
using moe_ffn_testing::Tolerance;
using packed_weight_testing::HasBf16Products;
using test::FillConstant;
using test::ForEachCpuBody;
using test::GetElement;
using test::NormalTensor;
using test::Random;
using test::TestTensor;
using ::testing::HasSubstr;

// For rows that are rounded on their way: one that lies half way takes either side, and a step of E4M3 is 1/16 of the
// value. Such steps are seldom, so that the whole is close. (gemm_test looks at the rounding itself.)
void ExpectSmallErrorOfAll(const TensorView& actual, const TensorView& expected) {
  double error = 0, sum = 0;
  for (int64_t i = 0; i < expected.num_elements(); ++i) {
    const double a = GetElement(actual, i), e = GetElement(expected, i);
    if (!std::isfinite(e)) {
      EXPECT_TRUE(a == e || (std::isnan(a) && std::isnan(e))) << "element " << i << " is " << a << ", not " << e;
      continue;
    }
    error += (a - e) * (a - e);
    sum += e * e;
  }
  EXPECT_LE(std::sqrt(error), 0.1 * std::sqrt(sum));
}

// out = the reference's result, of x as the bodies of `isa` multiply it.
void RunReference(MoeFfnArgs args, Isa isa, const TensorView& out) {
  const TestTensor rounded = packed_weight_testing::AsMetByWeight(args.x, args.gate[0].format);
  if (HasBf16Products(isa, args.gate[0])) args.x = rounded;
  args.out = out;
  ASSERT_EQ(Check(args), absl::OkStatus());
  reference::MoeFfn(args);
}

double Bf16Error(const MoeFfnArgs& args, Isa isa) {
  return HasBf16Products(isa, args.down[0]) ? moe_ffn_testing::Bf16HiddenError(args) : 0;
}

void ExpectBodiesMatchReference(MoeFfnArgs args, const Shape& shape, const TensorView& old_out) {
  const int64_t num_tokens = shape.num_tokens, hidden = shape.hidden;
  ForEachCpuBody([&](const ExecContext& ctx) {
    TestTensor expected({num_tokens, hidden}), out({num_tokens, hidden});
    CopyElements(old_out, expected);
    RunReference(args, ctx.isa, expected);
    CopyElements(old_out, out);
    args.out = out;
    MoeFfn(ctx, args);
    // An expert's outputs are sums of `intermediate` products of magnitude 1 / sqrt(intermediate).
    double allowed = Tolerance(shape) * std::sqrt(shape.intermediate) * shape.top_k;
    allowed += moe_ffn_testing::HalfWayStep(args, shape) + Bf16Error(args, ctx.isa);
    if (args.down[0].activations != ActivationRounding::kNone) return ExpectSmallErrorOfAll(out, expected);
    EXPECT_TRUE(test::AllClose(out, expected, allowed, allowed)) << fmt::format(
        "{} tokens, hidden {}, intermediate {}, {} experts, top {}, {}", num_tokens, hidden, shape.intermediate,
        shape.num_experts, shape.top_k, args.gate[0].format.ToString() + ", " + args.down[0].format.ToString());
  });
}

class MoeFfnTest : public ::testing::TestWithParam<Formats> {};

TEST_P(MoeFfnTest, MatchesReference) {
  Random random;
  std::vector<Shape> shapes = {{1, 1, 1, 1, 1},    {1, 64, 32, 8, 2},   {3, 33, 31, 5, 5},  {33, 70, 45, 4, 2},
                               {13, 96, 64, 1, 1}, {7, 40, 24, 257, 3}, {70, 37, 65, 3, 1}, {12, 130, 100, 2, 2}};
  for (int i = 0; i < 6; ++i) {
    const int num_experts = static_cast<int>(random.Int(1, 20));
    shapes.push_back({random.Int(1, 33), random.Int(1, 150), random.Int(1, 100), num_experts,
                      static_cast<int>(random.Int(1, std::min(4, num_experts)))});
  }
  for (const Shape& shape : shapes) {
    const TestTensor x = NormalTensor(random, {shape.num_tokens, shape.hidden});
    const TestTensor old_out = NormalTensor(random, {shape.num_tokens, shape.hidden});
    const Experts experts(random, shape, GetParam());
    for (Load load : {Load::kRandom, Load::kOneExpert}) {
      const Routing routing(random, shape, load);
      MoeFfnArgs args;
      args.x = x;
      experts.AddTo(args);
      routing.AddTo(args);
      args.activation = load == Load::kRandom ? Activation::kSilu : Activation::kGeluTanh;
      args.accumulate = load == Load::kOneExpert;
      ExpectBodiesMatchReference(args, shape, old_out);
    }
  }
}

TEST_P(MoeFfnTest, BiasesAndClampedSwiglu) {
  Random random;
  for (const Shape& shape : {Shape{1, 40, 31, 5, 2}, Shape{33, 70, 65, 4, 3}, Shape{12, 33, 32, 1, 1}}) {
    const TestTensor x = NormalTensor(random, {shape.num_tokens, shape.hidden}, 2);
    const TestTensor old_out = NormalTensor(random, {shape.num_tokens, shape.hidden});
    const TestTensor gate_bias = NormalTensor(random, {shape.num_experts, shape.intermediate});
    const TestTensor up_bias = NormalTensor(random, {shape.num_experts, shape.intermediate});
    const TestTensor down_bias = NormalTensor(random, {shape.num_experts, shape.hidden});
    const Experts experts(random, shape, GetParam());
    const Routing routing(random, shape, Load::kRandom);
    for (Activation activation : {Activation::kSilu, Activation::kClampedSwiglu}) {
      MoeFfnArgs args;
      args.x = x;
      experts.AddTo(args);
      routing.AddTo(args);
      args.gate_bias = gate_bias;
      args.up_bias = up_bias;
      args.down_bias = down_bias;
      args.activation = activation;
      args.swiglu_limit = 1.5f;
      ExpectBodiesMatchReference(args, shape, old_out);
    }
  }
}

TEST_P(MoeFfnTest, EdgeValues) {
  Random random;
  const Shape shape{15, 50, 70, 4, 2};
  const Experts experts(random, shape, GetParam());
  const Routing routing(random, shape, Load::kRandom);
  const TestTensor zeros({shape.num_tokens, shape.hidden});
  TestTensor x({shape.num_tokens, shape.hidden});
  MoeFfnArgs args;
  args.x = x;
  experts.AddTo(args);
  routing.AddTo(args);
  ExpectBodiesMatchReference(args, shape, zeros);  // zeros in
  test::FillUniform(x, random, -1e-41, 1e-41);     // subnormal
  ExpectBodiesMatchReference(args, shape, zeros);
  FillConstant(x, -0.0);
  routing.weights()[0] = 0;
  ExpectBodiesMatchReference(args, shape, zeros);
  // Large: the activation is all or nothing. The tolerance is a fraction of what is added, which grows with the square.
  test::FillUniform(x, random, -1e4, 1e4);
  ForEachCpuBody([&](const ExecContext& ctx) {
    TestTensor expected({shape.num_tokens, shape.hidden}), out({shape.num_tokens, shape.hidden});
    RunReference(args, ctx.isa, expected);
    double largest = 0;
    for (int64_t i = 0; i < expected.view().num_elements(); ++i) {
      largest = std::max(largest, std::abs(GetElement(expected, i)));
    }
    args.out = out;
    MoeFfn(ctx, args);
    if (args.down[0].activations != ActivationRounding::kNone) return ExpectSmallErrorOfAll(out, expected);
    const double relative = Tolerance(shape) * std::sqrt(shape.intermediate) +
                            moe_ffn_testing::HalfWayStep(args, shape) + Bf16Error(args, ctx.isa);
    EXPECT_TRUE(test::AllClose(out, expected, 0, largest * relative));
  });
}

// A token's row is the same to the bit alone and among others, whoever they are and wherever they go.
TEST_P(MoeFfnTest, ResultsDoNotDependOnCompany) {
  Random random;
  for (const Shape& shape : {Shape{40, 75, 96, 6, 3}, Shape{29, 64, 33, 1, 1}}) {
    const TestTensor x = NormalTensor(random, {shape.num_tokens, shape.hidden});
    const Experts experts(random, shape, GetParam());
    const Routing routing(random, shape, Load::kRandom);
    MoeFfnArgs args;
    args.x = x;
    experts.AddTo(args);
    routing.AddTo(args);
    for (Isa isa : test::MachineIsas()) {
      TestTensor together({shape.num_tokens, shape.hidden});
      args.out = together;
      MoeFfn(test::TestContext(isa, 1), args);
      for (int num_threads : {2, 3}) {
        TestTensor out({shape.num_tokens, shape.hidden});
        args.out = out;
        MoeFfn(test::TestContext(isa, num_threads), args);
        EXPECT_TRUE(test::BitIdentical(out, together)) << IsaName(isa) << ", " << num_threads << " threads";
      }
      for (int64_t token = 0; token < shape.num_tokens; ++token) {
        const Alone alone(args, token);
        MoeFfn(test::TestContext(isa, 2), alone.args());
        EXPECT_TRUE(test::BitIdentical(alone.out(), together.view().Rows(token, token + 1)))
            << IsaName(isa) << ", token " << token;
      }
    }
  }
}

TEST_P(MoeFfnTest, StridedRowsAndNoTokens) {
  Random random;
  const Shape shape{5, 40, 24, 3, 2};
  const Experts experts(random, shape, GetParam());
  const Routing routing(random, shape, Load::kRandom);
  const TestTensor wide = NormalTensor(random, {shape.num_tokens, shape.hidden + 7});
  const TestTensor expected({shape.num_tokens, shape.hidden});
  MoeFfnArgs args;
  args.x = wide.view().Columns(2, 2 + shape.hidden);
  experts.AddTo(args);
  routing.AddTo(args);
  ForEachCpuBody([&](const ExecContext& ctx) {
    RunReference(args, ctx.isa, expected);
    TestTensor wide_out({shape.num_tokens, shape.hidden + 5});
    MoeFfnArgs strided = args;
    strided.out = wide_out.view().Columns(1, 1 + shape.hidden);
    MoeFfn(ctx, strided);
    const double allowed = 1e-4 + moe_ffn_testing::HalfWayStep(args, shape) + Bf16Error(args, ctx.isa);
    if (args.down[0].activations != ActivationRounding::kNone) {
      ExpectSmallErrorOfAll(strided.out, expected);
    } else {
      EXPECT_TRUE(test::AllClose(strided.out, expected, allowed, allowed));
    }
    for (int64_t row = 0; row < shape.num_tokens; ++row) {
      EXPECT_EQ(GetElement(wide_out, row * (shape.hidden + 5)), 0);
      EXPECT_EQ(GetElement(wide_out, row * (shape.hidden + 5) + shape.hidden + 1), 0);
    }
    const TestTensor no_rows({0, shape.hidden}), no_weights({0, 2}), no_pairs({0}, DType::kI32),
        offsets({4}, DType::kI32);
    MoeFfnArgs none = args;
    none.x = none.out = no_rows;
    none.weights = no_weights;
    none.sorted_pairs = no_pairs;
    none.expert_offsets = offsets;
    EXPECT_EQ(Check(none), absl::OkStatus());
    MoeFfn(ctx, none);
  });
}

INSTANTIATE_TEST_SUITE_P(Formats, MoeFfnTest, ::testing::ValuesIn(kFormats),
                         [](const auto& formats) { return moe_ffn_testing::FormatsName(formats.param); });
INSTANTIATE_TEST_SUITE_P(Rounded, MoeFfnTest, ::testing::ValuesIn(moe_ffn_testing::kRoundedFormats),
                         [](const auto& formats) { return moe_ffn_testing::FormatsName(formats.param); });

TEST(MoeFfnCheckTest, NamesWhatIsWrong) {
  Random random;
  const Shape shape{4, 20, 12, 3, 2};
  const Experts experts(random, shape, kFormats[0]), other(random, {4, 20, 13, 3, 2}, kFormats[0]);
  const Routing routing(random, shape, Load::kOneExpert);
  const TestTensor x({4, 20}), out({4, 20});
  MoeFfnArgs good;
  good.x = x;
  experts.AddTo(good);
  routing.AddTo(good);
  good.out = out;
  EXPECT_EQ(Check(good), absl::OkStatus());
  MoeFfnArgs others = good;
  other.AddTo(others);
  const auto expect_error = [&](const auto& spoil, std::string_view text) {
    MoeFfnArgs bad = good;
    spoil(bad);
    const absl::Status status = Check(bad);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(Message(status), HasSubstr(text));
  };
  expect_error([](MoeFfnArgs& args) { args.x.dtype = DType::kBF16; }, "x is bf16[4, 20]");
  expect_error([](MoeFfnArgs& args) { args.out.shape[1] = 19; }, "out is fp32[4, 19]");
  expect_error([](MoeFfnArgs& args) { args.num_experts = 0; }, "num_experts is 0");
  expect_error([](MoeFfnArgs& args) { args.up = nullptr; }, "must each point to 3 weights");
  expect_error([&](MoeFfnArgs& args) { args.up = others.up; }, "up of expert 0 is [13, 20]; it must be [12, 20]");
  expect_error([&](MoeFfnArgs& args) { args.down = others.down; }, "down of expert 0 is [20, 13]");
  expect_error([&](MoeFfnArgs& args) { args.gate_bias = x; }, "gate_bias is fp32[4, 20]; it must be fp32[3, 12]");
  expect_error([](MoeFfnArgs& args) { args.top_k = 1; }, "weights is fp32[4, 2]");
  // Taken back after each, as the memory is shared.
  expect_error([](MoeFfnArgs& args) { args.sorted_pairs.As<int>()[1] = 8; }, "sorted_pairs[1] is 8");
  expect_error([](MoeFfnArgs& args) { args.sorted_pairs.As<int>()[1] = 0; }, "sorted_pairs[1] is 0");
  good.sorted_pairs.As<int>()[1] = 2;
  expect_error([](MoeFfnArgs& args) { args.expert_offsets.As<int>()[3] = 7; }, "expert_offsets run from 0 to 7");
  good.expert_offsets.As<int>()[3] = 8;
  expect_error([](MoeFfnArgs& args) { args.expert_offsets.As<int>()[2] = 3; }, "expert_offsets[1] is 4");
}

}  // namespace
}  // namespace moed::kernels
