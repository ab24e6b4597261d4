// Packed weights with their memory, as tests of products need them.
#ifndef TESTS_KERNELS_PACKED_WEIGHT_TESTING_H_
#define TESTS_KERNELS_PACKED_WEIGHT_TESTING_H_

#include <vector>

#include "kernels/gemm/packed_weight.h"
#include "tests/support/tensor_testing.h"

namespace moed::kernels::packed_weight_testing {

// Several random weights of one shape at equal distances, each followed by a gap; normal with the given scale.
class Weights {
 public:
  Weights(test::Random& random, int64_t count, int64_t n, int64_t k, WeightFormat format, double scale = 1)
      : memory_({count * Distance(n, k, format) - kGap}, DType::kU8) {
    for (int64_t i = 0; i < count; ++i) {
      const test::TestTensor source = test::NormalTensor(random, {n, k}, scale);
      Add(source, format);
    }
  }
  Weights(const TensorView& source, WeightFormat format)
      : memory_({Distance(source.dim(0), source.dim(1), format) - kGap}, DType::kU8) {
    Add(source, format);
  }

  void SetActivations(ActivationRounding rounding) {
    for (PackedWeight& weight : packed_) weight.activations = rounding;
  }
  const PackedWeight* data() const { return packed_.data(); }
  const PackedWeight& operator[](int64_t i) const { return packed_[i]; }

 private:
  static constexpr int64_t kGap = 192;
  static int64_t Distance(int64_t n, int64_t k, WeightFormat format) {
    return static_cast<int64_t>(PackedBytes(n, k, format)) + kGap;
  }
  void Add(const TensorView& source, WeightFormat format) {
    char* const place = memory_.As<char>() + std::ssize(packed_) * Distance(source.dim(0), source.dim(1), format);
    auto packed = PackWeight(source, format, place);
    MOED_CHECK(packed.ok(), "{}", packed.status().ToString());
    packed_.push_back(*packed);
  }

  test::TestTensor memory_;
  std::vector<PackedWeight> packed_;
};

// Whether the CPU bodies of that instruction set multiply bf16 with bf16 where rows meet this weight.
inline bool HasBf16Products(Isa isa, const PackedWeight& weight) {
  return isa >= Isa::kAvx512Bf16 && weight.format == WeightFormat::BF16() &&
         weight.activations == ActivationRounding::kNone;
}

// What such bodies, and the tensor cores, multiply when `x` meets weights of `format`: bf16 with bf16.
inline test::TestTensor AsMetByWeight(const TensorView& x, WeightFormat format) {
  test::TestTensor result =
      x.rank == 2 ? test::TestTensor({x.dim(0), x.dim(1)}) : test::TestTensor({x.dim(0), x.dim(1), x.dim(2)});
  for (int64_t i = 0; i < x.num_elements(); ++i) {
    const auto value = static_cast<float>(test::GetElement(x, i));
    result.As<float>()[i] = format.type == WeightFormat::Type::kBF16 ? ToFloat(ToBFloat16(value)) : value;
  }
  return result;
}

inline constexpr WeightFormat kFormats[] = {WeightFormat::F32(),    WeightFormat::BF16(),   WeightFormat::Int8(),
                                            WeightFormat::Int8(32), WeightFormat::Int4(),   WeightFormat::Int4(32),
                                            WeightFormat::Int8(8),  WeightFormat::Int4(40), WeightFormat::Int4(1024)};

inline std::string FormatName(WeightFormat format) {
  std::string name = format.ToString();
  std::replace(name.begin(), name.end(), ' ', '_');
  return name;
}

}  // namespace moed::kernels::packed_weight_testing

#endif  // TESTS_KERNELS_PACKED_WEIGHT_TESTING_H_
