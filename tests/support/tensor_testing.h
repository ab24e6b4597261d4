// What the tests of ops and layers share: tensors with a guard page, fresh random numbers, comparison with the worst
// element named, and the loop over every CPU body of the machine.
#ifndef TESTS_SUPPORT_TENSOR_TESTING_H_
#define TESTS_SUPPORT_TENSOR_TESTING_H_

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "base/cpu_info.h"
#include "base/logging.h"
#include "base/thread_pool.h"
#include "tensor/exec_context.h"
#include "tensor/tensor_view.h"

namespace moed::test {

// --------------------------------------------------------------------------------------------------------- tensors

// Told of the pages of every tensor that is made while it is set, so that a GPU can be let into them.
struct TensorPages {
  void (*add)(void* pages, size_t bytes) = nullptr;
  void (*remove)(void* pages) = nullptr;
};
inline TensorPages tensor_pages;

// Owned zeros, right before a page that nobody may touch: a body that reads or writes past the end of a tensor stops
// the test there. (An alignment of 64 bytes holds only where the tensor's size is a multiple of 64.)
class TestTensor {
 public:
  TestTensor() = default;
  TestTensor(std::initializer_list<int64_t> shape, DType dtype = DType::kF32) {
    view_ = TensorView(nullptr, shape, dtype);
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t usable = (view_.num_bytes() + page) / page * page;  // at least one page
    mapped_ = usable + page;
    base_ = static_cast<char*>(mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    MOED_CHECK(base_ != MAP_FAILED, "no memory for a test tensor of {} bytes", mapped_);
    MOED_CHECK(mprotect(base_ + usable, page, PROT_NONE) == 0);
    view_.data = base_ + usable - view_.num_bytes();
    if (tensor_pages.add != nullptr) tensor_pages.add(base_, usable), remove_ = tensor_pages.remove;
  }
  ~TestTensor() {
    if (remove_ != nullptr) remove_(base_);
    if (base_ != nullptr) munmap(base_, mapped_);
  }
  TestTensor(TestTensor&& other) noexcept { *this = std::move(other); }
  TestTensor& operator=(TestTensor&& other) noexcept {
    std::swap(view_, other.view_);
    std::swap(base_, other.base_);
    std::swap(mapped_, other.mapped_);
    std::swap(remove_, other.remove_);
    return *this;
  }

  const TensorView& view() const { return view_; }
  operator const TensorView&() const { return view_; }  // NOLINT: a tensor is passed where a view is asked for
  template <typename T>
  T* As() const {
    return view_.As<T>();
  }

 private:
  TensorView view_;
  char* base_ = nullptr;
  size_t mapped_ = 0;
  void (*remove_)(void* pages) = nullptr;
};

// ------------------------------------------------------------------------------------------------ element by element

// Position in memory of the flat (row-major) index `i`, in elements.
inline int64_t OffsetOf(const TensorView& view, int64_t i) {
  int64_t offset = 0;
  for (int d = view.rank - 1; d >= 0; --d) {
    offset += i % view.shape[d] * view.strides[d];
    i /= view.shape[d];
  }
  return offset;
}

// "[3, 17]" for the flat index `i`.
inline std::string IndexName(const TensorView& view, int64_t i) {
  std::string text = "]";
  for (int d = view.rank - 1; d >= 0; --d) {
    text.insert(0, (d > 0 ? ", " : "[") + std::to_string(i % view.shape[d]));
    i /= view.shape[d];
  }
  return text;
}

inline double GetElement(const TensorView& view, int64_t i) {
  const int64_t offset = OffsetOf(view, i);
  switch (view.dtype) {
    case DType::kF32:
      return view.As<float>()[offset];
    case DType::kBF16:
      return ToFloat(view.As<BFloat16>()[offset]);
    case DType::kF16:
      return ToFloat(view.As<Half>()[offset]);
    case DType::kI8:
      return view.As<int8_t>()[offset];
    case DType::kU8:
      return view.As<uint8_t>()[offset];
    case DType::kI32:
      return view.As<int32_t>()[offset];
    case DType::kI64:
      return static_cast<double>(view.As<int64_t>()[offset]);
  }
  return 0;
}

// Rounds to the tensor's dtype.
inline void SetElement(const TensorView& view, int64_t i, double value) {
  const int64_t offset = OffsetOf(view, i);
  switch (view.dtype) {
    case DType::kF32:
      view.As<float>()[offset] = static_cast<float>(value);
      return;
    case DType::kBF16:
      view.As<BFloat16>()[offset] = ToBFloat16(static_cast<float>(value));
      return;
    case DType::kF16:
      view.As<Half>()[offset] = ToHalf(static_cast<float>(value));
      return;
    case DType::kI8:
      view.As<int8_t>()[offset] = static_cast<int8_t>(value);
      return;
    case DType::kU8:
      view.As<uint8_t>()[offset] = static_cast<uint8_t>(value);
      return;
    case DType::kI32:
      view.As<int32_t>()[offset] = static_cast<int32_t>(value);
      return;
    case DType::kI64:
      view.As<int64_t>()[offset] = static_cast<int64_t>(value);
      return;
  }
}

// --------------------------------------------------------------------------------------------------- random numbers

// Another at each start of the program, printed so that a failure can be repeated with MOED_TEST_SEED.
inline uint64_t TestSeed() {
  static const uint64_t seed = [] {
    const char* fixed = std::getenv("MOED_TEST_SEED");
    const uint64_t value = fixed != nullptr ? std::strtoull(fixed, nullptr, 10) : std::random_device()();
    std::printf("MOED_TEST_SEED=%llu\n", static_cast<unsigned long long>(value));
    return value;
  }();
  return seed;
}

class Random {
 public:
  // Seeded by TestSeed() and the running test's name, so that a test run alone with the printed seed sees the same.
  Random() : engine_(TestSeed()) {
    const ::testing::TestInfo* info = ::testing::UnitTest::GetInstance()->current_test_info();
    if (info == nullptr) return;
    const std::string name = std::string(info->test_suite_name()) + "." + info->name();
    std::seed_seq seeds(name.begin(), name.end());
    uint32_t words[2];
    seeds.generate(words, words + 2);
    engine_.seed(TestSeed() ^ (uint64_t{words[0]} << 32 | words[1]));
  }

  // Uniform in [low, high], both included.
  int64_t Int(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(engine_); }
  double Uniform(double low = 0, double high = 1) { return std::uniform_real_distribution<>(low, high)(engine_); }
  double Normal(double scale = 1) { return std::normal_distribution<>(0, scale)(engine_); }
  std::mt19937_64& engine() { return engine_; }

 private:
  std::mt19937_64 engine_;
};

// Normal values with standard deviation `scale`.
inline void FillNormal(const TensorView& view, Random& random, double scale = 1) {
  for (int64_t i = 0; i < view.num_elements(); ++i) SetElement(view, i, random.Normal(scale));
}

inline void FillUniform(const TensorView& view, Random& random, double low, double high) {
  for (int64_t i = 0; i < view.num_elements(); ++i) SetElement(view, i, random.Uniform(low, high));
}

inline void FillConstant(const TensorView& view, double value) {
  for (int64_t i = 0; i < view.num_elements(); ++i) SetElement(view, i, value);
}

inline TestTensor NormalTensor(Random& random, std::initializer_list<int64_t> shape, double scale = 1,
                               DType dtype = DType::kF32) {
  TestTensor tensor(shape, dtype);
  FillNormal(tensor, random, scale);
  return tensor;
}

// Zeros of both signs, subnormal, tiny and large numbers among ordinary ones; all finite.
inline void FillEdgeValues(const TensorView& view, Random& random) {
  static constexpr double kValues[] = {0.0, -0.0, 1e-45, -1e-40, 1e-20, -1e-20, 1e15, -1e15, 1.0, -1.0, 0.5, 3.0};
  for (int64_t i = 0; i < view.num_elements(); ++i) {
    SetElement(view, i, kValues[random.Int(0, std::size(kValues) - 1)]);
  }
}

// ------------------------------------------------------------------------------------------------------- comparison

// The relative spacing of floats at 1, twice the largest relative error of one rounding.
inline constexpr double kFloatEpsilon = std::numeric_limits<float>::epsilon();

// The error that a float sum of k products may carry, as a fraction of the sum of their magnitudes: roundings of random
// sign, half an epsilon at most each, grow like sqrt(k); the factor 4 leaves room for the unlucky.
inline double SumTolerance(int64_t k) { return 4 * std::sqrt(static_cast<double>(k) + 4) * kFloatEpsilon / 2; }
// The same for roundings that all go one way (constant inputs): Higham's gamma_k.
inline double WorstSumTolerance(int64_t k) { return (static_cast<double>(k) + 4) * kFloatEpsilon; }

// Whether |actual[i] - expected[i]| <= tolerance(i) for every flat index; NaN equals NaN, an infinity itself. The
// message names the element that exceeds its tolerance by the largest factor.
template <typename Tolerance>
::testing::AssertionResult AllWithin(const TensorView& actual, const TensorView& expected, const Tolerance& tolerance) {
  if (actual.rank != expected.rank || !std::equal(actual.shape, actual.shape + actual.rank, expected.shape)) {
    return ::testing::AssertionFailure() << "shapes differ: " << actual.ToString() << " and " << expected.ToString();
  }
  int64_t worst = -1, failures = 0;
  double worst_ratio = 0;
  for (int64_t i = 0; i < actual.num_elements(); ++i) {
    const double a = GetElement(actual, i), e = GetElement(expected, i);
    if (a == e || (std::isnan(a) && std::isnan(e))) continue;
    const double allowed = tolerance(i), error = std::abs(a - e);
    if (error <= allowed) continue;
    ++failures;
    const double ratio = std::isfinite(error) ? error / std::max(allowed, 1e-300) : HUGE_VAL;
    if (worst < 0 || ratio > worst_ratio) worst = i, worst_ratio = ratio;
  }
  if (failures == 0) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << fmt::format(
             "{} of {} elements differ; the worst is {}: {:.9g} where {:.9g} is expected, error {:.3g}, {:.3g} times "
             "the {:.3g} allowed",
             failures, actual.num_elements(), IndexName(actual, worst), GetElement(actual, worst),
             GetElement(expected, worst), std::abs(GetElement(actual, worst) - GetElement(expected, worst)),
             worst_ratio, static_cast<double>(tolerance(worst)));
}

// |actual - expected| <= absolute + relative * |expected|
inline ::testing::AssertionResult AllClose(const TensorView& actual, const TensorView& expected, double relative,
                                           double absolute) {
  return AllWithin(actual, expected,
                   [&](int64_t i) { return absolute + relative * std::abs(GetElement(expected, i)); });
}

// Equal to the bit: the same NaN, and zeros of the same sign.
inline ::testing::AssertionResult BitIdentical(const TensorView& actual, const TensorView& expected) {
  if (actual.dtype != expected.dtype || actual.rank != expected.rank ||
      !std::equal(actual.shape, actual.shape + actual.rank, expected.shape)) {
    return ::testing::AssertionFailure() << "one is " << actual.ToString() << ", the other " << expected.ToString();
  }
  const size_t size = DTypeSize(actual.dtype);
  for (int64_t i = 0; i < actual.num_elements(); ++i) {
    const char* a = actual.As<char>() + OffsetOf(actual, i) * static_cast<int64_t>(size);
    const char* e = expected.As<char>() + OffsetOf(expected, i) * static_cast<int64_t>(size);
    if (std::memcmp(a, e, size) == 0) continue;
    return ::testing::AssertionFailure() << fmt::format("first difference at {}: {:.9g} and {:.9g}",
                                                        IndexName(actual, i), GetElement(actual, i),
                                                        GetElement(expected, i));
  }
  return ::testing::AssertionSuccess();
}

// ----------------------------------------------------------------------------------------------------- every body

// Whether this is a test of bodies whose instructions are emulated, many times slower.
#ifdef MOED_TEST_EMULATED_ISAS
inline constexpr bool kIsEmulated = true;
#else
inline constexpr bool kIsEmulated = false;
#endif

// Every instruction set that this machine has, lowest first; in a test of emulated bodies, those that are emulated.
inline std::vector<Isa> MachineIsas() {
#ifdef MOED_TEST_EMULATED_ISAS
  return {MOED_TEST_EMULATED_ISAS};
#else
  std::vector<Isa> isas;
  for (Isa isa :
       {Isa::kGeneric, Isa::kAvx2, Isa::kAvxVnni, Isa::kAvx512, Isa::kAvx512Vnni, Isa::kAvx512Bf16, Isa::kAmx}) {
    if (IsUsable(isa)) isas.push_back(isa);
  }
  return isas;
#endif
}

// A CPU context with a team and a workspace of its own.
class TestContext {
 public:
  explicit TestContext(Isa isa = BestIsa(), int num_threads = 1) : threads_(num_threads) {
    context_.threads = &threads_;
    context_.isa = isa;
    context_.workspace = &workspace_;
  }
  operator const ExecContext&() const { return context_; }  // NOLINT: passed where a context is asked for
  // Has the body of CUDA's many rows chosen.
  void SetWgmma(std::optional<bool> wgmma) { context_.wgmma = wgmma; }

 private:
  ThreadPool threads_;
  Workspace workspace_;
  ExecContext context_;
};

// Calls check(context) for every instruction set of the machine with teams of 1, 2 and 3 threads; failures name both.
template <typename Check>
void ForEachCpuBody(const Check& check) {
  for (int num_threads : {1, 2, 3}) {
    for (Isa isa : MachineIsas()) {
      SCOPED_TRACE(fmt::format("isa {}, {} threads", IsaName(isa), num_threads));
      const TestContext context(isa, num_threads);
      check(static_cast<const ExecContext&>(context));
    }
  }
}

}  // namespace moed::test

#endif  // TESTS_SUPPORT_TENSOR_TESTING_H_
