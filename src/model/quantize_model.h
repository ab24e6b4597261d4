// A checkpoint of floats, or of numbers in another quantised format, rewritten with integer weights.
#ifndef MOED_MODEL_QUANTIZE_MODEL_H_
#define MOED_MODEL_QUANTIZE_MODEL_H_

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "base/thread_pool.h"
#include "checkpoint/checkpoint.h"
#include "kernels/gemm/integer_weight.h"
#include "model/model_matrices.h"
#include "model/weight_policy.h"

namespace moed {

// Knows what the model's matrices are multiplied with.
class InputStatisticsSource {
 public:
  virtual ~InputStatisticsSource() = default;
  // Of matrix `index` of a stack, 0 where it is none; views live until the next call. What is empty is not known.
  virtual absl::StatusOr<kernels::InputStatistics> Of(const ModelMatrix& matrix, int64_t index) = 0;
};

struct QuantizeOptions {
  // What no rule names stays as it is.
  std::vector<WeightPolicy::Rule> rules;
  // Makes the integers better than those of --quantization, of the same formats (QuantizeIntegerRows). Null: the same.
  InputStatisticsSource* statistics = nullptr;
  // Files are cut where one would become larger, as the Hub likes it.
  uint64_t max_file_bytes = uint64_t{5} << 30;
  // Told how it goes on: fraction in [0, 1] and the tensor.
  std::function<void(double fraction, std::string_view what)> progress;
  // Asked between tensors: true ends the work with CANCELLED.
  std::function<bool()> cancelled;
};

// What became of a part of a layer.
struct QuantizedPart {
  int32_t layer = 0;  // num_layers for head and embedding
  WeightPart part = WeightPart::kAttention;
  kernels::WeightFormat format;
  uint64_t bytes_before = 0, bytes_after = 0;
  double relative_error = 0;  // sqrt(sum of squared differences / sum of squares)
};

struct QuantizeReport {
  std::vector<QuantizedPart> parts;            // those that became integers, by layer
  uint64_t bytes_before = 0, bytes_after = 0;  // of all tensors
};

// The rules, as ReadWeightRules reads them, lie in the written folder under this name.
inline constexpr std::string_view kPolicyFile = "weight_policy.yaml";

// Writes the model of `checkpoint`, a folder of safetensors, to the folder `out`: without statistics the integers that
// ModelWeights::Load makes under the same rules, as compressed_tensors.h lays them out; other tensors, tokenizer and
// further files as they are; weights of another quantised format that no rule names in the checkpoint's float type.
// Matrices are made one by one in `threads`, so memory stays near the largest tensor.
//
// `out` appears when all is written; until then the work is in "<out>.partial", which is removed when it fails. Errors:
// ALREADY_EXISTS for `out` or its ".partial"; RESOURCE_EXHAUSTED, before anything is written, when the disk has too
// little room; UNIMPLEMENTED for GGUF, and for experts whose layout has no place for integers; else the checkpoint's.
absl::StatusOr<QuantizeReport> QuantizeModel(Checkpoint& checkpoint, const std::string& out,
                                             const QuantizeOptions& options, ThreadPool* threads);

}  // namespace moed

#endif  // MOED_MODEL_QUANTIZE_MODEL_H_
