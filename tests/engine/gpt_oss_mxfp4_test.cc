// GPT-OSS as it is published, its experts in MXFP4, computes what the same numbers do in fp32.
#include <gtest/gtest.h>

#include <cmath>
#include <deque>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/safetensors_writer.h"
#include "engine/moe_engine.h"
#include "engine/score.h"
#include "tests/support/seeded_checkpoint.h"
#include "tests/support/temp_dir.h"
#include "tests/support/test_device.h"

namespace moed {
namespace {

constexpr int64_t kExperts = 7, kHidden = 64, kIntermediate = 32, kBlock = 32;
// The values of 4-bit floats with two bits of exponent and one of mantissa (OCP Microscaling 1.0).
constexpr float kValues[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};

// The tensors of one file, with their memory.
class Tensors {
 public:
  float* AddFloats(const std::string& name, std::initializer_list<int64_t> shape, std::vector<float> values) {
    floats_.push_back(std::move(values));
    views_.emplace_back(name, TensorView(floats_.back().data(), shape, DType::kF32));
    return floats_.back().data();
  }
  uint8_t* AddBytes(const std::string& name, std::initializer_list<int64_t> shape, int64_t count) {
    bytes_.emplace_back(count);
    views_.emplace_back(name, TensorView(bytes_.back().data(), shape, DType::kU8));
    return bytes_.back().data();
  }
  const std::vector<std::pair<std::string, TensorView>>& views() const { return views_; }

 private:
  std::deque<std::vector<float>> floats_;
  std::deque<std::vector<uint8_t>> bytes_;
  std::vector<std::pair<std::string, TensorView>> views_;
};

// Random MXFP4 matrices [experts, rows, columns] for the one file, and their values, inputs first, for the other.
void AddExperts(const std::string& name, int64_t rows, int64_t columns, Tensors* quantized, Tensors* plain) {
  std::mt19937 random(static_cast<unsigned>(rows + columns));
  const int64_t blocks = columns / kBlock;
  uint8_t* codes =
      quantized->AddBytes(name + "_blocks", {kExperts, rows, blocks, kBlock / 2}, kExperts * rows * columns / 2);
  uint8_t* scales = quantized->AddBytes(name + "_scales", {kExperts, rows, blocks}, kExperts * rows * blocks);
  float* values = plain->AddFloats(name, {kExperts, columns, rows}, std::vector<float>(kExperts * rows * columns));
  for (int64_t expert = 0; expert < kExperts; ++expert) {
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t i = 0; i < columns; ++i) {
        const int64_t at = (expert * rows + row) * columns + i;
        if (i % kBlock == 0) scales[at / kBlock] = static_cast<uint8_t>(127 - 6 + random() % 3);
        const auto code = static_cast<uint8_t>(random() % 16);
        codes[at / 2] = static_cast<uint8_t>(codes[at / 2] | code << (i % 2 * 4));
        values[(expert * columns + i) * rows + row] = std::ldexp(kValues[code], scales[at / kBlock] - 127);
      }
    }
  }
}

std::vector<float> Logits(const nlohmann::json& config, const Tensors& tensors) {
  const testing::TempDir dir;
  dir.Write("config.json", config.dump());
  const absl::Status written = WriteSafetensors(dir.File("model.safetensors"), tensors.views());
  EXPECT_TRUE(written.ok()) << written;
  MoeEngineOptions options;
  options.device = test::DeviceUnderTest();
  options.model_dir = dir.path();
  options.dtype = DType::kF32;
  options.num_threads = 2;
  const auto engine = MoeEngine::Load(options);
  EXPECT_TRUE(engine.ok()) << engine.status();
  std::vector<float> logits;
  if (!engine.ok()) return logits;
  const std::vector<int32_t> prompts[] = {{5, 17, 900, 3, 3, 41, 250, 999}};
  const absl::Status scored = ScorePrompts(**engine, prompts, 0, [&](size_t, size_t, std::span<const float> row) {
    logits.insert(logits.end(), row.begin(), row.end());
  });
  EXPECT_TRUE(scored.ok()) << scored;
  return logits;
}

TEST(GptOssMxfp4Test, ComputesWhatItsValuesDo) {
  const std::string golden = "tests/golden/seeded/gpt_oss/";
  std::ifstream file(golden + "config.json");
  nlohmann::json config = nlohmann::json::parse(file);
  config["intermediate_size"] = kIntermediate;
  const auto manifest = testing::ReadSeededManifest(golden + "tensors.txt");
  ASSERT_TRUE(manifest.ok()) << manifest.status();

  Tensors quantized, plain;
  for (const testing::SeededTensor& tensor : manifest->tensors) {
    const bool gate_up = tensor.name.ends_with("gate_up_proj");
    if (gate_up || tensor.name.ends_with("experts.down_proj")) {
      AddExperts(tensor.name, gate_up ? 2 * kIntermediate : kHidden, gate_up ? kHidden : kIntermediate, &quantized,
                 &plain);
      continue;
    }
    std::vector<int64_t> shape = tensor.shape;
    if (tensor.name.ends_with("gate_up_proj_bias")) shape[1] = 2 * kIntermediate;
    const int64_t count = shape.size() == 2 ? shape[0] * shape[1] : shape[0];
    const std::vector<float> values =
        testing::SeededValues(manifest->seed, tensor.name, count, tensor.mean, tensor.scale);
    for (Tensors* to : {&quantized, &plain}) {
      if (shape.size() == 2) {
        to->AddFloats(tensor.name, {shape[0], shape[1]}, values);
      } else {
        to->AddFloats(tensor.name, {shape[0]}, values);
      }
    }
  }
  const std::vector<float> expected = Logits(config, plain);
  config["quantization_config"] = {{"quant_method", "mxfp4"}};
  const std::vector<float> actual = Logits(config, quantized);
  ASSERT_FALSE(expected.empty());
  EXPECT_EQ(actual, expected);
}

}  // namespace
}  // namespace moed
