// The integers of quantised checkpoints, and the formats in which the kernels multiply them as they are.
#ifndef MOED_MODEL_STORED_FORMAT_H_
#define MOED_MODEL_STORED_FORMAT_H_

#include <cstdint>
#include <optional>

#include "base/status.h"
#include "checkpoint/checkpoint.h"
#include "model/model_config.h"
#include "model/weight_policy.h"

namespace moed {

// The format that holds a matrix's own integers under their own scales; nothing where there is none: with zero points,
// in act-order, or in groups that eights do not divide.
std::optional<kernels::WeightFormat> StoredFormat(const IntegerScheme& scheme, int64_t columns);

// Whether `format` holds them so. More bits and smaller groups than they need do no harm.
bool Holds(kernels::WeightFormat format, const IntegerScheme& scheme, int64_t columns);

// Adds rules, behind those that are there, for the parts of layers whose matrices all consist of integers that one
// format holds. Reads no weights.
void AddStoredFormats(const ModelConfig& config, Checkpoint& checkpoint, WeightPolicy* policy);

// Rows [begin, end) of a matrix of such integers as the outputs from first_row + begin on of a packed matrix whose
// format Holds them. INVALID_ARGUMENT where they have zero points after all, or a scale is out of range.
absl::Status PackStoredRows(const WeightMatrix& source, int64_t begin, int64_t end, int64_t first_row,
                            kernels::WeightFormat format, void* destination);

}  // namespace moed

#endif  // MOED_MODEL_STORED_FORMAT_H_
