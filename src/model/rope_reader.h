// What config.json says of the rotary position embedding.
#ifndef MOED_MODEL_ROPE_READER_H_
#define MOED_MODEL_ROPE_READER_H_

#include "checkpoint/config_reader.h"
#include "model/model_config.h"

namespace moed {

// Fills model->rope from the head size that the model has already, in both spellings: rope_parameters (transformers 5),
// or rope_theta, rope_scaling and partial_rotary_factor. Errors are kept in the reader; UNIMPLEMENTED for a scaling
// that this build lacks.
void ReadRope(const ConfigReader& config, ModelConfig* model);

// The magnitude that YaRN gives to cosines and sines stretched by `factor`: 0.1 mscale ln(factor) + 1.
double YarnMagnitude(double factor, double mscale);

}  // namespace moed

#endif  // MOED_MODEL_ROPE_READER_H_
