// A matrix of weights as a checkpoint holds it: plain numbers or quantised ones.
#ifndef MOED_CHECKPOINT_WEIGHT_MATRIX_H_
#define MOED_CHECKPOINT_WEIGHT_MATRIX_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "tensor/tensor_view.h"

namespace moed {

// What a checkpoint's maker did to the activations that a matrix is multiplied with, row by row: they became numbers of
// 8 bits with a scale that was found as they came.
enum class ActivationScheme : uint8_t {
  kFloat,      // nothing
  kInt8Token,  // integers from -128 to 127; the scale of a row is its largest magnitude / 127.5
  kFp8Token,   // E4M3; the scale of a row is its largest magnitude / 448
  kFp8Block,   // E4M3; likewise of each 128 inputs of a row
};

// Integers with a scale for each group of inputs of an output: weight = scale * (code - zero).
struct IntegerScheme {
  int bits = 8;            // codes lie in [-2^(bits-1), 2^(bits-1)), zeros in [-2^(bits-1), 2^(bits-1)]
  int64_t group_size = 0;  // inputs that share a scale; the number of inputs where an output has only one
  bool symmetric = true;   // all zeros are 0, says the checkpoint
  // GPTQ's act-order: the group of each input, [columns]. Empty: input i is in group i / group_size.
  std::span<const int32_t> group_of_input;
};

// The storage of a quantised matrix [rows, columns], rows being outputs. Views of the checkpoint's memory, valid as
// long as that; immutable and thread-safe.
class QuantizedMatrix {
 public:
  virtual ~QuantizedMatrix() = default;

  virtual int64_t rows() const = 0;
  virtual int64_t columns() const = 0;
  // "Q4_K", "GPTQ int4 in groups of 128", for listings and messages.
  virtual std::string ToString() const = 0;

  // Rows [begin, end) as the format defines them in fp32, to `out` [end - begin, columns].
  virtual void Dequantize(int64_t begin, int64_t end, float* out) const = 0;

  // For kernels that multiply integers themselves: the scheme, or null for a format that is none of integers. Where it
  // is not null, ReadIntegers gives rows [begin, end): codes [end - begin, columns], scales and zeros [end - begin,
  // groups].
  virtual const IntegerScheme* integers() const { return nullptr; }
  virtual void ReadIntegers(int64_t begin, int64_t end, int8_t* codes, float* scales, int16_t* zeros) const;

  virtual ActivationScheme activations() const { return ActivationScheme::kFloat; }
};

// Either of both. Copies are cheap and share the storage.
class WeightMatrix {
 public:
  WeightMatrix() = default;
  // fp32, fp16 or bf16 [rows, columns], the elements of a row adjacent.
  explicit WeightMatrix(const TensorView& plain) : plain_(plain) {}
  explicit WeightMatrix(std::shared_ptr<const QuantizedMatrix> quantized) : quantized_(std::move(quantized)) {}

  int64_t rows() const { return is_plain() ? plain_.dim(0) : quantized_->rows(); }
  int64_t columns() const { return is_plain() ? plain_.dim(1) : quantized_->columns(); }

  bool is_plain() const { return quantized_ == nullptr; }
  const TensorView& plain() const { return plain_; }
  // Not of a plain one.
  const QuantizedMatrix& quantized() const { return *quantized_; }

  // Null where it does not consist of integers.
  const IntegerScheme* integers() const { return is_plain() ? nullptr : quantized_->integers(); }
  ActivationScheme activations() const { return is_plain() ? ActivationScheme::kFloat : quantized_->activations(); }

  // Rows [begin, end) in fp32, to `out` [end - begin, columns]: exact for plain ones.
  void Read(int64_t begin, int64_t end, float* out) const;

  // The matrix whose row i is row rows[i] of this one.
  WeightMatrix SelectRows(std::vector<int32_t> rows) const;

 private:
  TensorView plain_;
  std::shared_ptr<const QuantizedMatrix> quantized_;
};

// `count` elements of fp32, fp16 or bf16 as fp32.
void ConvertToFloat(const void* from, DType dtype, int64_t count, float* to);

}  // namespace moed

#endif  // MOED_CHECKPOINT_WEIGHT_MATRIX_H_
