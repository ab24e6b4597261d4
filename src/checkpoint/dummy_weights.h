// Seeded random weights, so that real shapes run without a download.
#ifndef MOED_CHECKPOINT_DUMMY_WEIGHTS_H_
#define MOED_CHECKPOINT_DUMMY_WEIGHTS_H_

#include <cstdint>
#include <string_view>
#include <vector>

#include "tensor/tensor_view.h"

namespace moed {

// Fills tensors with normal values of a fixed deviation. A value depends on the seed, the tensor's name and its index
// alone: neither on the type (beyond rounding) nor on what was filled before. Thread-safe after construction.
//
// The generator is a counter (SplitMix64 over the index) whose 16-bit lanes look up the quantiles of the normal
// distribution, so a value costs a quarter of a hash and one load.
class DummyWeights {
 public:
  // `dtype` is kF32, kF16 or kBF16; the tensors filled must be of it.
  DummyWeights(uint64_t seed, double stddev, DType dtype);

  DType dtype() const { return dtype_; }

  // Fills a contiguous CPU tensor. The weights of norms (one dimension and "norm" in the name) become 1.
  void Fill(std::string_view name, const TensorView& tensor) const;

 private:
  uint64_t seed_;
  DType dtype_;
  std::vector<uint8_t> quantiles_;  // 65536 elements of dtype_
};

}  // namespace moed

#endif  // MOED_CHECKPOINT_DUMMY_WEIGHTS_H_
