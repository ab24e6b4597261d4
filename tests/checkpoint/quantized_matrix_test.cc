// Quantised safetensors checkpoints: tests/golden/make_format_golden.py says what lies there.
#include "checkpoint/quantized_matrix.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/config_reader.h"
#include "checkpoint/safetensors_file.h"
#include "checkpoint/safetensors_writer.h"
#include "tests/support/temp_dir.h"

namespace moed {
namespace {

using ::testing::HasSubstr;
using testing::TempDir;

constexpr char kMatrix[] = "model.layers.0.self_attn.q_proj.weight";

class MethodTest : public ::testing::TestWithParam<const char*> {
 protected:
  const std::string folder_ = std::string("tests/golden/formats/") + GetParam();
};

TEST_P(MethodTest, DequantisesAsTheReference) {
  const auto checkpoint = Checkpoint::Open(folder_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const ConfigReader config((*checkpoint)->config());
  const int64_t rows = config.Int("num_attention_heads") * config.Int("head_dim"), columns = config.Int("hidden_size");
  const auto matrix = (*checkpoint)->GetMatrix(kMatrix, rows, columns);
  ASSERT_TRUE(matrix.ok()) << matrix.status();
  ASSERT_FALSE(matrix->is_plain());
  const auto golden = SafetensorsFile::Open(folder_ + "/golden.safetensors");
  ASSERT_TRUE(golden.ok()) << golden.status();
  const TensorView expected = *(*golden)->Get(kMatrix);
  std::vector<float> actual(rows * columns);
  matrix->Read(0, rows, actual.data());
  for (int64_t i = 0; i < expected.num_elements(); ++i) {
    ASSERT_EQ(actual[i], expected.As<float>()[i]) << matrix->quantized().ToString() << ", element " << i;
  }
  // Any piece of rows gives the same.
  std::vector<float> piece(3 * columns);
  matrix->Read(rows - 3, rows, piece.data());
  EXPECT_TRUE(std::equal(piece.begin(), piece.end(), actual.end() - std::ssize(piece)));
  (*checkpoint)->Release(kMatrix);
}

// What a kernel that multiplies integers would read stands for the same values.
TEST_P(MethodTest, IntegersStandForTheSameValues) {
  const auto checkpoint = Checkpoint::Open(folder_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const ConfigReader config((*checkpoint)->config());
  const int64_t rows = config.Int("num_attention_heads") * config.Int("head_dim"), columns = config.Int("hidden_size");
  const WeightMatrix matrix = *(*checkpoint)->GetMatrix(kMatrix, rows, columns);
  const IntegerScheme* scheme = matrix.quantized().integers();
  if (scheme == nullptr) GTEST_SKIP() << matrix.quantized().ToString() << " does not consist of integers";
  const int64_t groups = (columns + scheme->group_size - 1) / scheme->group_size;
  std::vector<int8_t> codes(columns);
  std::vector<float> scales(groups), values(columns);
  std::vector<int16_t> zeros(groups);
  const int limit = 1 << (scheme->bits - 1);
  for (int64_t row = 0; row < rows; ++row) {
    matrix.quantized().ReadIntegers(row, row + 1, codes.data(), scales.data(), zeros.data());
    matrix.Read(row, row + 1, values.data());
    for (int64_t i = 0; i < columns; ++i) {
      const int64_t group = scheme->group_of_input.empty() ? i / scheme->group_size : scheme->group_of_input[i];
      EXPECT_GE(codes[i], -limit);
      EXPECT_LT(codes[i], limit);
      EXPECT_EQ(static_cast<float>(codes[i] - zeros[group]) * scales[group], values[i]);
      EXPECT_TRUE(!scheme->symmetric || zeros[group] == 0);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, MethodTest,
                         ::testing::Values("awq", "gptq_v1_act_order", "gptq_v2_int8", "compressed_w8a16",
                                           "compressed_w4a16", "fp8"),
                         [](const auto& method) { return std::string(method.param); });

TEST(Fp8E4m3, IsTheTableOfTheStandard) {
  EXPECT_EQ(Fp8E4m3ToFloat(0x00), 0.0f);
  EXPECT_TRUE(std::signbit(Fp8E4m3ToFloat(0x80)));
  EXPECT_EQ(Fp8E4m3ToFloat(0x01), 0x1p-9f);  // the smallest subnormal
  EXPECT_EQ(Fp8E4m3ToFloat(0x07), 7 * 0x1p-9f);
  EXPECT_EQ(Fp8E4m3ToFloat(0x08), 0x1p-6f);  // the smallest normal
  EXPECT_EQ(Fp8E4m3ToFloat(0x38), 1.0f);
  EXPECT_EQ(Fp8E4m3ToFloat(0x7e), 448.0f);  // the largest
  EXPECT_EQ(Fp8E4m3ToFloat(0xfe), -448.0f);
  EXPECT_TRUE(std::isnan(Fp8E4m3ToFloat(0x7f)));
}

class FileSource final : public TensorSource {
 public:
  explicit FileSource(const std::string& path) : file_(*SafetensorsFile::Open(path)) {}
  bool Has(std::string_view name) const override { return file_->Find(name) != nullptr; }
  absl::StatusOr<TensorView> GetRaw(std::string_view name) override { return file_->GetRaw(name); }

 private:
  std::unique_ptr<SafetensorsFile> file_;
};

const QuantizationConfig kMxfp4 = {.method = QuantizationConfig::Method::kMxfp4, .schemes = {{.bits = 4}}};

TEST(Mxfp4, DequantisesAsTransformers) {
  FileSource source("tests/golden/formats/mxfp4.safetensors");
  const TensorView expected = *source.GetRaw("values");
  const int64_t count = expected.dim(0), rows = expected.dim(1), columns = expected.dim(2);
  for (int64_t index = 0; index < count; ++index) {
    const auto matrix = OpenQuantizedStack(kMxfp4, source, "experts", index, count, rows, columns);
    ASSERT_TRUE(matrix.ok()) << matrix.status();
    std::vector<float> actual(rows * columns);
    matrix->Read(0, rows, actual.data());
    for (int64_t i = 0; i < rows * columns; ++i) {
      ASSERT_EQ(actual[i], expected.As<float>()[index * rows * columns + i]) << i;
    }
  }
  EXPECT_TRUE(
      absl::IsInvalidArgument(OpenQuantizedStack(kMxfp4, source, "experts", 0, count, rows, columns + 32).status()));
  EXPECT_TRUE(absl::IsNotFound(OpenQuantizedStack(kMxfp4, source, "other", 0, count, rows, columns).status()));
}

TEST(Mxfp4, ACheckpointHandsOutTheMatricesOfAStack) {
  const TempDir dir;
  dir.Write("config.json", R"({"quantization_config":{"quant_method":"mxfp4"}})");
  std::filesystem::copy_file("tests/golden/formats/mxfp4.safetensors", dir.File("model.safetensors"));
  const auto checkpoint = Checkpoint::Open(dir.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto second = (*checkpoint)->GetStackedMatrix("experts", 1, 2, 6, 96);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(second->quantized().ToString(), "MXFP4");
  std::vector<float> actual(6 * 96);
  second->Read(0, 6, actual.data());
  // A plain stack beside it.
  const auto plain = (*checkpoint)->GetStackedMatrix("values", 1, 2, 6, 96);
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_TRUE(plain->is_plain());
  EXPECT_TRUE(std::equal(actual.begin(), actual.end(), plain->plain().As<float>()));
  EXPECT_THAT((*checkpoint)->UnusedTensors(), ::testing::IsEmpty());
  (*checkpoint)->Release("experts");
}

TEST(QuantizationConfig, NamesWhatIsNotSupported) {
  const auto error = [](const char* fields) {
    const auto file = JsonFile::Parse("config.json", fmt::format(R"({{"quantization_config":{}}})", fields));
    return std::string(Message(ReadQuantizationConfig(*file).status()));
  };
  EXPECT_THAT(error("{}"), HasSubstr("quantization_config.quant_method is missing"));
  EXPECT_THAT(
      error(R"({"quant_method":"bitsandbytes"})"),
      HasSubstr("quant_method is \"bitsandbytes\"; fp8, compressed-tensors, awq, gptq and mxfp4 are supported"));
  EXPECT_THAT(error(R"({"quant_method":"awq","bits":3})"), HasSubstr("bits is 3"));
  EXPECT_THAT(error(R"({"quant_method":"awq","version":"gemv"})"), HasSubstr("version is \"gemv\""));
  EXPECT_THAT(error(R"({"quant_method":"gptq","bits":2})"), HasSubstr("bits is 2"));
  EXPECT_THAT(error(R"({"quant_method":"gptq","bits":4,"group_size":0})"), HasSubstr("group_size is 0"));
  EXPECT_THAT(error(R"({"quant_method":"gptq","bits":4,"checkpoint_format":"marlin"})"), HasSubstr("\"marlin\""));
  EXPECT_THAT(error(R"({"quant_method":"fp8","fmt":"e5m2"})"), HasSubstr("fmt is \"e5m2\""));
  EXPECT_THAT(error(R"({"quant_method":"compressed-tensors","format":"marlin-24"})"),
              HasSubstr("format is \"marlin-24\""));
  EXPECT_THAT(error(R"({"quant_method":"compressed-tensors","format":"pack-quantized",)"
                    R"("config_groups":{"g":{"weights":{"num_bits":2,"type":"int"}}}})"),
              HasSubstr("with 2 bits"));
  const auto plain = ReadQuantizationConfig(*JsonFile::Parse("config.json", "{}"));
  ASSERT_TRUE(plain.ok());
  EXPECT_FALSE(plain->has_value());
}

TEST(QuantizedMatrix, HoldsTheTensorsAgainstEachOther) {
  const TempDir dir;
  dir.Write("config.json", R"({"quantization_config":{"quant_method":"gptq","bits":4,"group_size":8}})");
  const std::vector<int32_t> words(64), groups = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 2};
  const std::vector<float> floats(64);
  using Tensors = std::vector<std::pair<std::string, TensorView>>;
  const auto error = [&](const Tensors& tensors) {
    EXPECT_TRUE(WriteSafetensors(dir.File("model.safetensors"), tensors).ok());
    const auto checkpoint = Checkpoint::Open(dir.path());
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    const auto matrix = (*checkpoint)->GetMatrix("a.weight", 8, 16);
    return std::string(Message(matrix.status()));
  };
  const TensorView codes = TensorView::Of(words.data(), {2, 8}), zeros = TensorView::Of(words.data(), {2, 1});
  const TensorView scales = TensorView::Of(floats.data(), {2, 8});
  EXPECT_EQ(error({{"a.qweight", codes}, {"a.qzeros", zeros}, {"a.scales", scales}}), "");
  EXPECT_THAT(error({{"b", codes}}), HasSubstr("there is no tensor \"a.qweight\""));
  EXPECT_THAT(
      error({{"a.qweight", zeros}, {"a.qzeros", zeros}, {"a.scales", scales}}),
      HasSubstr("tensor \"a.qweight\" is int32[2, 1]; for a matrix [8, 16] of GPTQ int4 it must be int32[2, 8]"));
  EXPECT_THAT(error({{"a.qweight", codes}, {"a.qzeros", zeros}, {"a.scales", zeros}}),
              HasSubstr("of fp32, fp16 or bf16"));
  EXPECT_THAT(error({{"a.qweight", codes},
                     {"a.qzeros", zeros},
                     {"a.scales", scales},
                     {"a.g_idx", TensorView::Of(groups.data(), {16})}}),
              HasSubstr("tensor \"a.g_idx\": element 15 is 2; it must be in [0, 2)"));
}

}  // namespace
}  // namespace moed
