#include "checkpoint/dummy_weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/logging.h"

namespace moed {
namespace {

constexpr int kQuantiles = 1 << 16;
constexpr int kLanes = 4;  // 16-bit lanes of one 64-bit hash

// Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators (2014); the counter's increment is the golden
// ratio.
constexpr uint64_t kGolden = 0x9e3779b97f4a7c15;
inline uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

// FNV-1a over the name, mixed with the seed.
uint64_t StreamKey(uint64_t seed, std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return Mix(hash ^ Mix(seed + kGolden));
}

// The x with P(normal <= x) = p, for p in (0, 1/2]: Newton's method on erfc, from an asymptotic start. Slow and exact;
// it runs once for each entry of the table.
double NormalQuantile(double p) {
  double x = -std::sqrt(-2.0 * std::log(p)) + 0.5;
  for (int i = 0; i < 60; ++i) {
    const double cdf = 0.5 * std::erfc(-x / std::sqrt(2.0));
    const double density = std::exp(-0.5 * x * x) / std::sqrt(2.0 * M_PI);
    const double step = (cdf - p) / density;
    x -= std::clamp(step, -0.5, 0.5);
    if (std::abs(step) < 1e-12) break;
  }
  return x;
}

// Half of the midpoint quantiles (the other half mirrors them), scaled so that their deviation is 1 exactly.
std::vector<double> MakeUnitQuantiles() {
  constexpr int kHalf = kQuantiles / 2;
  std::vector<double> half(kHalf);
  double sum = 0;
  for (int i = 0; i < kHalf; ++i) {
    half[i] = NormalQuantile((i + 0.5) / kQuantiles);
    sum += half[i] * half[i];
  }
  const double scale = 1.0 / std::sqrt(sum / kHalf);
  for (double& value : half) value *= scale;
  return half;
}

const std::vector<double>& UnitQuantiles() {
  static const std::vector<double> half = MakeUnitQuantiles();
  return half;
}

template <typename T>
T FromDouble(double value);
template <>
float FromDouble<float>(double value) {
  return static_cast<float>(value);
}
template <>
Half FromDouble<Half>(double value) {
  return ToHalf(static_cast<float>(value));
}
template <>
BFloat16 FromDouble<BFloat16>(double value) {
  return ToBFloat16(static_cast<float>(value));
}

template <typename T>
std::vector<uint8_t> MakeQuantiles(double stddev) {
  const std::vector<double>& half = UnitQuantiles();
  std::vector<uint8_t> bytes(kQuantiles * sizeof(T));
  for (int i = 0; i < kQuantiles; ++i) {
    const double unit = i < kQuantiles / 2 ? half[i] : -half[kQuantiles - 1 - i];
    const T value = FromDouble<T>(unit * stddev);
    std::memcpy(&bytes[i * sizeof(T)], &value, sizeof(T));
  }
  return bytes;
}

template <typename T>
void FillNormal(const uint8_t* table_bytes, uint64_t key, int64_t count, T* out) {
  const T* table = reinterpret_cast<const T*>(table_bytes);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const uint64_t bits = Mix(key + static_cast<uint64_t>(i / kLanes) * kGolden);
    for (int lane = 0; lane < kLanes; ++lane) out[i + lane] = table[(bits >> (16 * lane)) & 0xffff];
  }
  const uint64_t bits = Mix(key + static_cast<uint64_t>(i / kLanes) * kGolden);
  for (int lane = 0; i + lane < count; ++lane) out[i + lane] = table[(bits >> (16 * lane)) & 0xffff];
}

template <typename T>
void FillTensor(const std::vector<uint8_t>& quantiles, uint64_t seed, std::string_view name, const TensorView& tensor) {
  T* out = tensor.As<T>();
  if (tensor.rank == 1 && name.find("norm") != std::string_view::npos) {
    std::fill_n(out, tensor.num_elements(), FromDouble<T>(1.0));
    return;
  }
  FillNormal(quantiles.data(), StreamKey(seed, name), tensor.num_elements(), out);
}

}  // namespace

DummyWeights::DummyWeights(uint64_t seed, double stddev, DType dtype) : seed_(seed), dtype_(dtype) {
  switch (dtype) {
    case DType::kF32:
      quantiles_ = MakeQuantiles<float>(stddev);
      break;
    case DType::kF16:
      quantiles_ = MakeQuantiles<Half>(stddev);
      break;
    case DType::kBF16:
      quantiles_ = MakeQuantiles<BFloat16>(stddev);
      break;
    default:
      MOED_CHECK(false, "dummy weights of {}", DTypeName(dtype));
  }
}

void DummyWeights::Fill(std::string_view name, const TensorView& tensor) const {
  MOED_CHECK(tensor.dtype == dtype_ && tensor.IsContiguous(), "{}", tensor.ToString());
  switch (dtype_) {
    case DType::kF32:
      return FillTensor<float>(quantiles_, seed_, name, tensor);
    case DType::kF16:
      return FillTensor<Half>(quantiles_, seed_, name, tensor);
    default:
      return FillTensor<BFloat16>(quantiles_, seed_, name, tensor);
  }
}

}  // namespace moed
