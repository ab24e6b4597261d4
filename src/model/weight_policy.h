// Which precision each of a model's weights is packed in.
#ifndef MOED_MODEL_WEIGHT_POLICY_H_
#define MOED_MODEL_WEIGHT_POLICY_H_

#include <array>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "kernels/gemm/weight_format.h"

namespace moed {

// The parts of a model that a policy tells apart. Routers, norms and biases are fp32 in any case.
enum class WeightPart : uint8_t {
  kAttention,  // projections
  kExperts,
  kShared,     // experts of every token
  kDense,      // feed-forward of layers without experts
  kHead,       // LM head; where it is tied, the embedding too
  kEmbedding,  // where it is a table of its own
};
inline constexpr std::array<std::string_view, 6> kWeightPartNames = {"attention", "experts", "shared",
                                                                     "dense",     "head",    "embedding"};

// Head and embedding belong to none.
constexpr bool BelongsToLayer(WeightPart part) { return part != WeightPart::kHead && part != WeightPart::kEmbedding; }

// Plain data; made once, read by all.
struct WeightPolicy {
  // For some parts of the layers [first_layer, last_layer].
  struct Rule {
    std::vector<WeightPart> parts;  // empty: all
    int32_t first_layer = 0;
    int32_t last_layer = std::numeric_limits<int32_t>::max();
    kernels::WeightFormat format;
  };

  // Of all that no rule names: kF32 or kBF16.
  DType dtype = DType::kBF16;
  // The first that fits decides. Head and embedding belong to no layer: rules with layers pass them by.
  std::vector<Rule> rules;
  // A quantised checkpoint's own integers are kept where no rule fits and a format holds them, and activations are
  // rounded as the checkpoint says; else all of it becomes floats.
  bool as_stored = false;

  kernels::WeightFormat Format(WeightPart part, int32_t layer) const;
  kernels::WeightFormat HeadFormat() const;
  kernels::WeightFormat EmbeddingFormat() const;

  // One format for all parts; `format` is of ParseWeightFormat's words.
  static WeightPolicy Uniform(DType dtype, kernels::WeightFormat format);
};

// "fp32", "bf16", "int8", "int4", or with another group size than 128: "int4:32". INVALID_ARGUMENT otherwise.
absl::StatusOr<kernels::WeightFormat> ParseWeightFormat(std::string_view text);
// The words of ParseWeightFormat.
std::string WeightFormatText(kernels::WeightFormat format);

// Rules that make all weights integers: int8, or for int4 the feed-forwards in it, and attention, LM head and embedding
// in int8.
std::vector<WeightPolicy::Rule> IntegerRules(kernels::WeightFormat format);

// A YAML file:
//   rules:
//     - {parts: [experts], layers: 0-3, format: "int8:64"}
//     - {parts: [experts], format: int4}
//     - {format: int8}
// parts: of kWeightPartNames, all where it is missing; layers: one, or first-last, all where it is missing. Errors name
// the file, the line and what would be right.
absl::StatusOr<std::vector<WeightPolicy::Rule>> ReadWeightRules(const std::string& path);
// Writes such a file.
absl::Status WriteWeightRules(const std::vector<WeightPolicy::Rule>& rules, const std::string& path);

}  // namespace moed

#endif  // MOED_MODEL_WEIGHT_POLICY_H_
