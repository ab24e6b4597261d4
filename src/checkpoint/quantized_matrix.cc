#include "checkpoint/quantized_matrix.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <utility>

#include "checkpoint/message_text.h"

namespace moed {
namespace {

int64_t CeilDivide(int64_t a, int64_t b) { return (a + b - 1) / b; }

// ---- Integers ----

// Unsigned codes of 4 or 8 bits in words of 32, the first in the low bits.
inline int UnpackWord(const int32_t* words, int64_t index, int bits) {
  const int64_t per_word = 32 / bits;
  const auto word = static_cast<uint32_t>(words[index / per_word]);
  return static_cast<int>(word >> (index % per_word * bits) & ((1u << bits) - 1));
}

// Everything but where the codes, scales and zeros lie.
class IntegerMatrix : public QuantizedMatrix {
 public:
  IntegerMatrix(std::string_view kind, int64_t rows, int64_t columns, IntegerScheme scheme,
                ActivationScheme activations = ActivationScheme::kFloat)
      : kind_(kind), rows_(rows), columns_(columns), scheme_(scheme), activations_(activations) {}

  int64_t rows() const override { return rows_; }
  int64_t columns() const override { return columns_; }
  std::string ToString() const override {
    return fmt::format("{} int{} in groups of {}{}", kind_, scheme_.bits, scheme_.group_size,
                       scheme_.group_of_input.empty() ? "" : " in act-order");
  }
  const IntegerScheme* integers() const override { return &scheme_; }
  ActivationScheme activations() const override { return activations_; }

  void Dequantize(int64_t begin, int64_t end, float* out) const override {
    const int64_t num_groups = groups();
    std::vector<int8_t> codes((end - begin) * columns_);
    std::vector<float> scales((end - begin) * num_groups);
    std::vector<int16_t> zeros((end - begin) * num_groups);
    ReadIntegers(begin, end, codes.data(), scales.data(), zeros.data());
    for (int64_t row = 0; row < end - begin; ++row) {
      const int8_t* const row_codes = codes.data() + row * columns_;
      const float* const row_scales = scales.data() + row * num_groups;
      const int16_t* const row_zeros = zeros.data() + row * num_groups;
      float* const row_out = out + row * columns_;
      for (int64_t i = 0; i < columns_; ++i) {
        const int64_t group = scheme_.group_of_input.empty() ? i / scheme_.group_size : scheme_.group_of_input[i];
        row_out[i] = static_cast<float>(row_codes[i] - row_zeros[group]) * row_scales[group];
      }
    }
  }

 protected:
  int64_t groups() const { return CeilDivide(columns_, scheme_.group_size); }
  const IntegerScheme& scheme() const { return scheme_; }
  // What lies between the unsigned numbers of the file and our signed ones.
  int bias() const { return 1 << (scheme_.bits - 1); }

 private:
  std::string_view kind_;
  int64_t rows_, columns_;
  IntegerScheme scheme_;
  ActivationScheme activations_;
};

// An element of a tensor of scales, which may be of any of three types.
float ScaleAt(const TensorView& scales, int64_t index) {
  float value;
  const char* at = scales.As<char>() + index * static_cast<int64_t>(DTypeSize(scales.dtype));
  ConvertToFloat(at, scales.dtype, 1, &value);
  return value;
}

class AwqMatrix final : public IntegerMatrix {
 public:
  AwqMatrix(int64_t rows, int64_t columns, IntegerScheme scheme, TensorView codes, TensorView zeros, TensorView scales)
      : IntegerMatrix("AWQ", rows, columns, scheme), codes_(codes), zeros_(zeros), scales_(scales) {}

  void ReadIntegers(int64_t begin, int64_t end, int8_t* codes, float* scales, int16_t* zeros) const override {
    const int64_t row_words = rows() / 8, count = end - begin;
    // Inputs outermost, as the words lie in the file.
    for (int64_t input = 0; input < columns(); ++input) {
      for (int64_t row = 0; row < count; ++row) {
        codes[row * columns() + input] = static_cast<int8_t>(Nibble(codes_, input * row_words, begin + row) - bias());
      }
    }
    for (int64_t group = 0; group < groups(); ++group) {
      for (int64_t row = 0; row < count; ++row) {
        scales[row * groups() + group] = ScaleAt(scales_, group * rows() + begin + row);
        zeros[row * groups() + group] = static_cast<int16_t>(Nibble(zeros_, group * row_words, begin + row) - bias());
      }
    }
  }

 private:
  static int Nibble(const TensorView& words, int64_t first_word, int64_t output) {
    constexpr std::array<int, 8> kPlace = {0, 4, 1, 5, 2, 6, 3, 7};  // the inverse of 0, 2, 4, 6, 1, 3, 5, 7
    const auto word = static_cast<uint32_t>(words.As<int32_t>()[first_word + output / 8]);
    return static_cast<int>(word >> (4 * kPlace[output % 8]) & 15);
  }

  TensorView codes_, zeros_, scales_;
};

class GptqMatrix final : public IntegerMatrix {
 public:
  GptqMatrix(int64_t rows, int64_t columns, IntegerScheme scheme, bool zeros_less_one, TensorView codes,
             TensorView zeros, TensorView scales)
      : IntegerMatrix("GPTQ", rows, columns, scheme),
        zeros_less_one_(zeros_less_one),
        codes_(codes),
        zeros_(zeros),
        scales_(scales) {}

  void ReadIntegers(int64_t begin, int64_t end, int8_t* codes, float* scales, int16_t* zeros) const override {
    const int bits = scheme().bits;
    const int64_t per_word = 32 / bits, count = end - begin, mask = (1 << bits) - 1;
    for (int64_t input = 0; input < columns(); ++input) {
      const int32_t* const words = codes_.As<int32_t>() + input / per_word * rows() + begin;
      const int shift = static_cast<int>(input % per_word) * bits;
      for (int64_t row = 0; row < count; ++row) {
        const auto code = static_cast<int>(static_cast<uint32_t>(words[row]) >> shift & static_cast<uint32_t>(mask));
        codes[row * columns() + input] = static_cast<int8_t>(code - bias());
      }
    }
    const int64_t group_words = rows() / per_word;
    for (int64_t group = 0; group < groups(); ++group) {
      for (int64_t row = 0; row < count; ++row) {
        const int stored = UnpackWord(zeros_.As<int32_t>() + group * group_words, begin + row, bits);
        // One less wraps around: a zero of 0 is stored as the largest number.
        const int64_t zero = zeros_less_one_ ? (stored + 1) & mask : stored;
        scales[row * groups() + group] = ScaleAt(scales_, group * rows() + begin + row);
        zeros[row * groups() + group] = static_cast<int16_t>(zero - bias());
      }
    }
  }

 private:
  bool zeros_less_one_;
  TensorView codes_, zeros_, scales_;
};

class CompressedMatrix final : public IntegerMatrix {
 public:
  // `scale_step`: scales of an output, 0 where all outputs share one. `zeros` may be empty.
  CompressedMatrix(int64_t rows, int64_t columns, IntegerScheme scheme, ActivationScheme activations, TensorView codes,
                   TensorView scales, int64_t scale_step, TensorView zeros)
      : IntegerMatrix("compressed-tensors", rows, columns, scheme, activations),
        codes_(codes),
        scales_(scales),
        zeros_(zeros),
        scale_step_(scale_step) {}

  void ReadIntegers(int64_t begin, int64_t end, int8_t* codes, float* scales, int16_t* zeros) const override {
    const int64_t row_words = codes_.dim(1);
    for (int64_t row = begin; row < end; ++row, codes += columns(), scales += groups(), zeros += groups()) {
      if (codes_.dtype == DType::kI8) {
        std::copy_n(codes_.As<int8_t>() + row * columns(), columns(), codes);
      } else {
        const int32_t* const words = codes_.As<int32_t>() + row * row_words;
        for (int64_t i = 0; i < columns(); ++i) {
          codes[i] = static_cast<int8_t>(UnpackWord(words, i, scheme().bits) - bias());
        }
      }
      for (int64_t group = 0; group < groups(); ++group) {
        scales[group] = ScaleAt(scales_, row * scale_step_ + group);
        zeros[group] = static_cast<int16_t>(ZeroAt(row, group));
      }
    }
  }

 private:
  int ZeroAt(int64_t row, int64_t group) const {
    if (zeros_.empty()) return 0;
    if (zeros_.dtype == DType::kI8) return zeros_.As<int8_t>()[row * scale_step_ + group];
    // Packed along the outputs.
    const int bits = scheme().bits;
    const int64_t per_word = 32 / bits;
    const auto word = static_cast<uint32_t>(zeros_.As<int32_t>()[row / per_word * groups() + group]);
    return static_cast<int>(word >> (row % per_word * bits) & ((1u << bits) - 1)) - bias();
  }

  TensorView codes_, scales_, zeros_;
  int64_t scale_step_;
};

// ---- Small floats ----

class Fp8Matrix final : public QuantizedMatrix {
 public:
  // A scale stands for [block_rows, block_columns] of the matrix.
  Fp8Matrix(int64_t rows, int64_t columns, TensorView codes, TensorView scales, int64_t block_rows,
            int64_t block_columns, ActivationScheme activations)
      : rows_(rows),
        columns_(columns),
        codes_(codes),
        scales_(scales),
        block_rows_(block_rows),
        block_columns_(block_columns),
        activations_(activations) {
    for (size_t i = 0; i < values_.size(); ++i) values_[i] = Fp8E4m3ToFloat(static_cast<uint8_t>(i));
  }

  int64_t rows() const override { return rows_; }
  int64_t columns() const override { return columns_; }
  std::string ToString() const override {
    return fmt::format("FP8 E4M3 in blocks of {} x {}", block_rows_, block_columns_);
  }
  ActivationScheme activations() const override { return activations_; }
  void Dequantize(int64_t begin, int64_t end, float* out) const override {
    const int64_t row_scales = CeilDivide(columns_, block_columns_);
    for (int64_t row = begin; row < end; ++row, out += columns_) {
      const uint8_t* const codes = codes_.As<uint8_t>() + row * columns_;
      for (int64_t block = 0; block < row_scales; ++block) {
        const float scale = ScaleAt(scales_, row / block_rows_ * row_scales + block);
        const int64_t block_end = std::min(columns_, (block + 1) * block_columns_);
        for (int64_t i = block * block_columns_; i < block_end; ++i) out[i] = values_[codes[i]] * scale;
      }
    }
  }

 private:
  int64_t rows_, columns_;
  TensorView codes_, scales_;
  int64_t block_rows_, block_columns_;
  ActivationScheme activations_;
  std::array<float, 256> values_;
};

constexpr int64_t kMxfp4Block = 32;

class Mxfp4Matrix final : public QuantizedMatrix {
 public:
  Mxfp4Matrix(int64_t rows, int64_t columns, const uint8_t* codes, const uint8_t* scales)
      : rows_(rows), columns_(columns), codes_(codes), scales_(scales) {}

  int64_t rows() const override { return rows_; }
  int64_t columns() const override { return columns_; }
  std::string ToString() const override { return "MXFP4"; }
  void Dequantize(int64_t begin, int64_t end, float* out) const override {
    constexpr std::array<float, 16> kValues = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                                               -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};
    const int64_t row_blocks = columns_ / kMxfp4Block;
    for (int64_t block = begin * row_blocks; block < end * row_blocks; ++block, out += kMxfp4Block) {
      const float scale = std::ldexp(1.0f, int{scales_[block]} - 127);
      const uint8_t* const codes = codes_ + block * kMxfp4Block / 2;
      for (int64_t i = 0; i < kMxfp4Block; ++i) out[i] = kValues[codes[i / 2] >> (i % 2 * 4) & 15] * scale;
    }
  }

 private:
  int64_t rows_, columns_;
  const uint8_t* codes_;
  const uint8_t* scales_;
};

// ---- Putting tensors together ----

// Asks for tensors and holds them against what they must be; knows the matrix that they are for.
class MatrixOpener {
 public:
  MatrixOpener(const QuantizationConfig& config, TensorSource& source, std::string_view name, int64_t rows,
               int64_t columns)
      : config_(config),
        source_(source),
        stem_(name.substr(0, name.size() - std::string_view(".weight").size())),
        rows_(rows),
        columns_(columns) {}

  absl::StatusOr<WeightMatrix> Open() {
    switch (config_.method) {
      case QuantizationConfig::Method::kAwq:
        return OpenAwq();
      case QuantizationConfig::Method::kGptq:
        return OpenGptq();
      case QuantizationConfig::Method::kFp8:
        return OpenFp8("weight_scale_inv", config_.schemes.front().activations);
      case QuantizationConfig::Method::kCompressedTensors:
        return OpenCompressed();
      case QuantizationConfig::Method::kMxfp4:
        break;
    }
    return NotFound("there is no tensor {}", Quoted(Name("weight")));
  }

 private:
  std::string Name(std::string_view part) const { return fmt::format("{}.{}", stem_, part); }

  absl::Status Wrong(std::string_view part, const TensorView& tensor, std::string_view expected) const {
    return InvalidArgument("tensor {} is {}; for a matrix [{}, {}] of {} it must be {}", Quoted(Name(part)),
                           tensor.ToString(), rows_, columns_, config_.ToString(), expected);
  }

  absl::StatusOr<TensorView> Get(std::string_view part, DType dtype, std::initializer_list<int64_t> shape) {
    MOED_ASSIGN_OR_RETURN(const TensorView tensor, source_.GetRaw(Name(part)));
    if (tensor.dtype == dtype && tensor.HasShape(shape)) return tensor;
    return Wrong(part, tensor, fmt::format("{}[{}]", DTypeName(dtype), fmt::join(shape, ", ")));
  }

  absl::StatusOr<TensorView> GetScales(std::string_view part) {
    MOED_ASSIGN_OR_RETURN(const TensorView tensor, source_.GetRaw(Name(part)));
    if (tensor.dtype == DType::kF32 || tensor.dtype == DType::kF16 || tensor.dtype == DType::kBF16) return tensor;
    return Wrong(part, tensor, "of fp32, fp16 or bf16");
  }

  absl::StatusOr<TensorView> GetScales(std::string_view part, int64_t groups, int64_t outputs) {
    MOED_ASSIGN_OR_RETURN(const TensorView scales, GetScales(part));
    if (scales.HasShape({groups, outputs})) return scales;
    return Wrong(part, scales, fmt::format("[{}, {}]", groups, outputs));
  }

  // The group of each input, where the file says it; empty where that is the usual order.
  absl::StatusOr<std::span<const int32_t>> GetGroupOfInput(std::string_view part, int64_t group_size) {
    if (!source_.Has(Name(part))) return std::span<const int32_t>();
    MOED_ASSIGN_OR_RETURN(const TensorView tensor, Get(part, DType::kI32, {columns_}));
    const std::span<const int32_t> groups(tensor.As<int32_t>(), columns_);
    bool usual = true;
    for (int64_t i = 0; i < columns_; ++i) {
      if (groups[i] < 0 || groups[i] >= CeilDivide(columns_, group_size)) {
        return InvalidArgument("tensor {}: element {} is {}; it must be in [0, {})", Quoted(Name(part)), i, groups[i],
                               CeilDivide(columns_, group_size));
      }
      usual = usual && groups[i] == i / group_size;
    }
    return usual ? std::span<const int32_t>() : groups;
  }

  absl::Status CheckDivisible(int64_t size, int64_t by, std::string_view what) const {
    if (size % by == 0) return absl::OkStatus();
    return InvalidArgument("{}: {} of {} is {}; {} needs a multiple of {}", stem_, what, Quoted(Name("weight")), size,
                           config_.ToString(), by);
  }

  // Of methods with one scheme.
  int64_t GroupSize() const {
    const int64_t size = config_.schemes.front().group_size;
    return size > 0 ? size : columns_;
  }

  absl::StatusOr<WeightMatrix> OpenAwq() {
    const int64_t group_size = GroupSize();
    MOED_RETURN_IF_ERROR(CheckDivisible(rows_, 8, "the number of outputs"));
    MOED_RETURN_IF_ERROR(CheckDivisible(columns_, group_size, "the number of inputs"));
    const int64_t groups = columns_ / group_size;
    MOED_ASSIGN_OR_RETURN(const TensorView codes, Get("qweight", DType::kI32, {columns_, rows_ / 8}));
    MOED_ASSIGN_OR_RETURN(const TensorView zeros, Get("qzeros", DType::kI32, {groups, rows_ / 8}));
    MOED_ASSIGN_OR_RETURN(const TensorView scales, GetScales("scales", groups, rows_));
    const IntegerScheme scheme{.bits = 4, .group_size = group_size, .symmetric = false, .group_of_input = {}};
    return WeightMatrix(std::make_shared<AwqMatrix>(rows_, columns_, scheme, codes, zeros, scales));
  }

  absl::StatusOr<WeightMatrix> OpenGptq() {
    const int64_t group_size = GroupSize();
    const int bits = config_.schemes.front().bits;
    const int64_t per_word = 32 / bits, groups = CeilDivide(columns_, group_size);
    MOED_RETURN_IF_ERROR(CheckDivisible(rows_, per_word, "the number of outputs"));
    MOED_RETURN_IF_ERROR(CheckDivisible(columns_, per_word, "the number of inputs"));
    MOED_ASSIGN_OR_RETURN(const TensorView codes, Get("qweight", DType::kI32, {columns_ / per_word, rows_}));
    MOED_ASSIGN_OR_RETURN(const TensorView zeros, Get("qzeros", DType::kI32, {groups, rows_ / per_word}));
    MOED_ASSIGN_OR_RETURN(const TensorView scales, GetScales("scales", groups, rows_));
    MOED_ASSIGN_OR_RETURN(const auto group_of_input, GetGroupOfInput("g_idx", group_size));
    const IntegerScheme scheme{
        .bits = bits, .group_size = group_size, .symmetric = config_.symmetric, .group_of_input = group_of_input};
    return WeightMatrix(
        std::make_shared<GptqMatrix>(rows_, columns_, scheme, config_.zeros_less_one, codes, zeros, scales));
  }

  // [ceil(n / a), ceil(k / b)] for the a and b that the shape of the scales leaves, or one for all.
  absl::StatusOr<WeightMatrix> OpenFp8(std::string_view scale_part, ActivationScheme activations) {
    MOED_ASSIGN_OR_RETURN(const TensorView codes, Get("weight", DType::kU8, {rows_, columns_}));
    MOED_ASSIGN_OR_RETURN(const TensorView scales, GetScales(scale_part));
    constexpr int64_t kBlock = 128;
    int64_t block_rows = 0, block_columns = 0;
    if (scales.num_elements() == 1) {
      block_rows = rows_, block_columns = columns_;
    } else if (scales.num_elements() == rows_ && scales.dim(0) == rows_) {
      block_rows = 1, block_columns = columns_;
    } else if (scales.HasShape({CeilDivide(rows_, kBlock), CeilDivide(columns_, kBlock)})) {
      block_rows = block_columns = kBlock;
    } else {
      return Wrong(scale_part, scales,
                   fmt::format("[{}, {}] for blocks of 128 x 128, [{}, 1] for outputs, or a single one",
                               CeilDivide(rows_, kBlock), CeilDivide(columns_, kBlock), rows_));
    }
    return WeightMatrix(
        std::make_shared<Fp8Matrix>(rows_, columns_, codes, scales, block_rows, block_columns, activations));
  }

  absl::Status Ambiguous() const {
    return Unimplemented(
        "{}: two of quantization_config.config_groups fit its tensors, and they differ; such are not told apart by "
        "their targets",
        stem_);
  }

  absl::StatusOr<WeightMatrix> OpenCompressedFp8() {
    std::optional<ActivationScheme> activations;
    for (const QuantizationConfig::Scheme& scheme : config_.schemes) {
      if (!scheme.floats) continue;
      if (activations.has_value() && *activations != scheme.activations) return Ambiguous();
      activations = scheme.activations;
    }
    return OpenFp8("weight_scale", activations.value_or(ActivationScheme::kFloat));
  }

  // The scheme among those of config.json that tensors with so many groups of inputs (0: one scale for the matrix) and,
  // where they are packed, words in a row are of.
  absl::StatusOr<QuantizationConfig::Scheme> FindScheme(int64_t num_groups, std::optional<int64_t> words) const {
    std::optional<QuantizationConfig::Scheme> found;
    for (QuantizationConfig::Scheme scheme : config_.schemes) {
      if (scheme.floats) continue;
      if (words.has_value() ? *words != CeilDivide(columns_ * scheme.bits, 32) : scheme.bits != 8) continue;
      const int64_t groups = std::max<int64_t>(num_groups, 1);
      if (scheme.group_size > 0 && groups != CeilDivide(columns_, scheme.group_size)) continue;
      if (scheme.group_size == 0) scheme.group_size = CeilDivide(columns_, groups);
      if (CeilDivide(columns_, scheme.group_size) != groups) continue;
      if (groups == 1) scheme.group_size = columns_;
      if (found.has_value() && *found != scheme) {
        return Ambiguous();
      }
      found = scheme;
    }
    if (found.has_value()) return *found;
    return InvalidArgument(
        "{}: for a matrix [{}, {}] the tensors {} and {}{} fit none of quantization_config.config_groups", stem_, rows_,
        columns_, Quoted(Name(words.has_value() ? "weight_packed" : "weight")), Quoted(Name("weight_scale")),
        words.has_value() ? fmt::format(", {} words and {} groups a row,", *words, num_groups) : "");
  }

  // Scales of an output; 0 where there is one for all outputs.
  absl::StatusOr<int64_t> ScaleStep(const TensorView& scales) const {
    if (scales.num_elements() == 1) return 0;
    const bool fits = (scales.rank == 1 || scales.rank == 2) && scales.dim(0) == rows_ && scales.num_elements() > 0;
    if (!fits || scales.num_elements() / rows_ > columns_) {
      return Wrong("weight_scale", scales, fmt::format("[{}, groups] or a single one", rows_));
    }
    return scales.rank == 2 ? scales.dim(1) : 1;
  }

  absl::StatusOr<WeightMatrix> OpenCompressed() {
    std::optional<int64_t> words;
    TensorView codes;
    if (source_.Has(Name("weight_packed"))) {
      MOED_ASSIGN_OR_RETURN(codes, source_.GetRaw(Name("weight_packed")));
      if (codes.dtype != DType::kI32 || codes.rank != 2 || codes.dim(0) != rows_) {
        return Wrong("weight_packed", codes, fmt::format("int32[{}, words]", rows_));
      }
      words = codes.dim(1);
    } else {
      MOED_ASSIGN_OR_RETURN(codes, source_.GetRaw(Name("weight")));
      if (codes.dtype == DType::kU8) return OpenCompressedFp8();
      MOED_ASSIGN_OR_RETURN(codes, Get("weight", DType::kI8, {rows_, columns_}));
    }
    MOED_ASSIGN_OR_RETURN(const TensorView scales, GetScales("weight_scale"));
    MOED_ASSIGN_OR_RETURN(const int64_t scale_step, ScaleStep(scales));
    MOED_ASSIGN_OR_RETURN(const QuantizationConfig::Scheme found, FindScheme(scale_step, words));
    IntegerScheme scheme{.bits = found.bits, .group_size = found.group_size};
    MOED_ASSIGN_OR_RETURN(scheme.group_of_input, GetGroupOfInput("weight_g_idx", scheme.group_size));
    TensorView zeros;
    if (source_.Has(Name("weight_zero_point"))) {
      MOED_ASSIGN_OR_RETURN(zeros, source_.GetRaw(Name("weight_zero_point")));
      const int64_t per_word = 32 / scheme.bits;
      const bool bytes = zeros.dtype == DType::kI8 && zeros.num_elements() == scales.num_elements();
      const bool zero_words =
          zeros.dtype == DType::kI32 && scale_step > 0 && zeros.HasShape({CeilDivide(rows_, per_word), scale_step});
      if (!bytes && !zero_words) return Wrong("weight_zero_point", zeros, "one for each scale");
      scheme.symmetric = false;
    }
    return WeightMatrix(std::make_shared<CompressedMatrix>(rows_, columns_, scheme, found.activations, codes, scales,
                                                           scale_step, zeros));
  }

  const QuantizationConfig& config_;
  TensorSource& source_;
  std::string stem_;
  int64_t rows_, columns_;
};

}  // namespace

float Fp8E4m3ToFloat(uint8_t bits) {
  const int exponent = bits >> 3 & 15, mantissa = bits & 7;
  float value;
  if (exponent == 15 && mantissa == 7) {
    value = std::numeric_limits<float>::quiet_NaN();
  } else if (exponent == 0) {
    value = std::ldexp(static_cast<float>(mantissa), -9);
  } else {
    value = std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  }
  return bits >> 7 != 0 ? -value : value;
}

std::vector<std::string> QuantizedTensorNames(std::string_view name) {
  constexpr std::string_view kWeight = ".weight";
  constexpr std::string_view kParts[] = {"weight",
                                         "weight_scale",
                                         "weight_scale_inv",
                                         "weight_zero_point",
                                         "weight_packed",
                                         "weight_shape",
                                         "weight_g_idx",
                                         "qweight",
                                         "qzeros",
                                         "scales",
                                         "g_idx"};
  std::vector<std::string> names;
  if (!name.ends_with(kWeight)) return {fmt::format("{}_blocks", name), fmt::format("{}_scales", name)};
  for (const std::string_view part : kParts) {
    names.push_back(fmt::format("{}.{}", name.substr(0, name.size() - kWeight.size()), part));
  }
  return names;
}

absl::StatusOr<WeightMatrix> OpenQuantizedMatrix(const QuantizationConfig& config, TensorSource& source,
                                                 std::string_view name, int64_t rows, int64_t columns) {
  if (!name.ends_with(".weight") || rows < 1 || columns < 1) return NotFound("there is no tensor {}", Quoted(name));
  return MatrixOpener(config, source, name, rows, columns).Open();
}

namespace {

// The tensors of one matrix of a stack.
class StackSource final : public TensorSource {
 public:
  StackSource(TensorSource& stacks, int64_t index, int64_t count) : stacks_(stacks), index_(index), count_(count) {}

  bool Has(std::string_view name) const override { return stacks_.Has(name); }
  absl::StatusOr<TensorView> GetRaw(std::string_view name) override {
    MOED_ASSIGN_OR_RETURN(const TensorView stack, stacks_.GetRaw(name));
    if (stack.rank < 2 || stack.dim(0) != count_) {
      return InvalidArgument("tensor {} is {}; it must hold {} matrices", Quoted(name), stack.ToString(), count_);
    }
    TensorView slice = stack;
    slice.data = stack.As<char>() + index_ * stack.stride(0) * static_cast<int64_t>(DTypeSize(stack.dtype));
    slice.rank = stack.rank - 1;
    std::copy_n(stack.shape + 1, slice.rank, slice.shape);
    std::copy_n(stack.strides + 1, slice.rank, slice.strides);
    return slice;
  }

 private:
  TensorSource& stacks_;
  int64_t index_, count_;
};

absl::StatusOr<WeightMatrix> OpenMxfp4Matrix(TensorSource& source, std::string_view name, int64_t index, int64_t count,
                                             int64_t rows, int64_t columns) {
  const std::string blocks_name = fmt::format("{}_blocks", name), scales_name = fmt::format("{}_scales", name);
  MOED_ASSIGN_OR_RETURN(const TensorView blocks, source.GetRaw(blocks_name));
  MOED_ASSIGN_OR_RETURN(const TensorView scales, source.GetRaw(scales_name));
  const int64_t row_blocks = columns / kMxfp4Block;
  if (columns % kMxfp4Block != 0 || blocks.dtype != DType::kU8 ||
      !blocks.HasShape({count, rows, row_blocks, kMxfp4Block / 2})) {
    return InvalidArgument("tensor {} is {}; it must be uint8[{}, {}, {}, 16], 32 of {} inputs in the last",
                           Quoted(blocks_name), blocks.ToString(), count, rows, row_blocks, columns);
  }
  if (scales.dtype != DType::kU8 || !scales.HasShape({count, rows, row_blocks})) {
    return InvalidArgument("tensor {} is {}; it must be uint8[{}, {}, {}]", Quoted(scales_name), scales.ToString(),
                           count, rows, row_blocks);
  }
  const int64_t first_block = index * rows * row_blocks;
  return WeightMatrix(std::make_shared<Mxfp4Matrix>(rows, columns, blocks.As<uint8_t>() + first_block * kMxfp4Block / 2,
                                                    scales.As<uint8_t>() + first_block));
}

}  // namespace

absl::StatusOr<WeightMatrix> OpenQuantizedStack(const QuantizationConfig& config, TensorSource& source,
                                                std::string_view name, int64_t index, int64_t count, int64_t rows,
                                                int64_t columns) {
  if (config.method == QuantizationConfig::Method::kMxfp4) {
    return OpenMxfp4Matrix(source, name, index, count, rows, columns);
  }
  StackSource one(source, index, count);
  return OpenQuantizedMatrix(config, one, name, rows, columns);
}

}  // namespace moed
