// Integer weights in the layout of the compressed-tensors package (https://github.com/vllm-project/compressed-tensors),
// format "pack-quantized", symmetric groups:
//
//   NAME.weight_packed  I32 [n, ceil(k * bits / 32)]  codes + 2^(bits - 1), the first input in the low bits
//   NAME.weight_scale   F32 [n, ceil(k / group)]
//   NAME.weight_shape   I64 [2]                       n, k
//
// each with one dimension [count] before the others for a stack of matrices, which other programs do not read.
#ifndef MOED_MODEL_COMPRESSED_TENSORS_H_
#define MOED_MODEL_COMPRESSED_TENSORS_H_

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "checkpoint/safetensors_writer.h"
#include "model/model_config.h"
#include "model/model_matrices.h"
#include "model/weight_policy.h"

namespace moed::compressed_tensors {

// A matrix, and the format that it is written in; floats stay outside of the quantisation.
struct Entry {
  ModelMatrix matrix;
  kernels::WeightFormat format;
};

// Words of 32 bits and scales of a row.
int64_t RowWords(const Entry& entry);
int64_t RowScales(const Entry& entry);

// Its tensors, weight_packed, weight_scale and weight_shape; the name ends in ".weight".
std::vector<SafetensorsWriter::Spec> Specs(const Entry& entry);

// Codes of 4 or 8 bits [count], signed, as words [ceil(count * bits / 32)].
void PackWords(const int8_t* codes, int64_t count, int bits, int32_t* words);

// quantization_config of config.json. The format with the most weights has the target "Linear"; the others and what is
// left out are named by regular expressions.
nlohmann::json Config(const ModelConfig& config, const std::vector<Entry>& entries);

}  // namespace moed::compressed_tensors

#endif  // MOED_MODEL_COMPRESSED_TENSORS_H_
