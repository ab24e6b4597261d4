// What tests of the experts' feed-forward share.
#ifndef TESTS_KERNELS_MOE_FFN_TESTING_H_
#define TESTS_KERNELS_MOE_FFN_TESTING_H_

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/moe_ffn/moe_ffn.h"
#include "tests/kernels/packed_weight_testing.h"

namespace moed::kernels::moe_ffn_testing {

using test::NormalTensor;
using test::TestTensor;

inline void CopyElements(const TensorView& from, const TensorView& to) {
  for (int64_t i = 0; i < to.num_elements(); ++i) test::SetElement(to, i, test::GetElement(from, i));
}

struct Shape {
  int64_t num_tokens, hidden, intermediate;
  int num_experts, top_k;
};

struct Formats {
  WeightFormat gate_up, down;
  ActivationRounding rounding = ActivationRounding::kNone;
};

// The weights of some experts, packed, with their memory; scaled so that hidden values and results are of the order of
// 1.
class Experts {
 public:
  Experts(test::Random& random, const Shape& shape, const Formats& formats)
      : gate_(random, shape.num_experts, shape.intermediate, shape.hidden, formats.gate_up,
              1 / std::sqrt(shape.hidden)),
        up_(random, shape.num_experts, shape.intermediate, shape.hidden, formats.gate_up, 1 / std::sqrt(shape.hidden)),
        down_(random, shape.num_experts, shape.hidden, shape.intermediate, formats.down,
              1 / std::sqrt(shape.intermediate)),
        num_experts_(shape.num_experts) {
    for (auto* weights : {&gate_, &up_, &down_}) weights->SetActivations(formats.rounding);
  }

  void AddTo(MoeFfnArgs& args) const {
    args.num_experts = num_experts_;
    args.gate = gate_.data();
    args.up = up_.data();
    args.down = down_.data();
  }

 private:
  packed_weight_testing::Weights gate_, up_, down_;
  int num_experts_;
};

// Which experts the tokens go to.
enum class Load { kRandom, kOneExpert };

// A router's results: for each token top_k distinct experts.
class Routing {
 public:
  Routing(test::Random& random, const Shape& shape, Load load)
      : weights_(NormalTensor(random, {shape.num_tokens, shape.top_k})),
        sorted_pairs_({shape.num_tokens * shape.top_k}, DType::kI32),
        expert_offsets_({shape.num_experts + 1}, DType::kI32),
        top_k_(shape.top_k) {
    std::vector<std::vector<int>> pairs(shape.num_experts);
    std::vector<int> experts(shape.num_experts);
    std::iota(experts.begin(), experts.end(), 0);
    for (int64_t token = 0; token < shape.num_tokens; ++token) {
      if (load == Load::kRandom) std::shuffle(experts.begin(), experts.end(), random.engine());
      for (int choice = 0; choice < top_k_; ++choice) {
        pairs[experts[choice]].push_back(static_cast<int>(token * top_k_ + choice));
      }
    }
    int next = 0;
    for (int expert = 0; expert < shape.num_experts; ++expert) {
      for (int pair : pairs[expert]) sorted_pairs_.As<int>()[next++] = pair;
      expert_offsets_.As<int>()[expert + 1] = next;
    }
  }
  // Those of one of the tokens of `args`: the same choices in the same order, with no other token.
  Routing(const MoeFfnArgs& args, int64_t token)
      : weights_({1, args.top_k}),
        sorted_pairs_({args.top_k}, DType::kI32),
        expert_offsets_({args.num_experts + 1}, DType::kI32),
        top_k_(args.top_k) {
    for (int choice = 0; choice < top_k_; ++choice) {
      weights_.As<float>()[choice] = args.weights.As<float>()[token * top_k_ + choice];
    }
    int next = 0;
    for (int expert = 0; expert < args.num_experts; ++expert) {
      for (int i = args.expert_offsets.As<int>()[expert]; i < args.expert_offsets.As<int>()[expert + 1]; ++i) {
        const int pair = args.sorted_pairs.As<int>()[i];
        if (pair / top_k_ == token) sorted_pairs_.As<int>()[next++] = pair % top_k_;
      }
      expert_offsets_.As<int>()[expert + 1] = next;
    }
  }
  void AddTo(MoeFfnArgs& args) const {
    args.top_k = top_k_;
    args.weights = weights_;
    args.sorted_pairs = sorted_pairs_;
    args.expert_offsets = expert_offsets_;
  }
  float* weights() const { return weights_.As<float>(); }

 private:
  TestTensor weights_, sorted_pairs_, expert_offsets_;
  int top_k_;
};

// The relative error that reaches an output: of the sums over `hidden` in gate and up, of the activation, whose slope
// is about 1, of the sum over `intermediate`, and of the combination. All as fractions of the magnitudes that are
// added.
inline double Tolerance(const Shape& shape) {
  return 2 * test::SumTolerance(shape.hidden) + test::SumTolerance(shape.intermediate) +
         test::SumTolerance(shape.top_k) + 8 * test::kFloatEpsilon;
}

// The hidden values' order of magnitude: NormalTensor's weights keep 1, but with biases, and inputs of order 2, they
// reach several tens.
inline double HiddenScale(const MoeFfnArgs& args) { return args.gate_bias.empty() ? 1 : 8; }

// What an output may differ by where hidden values are rounded to integers for down's weights: one that lies half way
// may go to either, after the rounding of a float, and a step is about 1/30 of the values, times one weight of down.
inline double HalfWayStep(const MoeFfnArgs& args, const Shape& shape) {
  return args.down[0].format.is_integer() ? HiddenScale(args) * 0.1 / std::sqrt(shape.intermediate) : 0;
}

// And where they are rounded to bf16, by up to 1/512 of the value, of random sign: 32 times what that makes on average.
inline double Bf16HiddenError(const MoeFfnArgs& args) {
  return HiddenScale(args) * 32.0 / 512 / std::sqrt(3) * std::sqrt(args.top_k);
}

// One of the tokens of `among` by itself: the same choices in the same order, with no other token.
class Alone {
 public:
  Alone(const MoeFfnArgs& among, int64_t token) : routing_(among, token), out_({1, among.out.dim(1)}), args_(among) {
    args_.x = among.x.Rows(token, token + 1);
    routing_.AddTo(args_);
    args_.out = out_;
  }
  const MoeFfnArgs& args() const { return args_; }
  const TensorView& out() const { return args_.out; }

 private:
  Routing routing_;
  TestTensor out_;
  MoeFfnArgs args_;
};

inline constexpr Formats kFormats[] = {
    {WeightFormat::F32(), WeightFormat::F32()},     {WeightFormat::BF16(), WeightFormat::BF16()},
    {WeightFormat::Int8(), WeightFormat::Int8()},   {WeightFormat::Int4(32), WeightFormat::Int4(32)},
    {WeightFormat::Int4(), WeightFormat::Int8(64)}, {WeightFormat::Int8(), WeightFormat::BF16()},
    {WeightFormat::F32(), WeightFormat::Int4()}};

// With rows that are rounded first.
inline constexpr Formats kRoundedFormats[] = {
    {WeightFormat::Int8(), WeightFormat::BF16(), ActivationRounding::kInt8Row},
    {WeightFormat::F32(), WeightFormat::F32(), ActivationRounding::kFp8Row},
    {WeightFormat::BF16(), WeightFormat::BF16(), ActivationRounding::kFp8Block}};

inline std::string FormatsName(const Formats& formats) {
  return packed_weight_testing::FormatName(formats.gate_up) + "_and_" + packed_weight_testing::FormatName(formats.down);
}

}  // namespace moed::kernels::moe_ffn_testing

#endif  // TESTS_KERNELS_MOE_FFN_TESTING_H_
