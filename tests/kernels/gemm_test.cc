#include "kernels/gemm/gemm.h"

#include <gmock/gmock.h>

#include "kernels/gemm/integer_weight.h"
#include "kernels/gemm/reference_product.h"
#include "tests/kernels/packed_weight_testing.h"

namespace moed::kernels {
namespace {

using packed_weight_testing::AsMetByWeight;
using packed_weight_testing::HasBf16Products;
using test::FillConstant;
using test::FillEdgeValues;
using test::ForEachCpuBody;
using test::GetElement;
using test::NormalTensor;
using test::Random;
using test::TestTensor;
using ::testing::HasSubstr;

constexpr WeightFormat kFormats[] = {WeightFormat::F32(),    WeightFormat::BF16(),    WeightFormat::Int8(),
                                     WeightFormat::Int8(32), WeightFormat::Int4(),    WeightFormat::Int4(32),
                                     WeightFormat::Int8(8),  WeightFormat::Int4(1024)};

// A packed matrix with its memory.
struct TestWeight {
  explicit TestWeight(const TensorView& source, WeightFormat format)
      : memory({static_cast<int64_t>(PackedBytes(source.dim(0), source.dim(1), format))}, DType::kU8) {
    auto result = PackWeight(source, format, memory.As<void>());
    MOED_CHECK(result.ok(), "{}", result.status().ToString());
    packed = *result;
  }

  TestTensor memory;
  PackedWeight packed;
};

// The sum of magnitudes of which an output's error is a fraction.
TestTensor Magnitudes(const GemmArgs& args, const TensorView& old_out) {
  TestTensor magnitudes({args.x.dim(0), args.weight.n});
  std::vector<float> x(args.weight.k);
  for (int64_t row = 0; row < args.x.dim(0); ++row) {
    for (int64_t i = 0; i < args.weight.k; ++i) x[i] = args.x.As<float>()[row * args.x.stride(0) + i];
    const std::vector<double> multiplied = reference::AsMultiplied(x, args.weight);
    for (int64_t output = 0; output < args.weight.n; ++output) {
      double sum = args.bias.empty() ? 0 : std::abs(GetElement(args.bias, output));
      if (args.accumulate) sum += std::abs(GetElement(old_out, row * args.weight.n + output));
      for (int64_t i = 0; i < args.weight.k; ++i) {
        sum += std::abs(multiplied[i] * PackedElement(args.weight, output, i));
      }
      magnitudes.As<float>()[row * args.weight.n + output] = static_cast<float>(sum);
    }
  }
  return magnitudes;
}

// What bf16 products lose, at most, by taking subnormal operands and sums as zero.
TestTensor LostSubnormals(const TensorView& x, const PackedWeight& weight) {
  const auto is_subnormal = [](double value) { return std::abs(value) < 0x1p-126; };
  TestTensor lost({x.dim(0), weight.n});
  for (int64_t row = 0; row < x.dim(0); ++row) {
    for (int64_t output = 0; output < weight.n; ++output) {
      double sum = static_cast<double>(2 * weight.k) * 0x1p-126;
      for (int64_t i = 0; i < weight.k; ++i) {
        const double a = GetElement(x, row * weight.k + i), b = PackedElement(weight, output, i);
        if (is_subnormal(a) || is_subnormal(b)) sum += std::abs(a * b);
      }
      lost.As<float>()[row * weight.n + output] = static_cast<float>(sum);
    }
  }
  return lost;
}

TestTensor Copy(const TensorView& from) {
  TestTensor copy({from.dim(0), from.dim(1)});
  for (int64_t i = 0; i < from.num_elements(); ++i) test::SetElement(copy, i, GetElement(from, i));
  return copy;
}

struct Shape {
  int64_t m, n, k;
};

// What the reference makes of some arguments, and the errors that a body may have.
struct Expected {
  Expected(GemmArgs args, const TensorView& old_out, double relative)
      : out(Copy(old_out)), allowed(Magnitudes(args, old_out)) {
    args.out = out;
    EXPECT_EQ(Check(args), absl::OkStatus());
    reference::Gemm(args);
    for (int64_t i = 0; i < out.view().num_elements(); ++i) {
      allowed.As<float>()[i] = static_cast<float>(relative * allowed.As<float>()[i] + 1e-44);
    }
  }
  TestTensor out, allowed;
};

// Where rows become bf16 first.
Expected ExpectedOfBf16(GemmArgs args, const TensorView& old_out, double relative) {
  const TestTensor rounded = AsMetByWeight(args.x, args.weight.format);
  args.x = rounded;
  Expected expected(args, old_out, relative);
  const TestTensor lost = LostSubnormals(args.x, args.weight);
  for (int64_t i = 0; i < lost.view().num_elements(); ++i) expected.allowed.As<float>()[i] += lost.As<float>()[i];
  return expected;
}

// Runs the reference and every body on `args` with copies of `old_out` as output.
void ExpectBodiesMatchReference(GemmArgs args, const TensorView& old_out, double relative) {
  const Expected as_given(args, old_out, relative), as_bf16 = ExpectedOfBf16(args, old_out, relative);
  ForEachCpuBody([&](const ExecContext& ctx) {
    const Expected& expected = HasBf16Products(ctx.isa, args.weight) ? as_bf16 : as_given;
    const TestTensor out = Copy(old_out);
    args.out = out;
    Gemm(ctx, args);
    EXPECT_TRUE(test::AllWithin(out, expected.out, [&](int64_t i) { return expected.allowed.As<float>()[i]; }))
        << args.x.ToString() << " times [" << args.weight.n << ", " << args.weight.k << "] in "
        << args.weight.format.ToString() << (args.accumulate ? ", accumulating" : "");
  });
}

class GemmTest : public ::testing::TestWithParam<WeightFormat> {};

TEST_P(GemmTest, MatchesReference) {
  Random random;
  std::vector<Shape> shapes = {{1, 1, 1},   {1, 32, 64},   {1, 129, 65},  {2, 96, 33},  {3, 31, 7},
                               {5, 33, 63}, {13, 160, 96}, {29, 70, 130}, {33, 64, 31}, {80, 257, 40}};
  for (int i = 0; i < 12; ++i) {
    shapes.push_back({random.Int(1, 33), random.Int(1, 200), random.Int(1, 300)});
  }
  for (const Shape& shape : shapes) {
    const TestTensor x = NormalTensor(random, {shape.m, shape.k});
    const TestTensor source = NormalTensor(random, {shape.n, shape.k});
    const TestTensor bias = NormalTensor(random, {shape.n});
    const TestTensor old_out = NormalTensor(random, {shape.m, shape.n});
    const TestWeight weight(source, GetParam());
    GemmArgs args{.x = x, .weight = weight.packed, .bias = {}, .accumulate = false, .out = {}};
    const double tolerance = test::SumTolerance(shape.k + 2);
    ExpectBodiesMatchReference(args, old_out, tolerance);
    args.bias = bias;
    args.accumulate = true;
    ExpectBodiesMatchReference(args, old_out, tolerance);
  }
}

// Rows that are rounded before they are multiplied, also with edge values: a row of zeros, one with a NaN.
TEST_P(GemmTest, RoundsActivations) {
  Random random;
  const ActivationRounding int8 = ActivationRounding::kInt8Row;
  std::vector<ActivationRounding> roundings = {int8, ActivationRounding::kFp8Row, ActivationRounding::kFp8Block};
  if (GetParam().is_integer()) roundings = {int8};
  for (const ActivationRounding rounding : roundings) {
    for (const Shape& shape : {Shape{1, 40, 300}, Shape{2, 33, 128}, Shape{7, 64, 129}, Shape{30, 31, 65}}) {
      const TestTensor x = NormalTensor(random, {shape.m, shape.k}, 3.0), old_out({shape.m, shape.n});
      if (shape.m > 2) {
        std::fill_n(x.As<float>(), shape.k, 0.0f);
        std::fill_n(x.As<float>() + shape.k, shape.k / 2, 1e-5f);
        x.As<float>()[2 * shape.k + 1] = NAN;
      }
      TestWeight weight(NormalTensor(random, {shape.n, shape.k}), GetParam());
      weight.packed.activations = rounding;
      const GemmArgs args{.x = x, .weight = weight.packed, .bias = {}, .accumulate = false, .out = {}};
      ExpectBodiesMatchReference(args, old_out, test::SumTolerance(shape.k + 2));
    }
  }
}

TEST_P(GemmTest, EdgeValues) {
  Random random;
  const Shape shape{14, 40, 75};
  const TestTensor zeros({shape.m, shape.n});
  TestTensor x({shape.m, shape.k}), source({shape.n, shape.k});
  FillEdgeValues(x, random);
  FillEdgeValues(source, random);
  if (GetParam().is_integer()) {  // which hold no such large numbers
    for (int64_t i = 0; i < source.view().num_elements(); ++i) {
      source.As<float>()[i] = std::clamp(source.As<float>()[i], -300.0f, 300.0f);
    }
  }
  const TestWeight weight(source, GetParam());
  GemmArgs args{.x = x, .weight = weight.packed, .bias = {}, .accumulate = false, .out = {}};
  ExpectBodiesMatchReference(args, zeros, test::WorstSumTolerance(shape.k));
  // Constant inputs round the same way at each step.
  FillConstant(x, 1.1);
  FillConstant(source, 0.7);
  const TestWeight constant(source, GetParam());
  args.weight = constant.packed;
  ExpectBodiesMatchReference(args, zeros, test::WorstSumTolerance(shape.k));
  // An infinity or a NaN stays in its row, and padding does not spread it.
  TestTensor ones({shape.n, shape.k});
  FillConstant(ones, 1);
  const TestWeight one_weight(ones, GetParam());
  args.weight = one_weight.packed;
  FillConstant(x, 1);
  x.As<float>()[2 * shape.k + shape.k - 1] = HUGE_VALF;
  x.As<float>()[5 * shape.k] = NAN;
  ExpectBodiesMatchReference(args, zeros, test::WorstSumTolerance(shape.k));
}

// Each row alone, and all together, in any team: the same bits.
TEST_P(GemmTest, ResultsDoNotDependOnCompany) {
  Random random;
  for (const Shape& shape : {Shape{29, 161, 203}, Shape{12, 64, 128}, Shape{61, 96, 37}}) {
    const TestTensor x = NormalTensor(random, {shape.m, shape.k});
    const TestWeight weight(NormalTensor(random, {shape.n, shape.k}), GetParam());
    for (Isa isa : test::MachineIsas()) {
      TestTensor alone({shape.m, shape.n});
      const test::TestContext one_thread(isa, 1);
      for (int64_t row = 0; row < shape.m; ++row) {
        Gemm(one_thread, {.x = x.view().Rows(row, row + 1),
                          .weight = weight.packed,
                          .bias = {},
                          .accumulate = false,
                          .out = alone.view().Rows(row, row + 1)});
      }
      for (int num_threads : {1, 2, 3}) {
        const test::TestContext context(isa, num_threads);
        for (int64_t m = 1; m <= shape.m; m += m < 14 ? 1 : 5) {
          TestTensor out({m, shape.n});
          Gemm(context,
               {.x = x.view().Rows(0, m), .weight = weight.packed, .bias = {}, .accumulate = false, .out = out});
          EXPECT_TRUE(test::BitIdentical(out, alone.view().Rows(0, m)))
              << IsaName(isa) << ", " << num_threads << " threads, m " << m;
        }
      }
    }
  }
}

TEST_P(GemmTest, StridedRows) {
  Random random;
  const Shape shape{7, 45, 50};
  const TestTensor wide_x = NormalTensor(random, {shape.m, shape.k + 9});
  const TestWeight weight(NormalTensor(random, {shape.n, shape.k}), GetParam());
  const TensorView x = wide_x.view().Columns(4, 4 + shape.k);
  const TestTensor expected({shape.m, shape.n}), rounded = AsMetByWeight(x, GetParam());
  ForEachCpuBody([&](const ExecContext& ctx) {
    reference::Gemm({.x = HasBf16Products(ctx.isa, weight.packed) ? rounded.view() : x,
                     .weight = weight.packed,
                     .bias = {},
                     .accumulate = false,
                     .out = expected});
    TestTensor wide_out({shape.m, shape.n + 6});
    FillConstant(wide_out, 42);
    const TensorView out = wide_out.view().Columns(3, 3 + shape.n);
    Gemm(ctx, {.x = x, .weight = weight.packed, .bias = {}, .accumulate = false, .out = out});
    EXPECT_TRUE(test::AllClose(out, expected, 1e-5, 1e-5 * std::sqrt(shape.k)));
    for (int64_t row = 0; row < shape.m; ++row) {
      for (int64_t column : {int64_t{0}, int64_t{2}, shape.n + 3, shape.n + 5}) {
        EXPECT_EQ(wide_out.As<float>()[row * (shape.n + 6) + column], 42) << "written beside the output";
      }
    }
  });
}

TEST_P(GemmTest, NoRows) {
  Random random;
  const TestWeight weight(NormalTensor(random, {33, 20}), GetParam());
  const TestTensor x({0, 20}), out({0, 33});
  ForEachCpuBody([&](const ExecContext& ctx) {
    Gemm(ctx, {.x = x, .weight = weight.packed, .bias = {}, .accumulate = false, .out = out});
  });
}

// Weights of several heads, with their memory.
struct HeadWeights {
  HeadWeights(Random& random, int64_t heads, int64_t n, int64_t k, WeightFormat format) {
    for (int64_t head = 0; head < heads; ++head) {
      memory.emplace_back(NormalTensor(random, {n, k}), format);
      packed.push_back(memory.back().packed);
    }
  }
  std::vector<TestWeight> memory;
  std::vector<PackedWeight> packed;
};

// Heads inside wider rows, read and written in place; each head is the product of its own rows alone, to the bit.
TEST_P(GemmTest, BatchedIsOneProductAHead) {
  Random random;
  struct Batch {
    int64_t m, heads, n, k;
  };
  for (const Batch& b : {Batch{1, 16, 64, 24}, Batch{1, 1, 1, 1}, Batch{5, 3, 33, 50}, Batch{33, 7, 20, 131},
                         Batch{29, 2, 97, 40}, Batch{random.Int(1, 20), random.Int(1, 9), random.Int(1, 70), 64}}) {
    const HeadWeights weights(random, b.heads, b.n, b.k, GetParam());
    const TestTensor rows = NormalTensor(random, {b.m, b.heads * (b.k + 3)});
    BatchedGemmArgs args;
    args.x = rows.view().SplitLast(b.heads, b.k + 3).Columns(2, b.k + 2);
    args.weights = weights.packed.data();
    const TestTensor expected({b.m, b.heads, b.n}), rounded = AsMetByWeight(args.x, GetParam());
    ForEachCpuBody([&](const ExecContext& ctx) {
      BatchedGemmArgs exact = args;
      if (HasBf16Products(ctx.isa, weights.packed[0])) exact.x = rounded;
      exact.out = expected;
      ASSERT_EQ(Check(exact), absl::OkStatus());
      reference::BatchedGemm(exact);
      const TestTensor wide({b.m, b.heads * (b.n + 2)}), alone({b.m, b.n});
      FillConstant(wide, 42);
      args.out = wide.view().SplitLast(b.heads, b.n + 2).Columns(1, b.n + 1);
      BatchedGemm(ctx, args);
      EXPECT_TRUE(test::AllClose(args.out, expected, 0, 5 * std::sqrt(b.k) * test::SumTolerance(b.k)));
      for (int64_t head = 0; head < b.heads; ++head) {
        const int64_t x_column = head * (b.k + 3) + 2, out_column = head * (b.n + 2);
        Gemm(ctx, {.x = rows.view().Columns(x_column, x_column + b.k),
                   .weight = weights.packed[head],
                   .bias = {},
                   .accumulate = false,
                   .out = alone});
        EXPECT_TRUE(test::BitIdentical(wide.view().Columns(out_column + 1, out_column + b.n + 1), alone));
        EXPECT_EQ(wide.As<float>()[out_column], 42) << "written beside the output";
        EXPECT_EQ(wide.As<float>()[out_column + b.n + 1], 42) << "written beside the output";
      }
    });
  }
}

TEST_P(GemmTest, BatchedOfNothing) {
  Random random;
  const HeadWeights weights(random, 2, 33, 20, GetParam());
  const TestTensor x({0, 2, 20}), out({0, 2, 33}), no_heads({3, 0, 20}), no_out({3, 0, 33});
  ForEachCpuBody([&](const ExecContext& ctx) {
    BatchedGemm(ctx, {.x = x, .weights = weights.packed.data(), .out = out});
    BatchedGemm(ctx, {.x = no_heads, .weights = nullptr, .out = no_out});
  });
}

INSTANTIATE_TEST_SUITE_P(Formats, GemmTest, ::testing::ValuesIn(kFormats), [](const auto& format) {
  std::string name = format.param.ToString();
  std::replace(name.begin(), name.end(), ' ', '_');
  return name;
});

TEST(PackWeightTest, HoldsEveryElementRounded) {
  Random random;
  for (DType from : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (WeightFormat to : {WeightFormat::F32(), WeightFormat::BF16()}) {
      for (const auto& [n, k] : {std::pair<int64_t, int64_t>{1, 1}, {32, 64}, {70, 131}, {65, 66}, {31, 200}}) {
        const TestTensor source = NormalTensor(random, {n, k}, 1, from);
        TestTensor memory({static_cast<int64_t>(PackedBytes(n, k, to))}, DType::kU8);
        FillConstant(memory, 0xff);  // the padding must become zero by itself
        const auto packed = PackWeight(source, to, memory.As<void>());
        ASSERT_TRUE(packed.ok()) << packed.status();
        EXPECT_EQ(packed->n, n);
        EXPECT_EQ(packed->k, k);
        for (int64_t i = 0; i < n * k; ++i) {
          const auto value = static_cast<float>(GetElement(source, i));
          EXPECT_EQ(PackedElement(*packed, i / k, i % k),
                    to == WeightFormat::F32() ? value : ToFloat(ToBFloat16(value)));
        }
        for (int64_t output = n; output < (n + 31) / 32 * 32; ++output) {
          for (int64_t input = 0; input < k; ++input) EXPECT_EQ(PackedElement(*packed, output, input), 0);
        }
      }
    }
  }
}

TEST(PackWeightTest, RowsOfSeveralMatrices) {
  Random random;
  constexpr int64_t kInputs = 37, kFirst = 45, kSecond = 30;
  const int64_t n = kFirst + kSecond;
  const TestTensor whole = NormalTensor(random, {n, kInputs});
  for (WeightFormat format : kFormats) {
    const TestWeight expected(whole, format);
    TestTensor memory({static_cast<int64_t>(PackedBytes(n, kInputs, format))}, DType::kU8);
    ASSERT_EQ(PackWeightRows(whole.view().Rows(kFirst, n), kFirst, n, format, memory.As<void>()), absl::OkStatus());
    ASSERT_EQ(PackWeightRows(whole.view().Rows(0, kFirst), 0, n, format, memory.As<void>()), absl::OkStatus());
    EXPECT_TRUE(test::BitIdentical(memory, expected.memory));
  }
}

// int8: the largest error of a group is half a step of its scale, and what rounding that to fp16 makes of 127 steps.
// int4, which may clip: the squared error is no larger than without.
TEST(PackWeightTest, IntegersAreNear) {
  Random random;
  for (WeightFormat format : kFormats) {
    if (!format.is_integer()) continue;
    const bool is_int8 = format.type == WeightFormat::Type::kInt8;
    for (const auto& [n, k, scale] : {std::tuple{33, 300, 1.0}, {5, 7, 1e-4}, {64, 1025, 30.0}}) {
      const TestTensor source = NormalTensor(random, {n, k}, scale);
      const TestWeight weight(source, format);
      for (int64_t begin = 0; begin < k; begin += format.group_size) {
        const int64_t end = std::min<int64_t>(k, begin + format.group_size);
        for (int64_t output = 0; output < n; ++output) {
          const float* const row = source.As<float>() + output * k;
          double largest = 0, error = 0, plain_error = 0, largest_error = 0;
          for (int64_t i = begin; i < end; ++i) largest = std::max<double>(largest, std::abs(row[i]));
          const double step = largest / (is_int8 ? 127 : 7);
          for (int64_t i = begin; i < end; ++i) {
            const double difference = std::abs(PackedElement(weight.packed, output, i) - row[i]);
            const double plain = std::nearbyint(row[i] / step) * step - row[i];
            largest_error = std::max(largest_error, difference);
            error += difference * difference, plain_error += plain * plain;
          }
          if (is_int8) {
            EXPECT_LE(largest_error, step * 0.57) << format.ToString();
          } else {
            // The scale itself is rounded to fp16.
            const double of_scale = largest * 0x1p-11;
            EXPECT_LE(error, plain_error * 1.02 + of_scale * of_scale * static_cast<double>(end - begin));
          }
        }
      }
    }
  }
}

TEST(PackWeightTest, KeepsScalesOfHalfPrecision) {
  // A group that has the integers -8 … 7 under a scale that fp16 holds comes back exactly.
  TestTensor source({1, 32});
  for (const float scale : {0x1.554p-8f, 0x1.8p-14f, 3.0f}) {
    for (int i = 0; i < 32; ++i) source.As<float>()[i] = static_cast<float>(i % 16 - 8) * scale;
    const TestWeight weight(source, WeightFormat::Int4(32));
    for (int i = 0; i < 32; ++i) EXPECT_EQ(PackedElement(weight.packed, 0, i), source.As<float>()[i]) << scale;
  }
}

// Integers and scales apart, and packed from there: the same bytes; and under a scale for several groups.
TEST(PackWeightTest, TakesIntegersThatAreThere) {
  Random random;
  for (WeightFormat format : kFormats) {
    if (!format.is_integer()) continue;
    const int64_t n = 37, k = 301, groups = (k + format.group_size - 1) / format.group_size;
    const TestTensor source = NormalTensor(random, {n, k});
    const TestWeight expected(source, format);
    TestTensor memory({static_cast<int64_t>(PackedBytes(n, k, format))}, DType::kU8);
    std::fill_n(memory.As<char>(), PackedBytes(n, k, format), 0);
    std::vector<int8_t> codes(k);
    std::vector<float> scales(groups);
    for (int64_t row = 0; row < n; ++row) {
      ASSERT_TRUE(QuantizeIntegerRow(source.As<float>() + row * k, k, format, codes.data(), scales.data()).ok());
      ASSERT_TRUE(
          PackIntegerCodes(codes.data(), scales.data(), format.group_size, row, k, format, memory.As<void>()).ok());
    }
    EXPECT_TRUE(test::BitIdentical(memory, expected.memory)) << format.ToString();

    const float scale = 0x1.8p-7f, too_large = 70;
    ASSERT_TRUE(PackIntegerCodes(codes.data(), &scale, k, 0, k, format, memory.As<void>()).ok());
    const PackedWeight packed{.data = memory.As<void>(), .n = n, .k = k, .format = format};
    for (int64_t i = 0; i < k; ++i) ASSERT_EQ(PackedElement(packed, 0, i), static_cast<float>(codes[i]) * scale);
    EXPECT_THAT(Message(PackIntegerCodes(codes.data(), &too_large, k, 3, k, format, memory.As<void>())),
                HasSubstr("the scale of output 3, input 0 is 70"));
  }
}

TEST(PackWeightTest, RefusesWhatItCannotPack) {
  TestTensor memory({65536}, DType::kU8);
  const TestTensor source({4, 8}), flat({8}), integers({4, 8}, DType::kI32);
  const auto error = [&](const TensorView& from, WeightFormat format) {
    const absl::Status status = PackWeight(from, format, memory.As<void>()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(Message(status));
  };
  EXPECT_THAT(error(source, WeightFormat::Int8(12)), HasSubstr("int8 in groups of 12"));
  EXPECT_THAT(error(source, WeightFormat::Int4(0)), HasSubstr("int4 in groups of 0"));
  EXPECT_THAT(error(flat, WeightFormat::F32()), HasSubstr("fp32[8]"));
  EXPECT_THAT(error(integers, WeightFormat::F32()), HasSubstr("int32[4, 8]"));
  source.As<float>()[9] = 9000;
  EXPECT_THAT(error(source, WeightFormat::Int8()), HasSubstr("output 1: a weight is 9000; as int8"));
  source.As<float>()[9] = -600;
  EXPECT_THAT(error(source, WeightFormat::Int4()), HasSubstr("output 1: a weight is -600; as int4"));
  source.As<float>()[9] = NAN;
  EXPECT_THAT(error(source, WeightFormat::Int8()), HasSubstr("a weight is nan"));
  EXPECT_THAT(Message(PackWeightRows(source, 5, 8, WeightFormat::F32(), memory.As<void>())), HasSubstr("rows [5, 9)"));
  EXPECT_EQ(PackWeightRows(source, -1, 8, WeightFormat::F32(), memory.As<void>()).code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(GemmCheckTest, NamesWhatIsWrong) {
  Random random;
  const TestWeight weight(NormalTensor(random, {40, 16}), WeightFormat::F32());
  const TestTensor x({3, 16}), out({3, 40}), bias({40});
  const GemmArgs good{.x = x, .weight = weight.packed, .bias = bias, .accumulate = false, .out = out};
  EXPECT_EQ(Check(good), absl::OkStatus());
  const auto expect_error = [&](const auto& spoil, std::string_view text) {
    GemmArgs bad = good;
    spoil(bad);
    const absl::Status status = Check(bad);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(Message(status), HasSubstr(text));
  };
  const TestTensor half({3, 16}, DType::kF16), narrow({3, 15}), flat({16}), small_bias({39});
  expect_error([&](GemmArgs& args) { args.x = half; }, "x is fp16[3, 16]");
  expect_error([&](GemmArgs& args) { args.x = narrow; }, "weight is [40, 16]; it must be [40, 15]");
  expect_error([&](GemmArgs& args) { args.x = flat; }, "x is fp32[16]");
  expect_error([&](GemmArgs& args) { args.out = x; }, "out is fp32[3, 16]");
  expect_error([&](GemmArgs& args) { args.bias = small_bias; }, "bias is fp32[39]");
  expect_error([&](GemmArgs& args) { args.weight.format.group_size = 4; }, "weight: weights cannot be packed");
  expect_error([&](GemmArgs& args) { args.weight.data = nullptr; }, "weight lies at 0x0");
}

TEST(BatchedGemmCheckTest, NamesWhatIsWrong) {
  Random random;
  HeadWeights weights(random, 2, 40, 16, WeightFormat::F32());
  const TestTensor x({3, 2, 16}), out({3, 2, 40}), narrow({3, 2, 15});
  BatchedGemmArgs args{.x = x, .weights = weights.packed.data(), .out = out};
  EXPECT_EQ(Check(args), absl::OkStatus());
  args.out = x;
  EXPECT_THAT(Message(Check(args)), HasSubstr("out is fp32[3, 2, 16]; it must be fp32[3, 2, 40]"));
  args.out = out;
  args.x = narrow;
  EXPECT_THAT(Message(Check(args)), HasSubstr("weights[0] is [40, 16]; it must be [40, 15]"));
  args.x = x;
  args.weights = nullptr;
  EXPECT_THAT(Message(Check(args)), HasSubstr("weights are missing; 2 heads need one each"));
  args.weights = weights.packed.data();
  weights.packed[1].n = 39;
  EXPECT_THAT(Message(Check(args)), HasSubstr("weights[1] is [39, 16]; it must be [40, 16]"));
}

}  // namespace
}  // namespace moed::kernels
