// A folder of safetensors as a GGUF file in F32, as llama.cpp's converter lays the families out.
#ifndef MOED_TESTS_SUPPORT_GGUF_CONVERTER_H_
#define MOED_TESTS_SUPPORT_GGUF_CONVERTER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "model/model_config.h"
#include "tests/support/gguf_writer.h"

namespace moed::testing {

struct GgufConverterOptions {
  // DeepSeek's kv_b_proj as one tensor, as files had it before llama.cpp split it.
  bool whole_kv_b = false;
};

// One use each.
class GgufConverter {
 public:
  // `arch` is GGUF's: "qwen3moe".
  GgufConverter(const std::string& folder, std::string arch, const GgufConverterOptions& options = {});

  // The file's bytes. A tensor that the folder lacks ends the program.
  std::string Convert();

 private:
  std::string Key(std::string_view rest) const;
  bool Is(std::string_view arch) const { return arch_ == arch; }
  bool interleaves_heads() const { return Is("llama") || Is("granitemoe"); }

  void AddMetadata();
  void AddRope();
  void AddRouterMetadata();
  void AddLayer(int32_t layer);
  void AddAttention(int32_t layer);
  void AddLatentAttention(int32_t layer);
  void AddRouter(int32_t layer);
  void AddExperts(int32_t layer);
  // gate, up and down of one feed-forward; `suffix` is "" or "_shexp".
  void AddFeedForward(int32_t layer, const std::string& gate, const std::string& up, const std::string& down,
                      int64_t inner, std::string_view suffix, bool bias);

  std::vector<float> Read(const std::string& name, std::initializer_list<int64_t> shape);
  void Write(const std::string& name, const std::vector<int64_t>& shape, const std::vector<float>& values);
  // The tensor [rows, columns], or a vector where rows is 0; heads of head_dim rows are interleaved where the
  // architecture has them so.
  void Add(const std::string& name, const std::string& source, int64_t rows, int64_t columns, int64_t head_dim = 0);
  void AddNorm(const std::string& name, const std::string& source, int64_t size);
  // The bias that goes with the weight `source`.
  void AddBias(const std::string& name, const std::string& source, int64_t size, int64_t head_dim = 0);

  std::unique_ptr<Checkpoint> checkpoint_;
  ModelConfig config_;
  std::string arch_;
  GgufConverterOptions options_;
  GgufWriter writer_;
};

}  // namespace moed::testing

#endif  // MOED_TESTS_SUPPORT_GGUF_CONVERTER_H_
