// Which formats the parts of a model should have so that its weights take so many bits: found by trying them on a text.
#ifndef MOED_ENGINE_AUTO_QUANTIZE_H_
#define MOED_ENGINE_AUTO_QUANTIZE_H_

#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "checkpoint/checkpoint.h"
#include "engine/calibration.h"
#include "model/weight_policy.h"

namespace moed {

struct ChooseFormatsOptions {
  // Bits of all weights over the model's parameters: integers, their scales of 16 bits, floats, and what is fp32 in any
  // case (routers, norms, biases). Not counted are the outputs that fill up a matrix's last panel of 32 in memory, and
  // a file's names.
  double bits_per_weight = 4.5;
  // Beside the floats that the parts have.
  std::vector<kernels::WeightFormat> formats = {kernels::WeightFormat::Int8(), kernels::WeightFormat::Int4(),
                                                kernels::WeightFormat::Int4(64), kernels::WeightFormat::Int4(32)};
  // Told how it goes on: fraction in [0, 1] and what is being tried.
  std::function<void(double fraction, std::string_view what)> progress;
};

// A part of a layer, and what became of the model when it alone had each of the formats.
struct PartFormats {
  struct Tried {
    kernels::WeightFormat format;
    int64_t bytes = 0;
    double divergence = 0;  // Calibration::DivergenceOf
  };
  int32_t layer = 0;  // num_layers for head and embedding
  WeightPart part = WeightPart::kAttention;
  std::vector<Tried> tried;  // floats first
  size_t chosen = 0;
};

struct ChosenFormats {
  std::vector<PartFormats> parts;  // by layer
  std::vector<WeightPolicy::Rule> rules;
  double bits_per_weight = 0;
  double divergence = 0;  // the sum of the parts': what is to be expected of all together
};

// Tries each part of each layer in each format alone, the integers as `calibration` makes them, and chooses those whose
// divergences have the least sum within the bits (AllocateBits). `checkpoint` is the one that the calibration's engine
// was loaded from. The same for any number of threads. INVALID_ARGUMENT, with the least possible, for too few bits;
// CANCELLED as the calibration is.
absl::StatusOr<ChosenFormats> ChooseFormats(Calibration* calibration, Checkpoint& checkpoint,
                                            const ChooseFormatsOptions& options);

}  // namespace moed

#endif  // MOED_ENGINE_AUTO_QUANTIZE_H_
