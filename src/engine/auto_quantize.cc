#include "engine/auto_quantize.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <utility>

#include "model/bit_allocation.h"
#include "model/integer_matrix.h"
#include "model/model_matrices.h"
#include "model/overlay_checkpoint.h"

namespace moed {

using kernels::WeightFormat;

namespace {

WeightPolicy::Rule RuleOf(const PartFormats& part, WeightFormat format) {
  WeightPolicy::Rule rule{.parts = {part.part}, .format = format};
  if (BelongsToLayer(part.part)) rule.first_layer = rule.last_layer = part.layer;
  return rule;
}

int64_t Elements(const ModelMatrix& matrix) {
  return std::max<int64_t>(1, matrix.count) * matrix.rows * matrix.columns;
}

// Bytes of a matrix's numbers and scales as they are packed, without the outputs that fill up a last panel.
int64_t StoredBytes(const ModelMatrix& matrix, WeightFormat format) {
  if (format.type == WeightFormat::Type::kF32) return 4 * Elements(matrix);
  if (format.type == WeightFormat::Type::kBF16) return 2 * Elements(matrix);
  const int64_t row_bytes = kernels::IntegerLayout(format).PanelBytes(matrix.columns) / kernels::PackedWeight::kPanel;
  return Elements(matrix) / matrix.columns * row_bytes;
}

// Of all that no rule is about: fp32, but for the up-projections of latent attention.
int64_t OtherBytes(const ModelConfig& config, DType dtype) {
  int64_t others = CountParameters(config).total, latent = 0;
  for (const ModelMatrix& matrix : ListMatrices(config)) others -= Elements(matrix);
  if (config.attention.is_latent()) {
    const AttentionConfig& attention = config.attention;
    latent = int64_t{config.num_layers()} * attention.num_heads *
             (attention.latent.nope_head_dim + attention.v_head_dim) * attention.latent.kv_lora_rank;
  }
  return latent * static_cast<int64_t>(DTypeSize(dtype)) + (others - latent) * 4;
}

class FormatChooser {
 public:
  FormatChooser(Calibration* calibration, Checkpoint& checkpoint, const ChooseFormatsOptions& options)
      : calibration_(*calibration),
        checkpoint_(checkpoint),
        options_(options),
        config_(calibration->engine().model_config()),
        dtype_(calibration->engine().dtype()) {
    for (ModelMatrix& matrix : ListMatrices(config_))
      matrices_[{matrix.layer, matrix.part}].push_back(std::move(matrix));
  }

  absl::StatusOr<ChosenFormats> Run() {
    ChosenFormats result;
    for (const auto& [place, matrices] : matrices_) {
      PartFormats& part = result.parts.emplace_back();
      part.layer = place.first;
      part.part = place.second;
      MOED_RETURN_IF_ERROR(Try(matrices, static_cast<double>(result.parts.size() - 1), &part));
    }
    MOED_RETURN_IF_ERROR(Allocate(&result));
    result.rules = Rules(result.parts);
    int64_t bytes = OtherBytes(config_, dtype_);
    for (const PartFormats& part : result.parts) {
      bytes += part.tried[part.chosen].bytes;
      result.divergence += part.tried[part.chosen].divergence;
    }
    result.bits_per_weight = BitsOf(bytes);
    return result;
  }

 private:
  double Parameters() const { return static_cast<double>(CountParameters(config_).total); }
  double BitsOf(int64_t bytes) const { return 8.0 * static_cast<double>(bytes) / Parameters(); }

  absl::Status Try(const std::vector<ModelMatrix>& matrices, double parts_done, PartFormats* part) {
    const auto bytes_as = [&](WeightFormat format) {
      int64_t bytes = 0;
      for (const ModelMatrix& matrix : matrices) bytes += StoredBytes(matrix, format);
      return bytes;
    };
    part->tried.push_back({.format = dtype_, .bytes = bytes_as(dtype_)});
    const bool has_place = std::none_of(matrices.begin(), matrices.end(), [](const ModelMatrix& matrix) {
      return matrix.transposed || !matrix.name.ends_with(".weight");
    });
    for (size_t i = 0; has_place && i < options_.formats.size(); ++i) {
      const WeightFormat format = options_.formats[i];
      if (options_.progress) {
        const double done = parts_done + static_cast<double>(i) / static_cast<double>(options_.formats.size());
        const std::string layer = BelongsToLayer(part->part) ? fmt::format(" of layer {}", part->layer) : "";
        options_.progress(done / static_cast<double>(matrices_.size()),
                          fmt::format("{}{} as {}", kWeightPartNames[static_cast<size_t>(part->part)], layer,
                                      WeightFormatText(format)));
      }
      MOED_ASSIGN_OR_RETURN(const double divergence, DivergenceWith(matrices, *part, format));
      part->tried.push_back({.format = format, .bytes = bytes_as(format), .divergence = divergence});
    }
    return absl::OkStatus();
  }

  absl::StatusOr<double> DivergenceWith(const std::vector<ModelMatrix>& matrices, const PartFormats& part,
                                        WeightFormat format) {
    OverlayCheckpoint overlay(&checkpoint_);
    const MoeEngine& engine = calibration_.engine();
    for (const ModelMatrix& matrix : matrices) {
      for (int64_t index = 0; index < std::max<int64_t>(1, matrix.count); ++index) {
        MOED_ASSIGN_OR_RETURN(const WeightMatrix source,
                              matrix.count == 0 ? checkpoint_.GetMatrix(matrix.name, matrix.rows, matrix.columns)
                                                : checkpoint_.GetStackedMatrix(matrix.name, index, matrix.count,
                                                                               matrix.rows, matrix.columns));
        MOED_ASSIGN_OR_RETURN(const kernels::InputStatistics inputs, calibration_.Of(matrix, index));
        auto integers = IntegerMatrix::Make(source, format, inputs, engine.exec_context().threads);
        if (!integers.ok()) return Annotate(integers.status(), matrix.name);
        overlay.Put(matrix.name, index, WeightMatrix(*std::move(integers)));
      }
      checkpoint_.Release(matrix.name);
    }
    MoeEngineOptions options;
    options.model_dir = checkpoint_.dir();
    options.dtype = dtype_;
    options.weight_rules = {RuleOf(part, format)};
    options.weights_as_stored = false;
    options.max_num_seqs = 1;
    options.max_num_batched_tokens = engine.info().max_tokens_per_step;
    options.max_model_len = engine.info().max_context;
    options.device = Device{};
    options.num_threads = engine.num_threads();
    MOED_ASSIGN_OR_RETURN(const auto other, MoeEngine::Load(options, overlay));
    return calibration_.DivergenceOf(*other);
  }

  absl::Status Allocate(ChosenFormats* result) const {
    std::vector<std::vector<FormatChoice>> choices;
    int64_t least = OtherBytes(config_, dtype_);
    const auto budget = static_cast<int64_t>(options_.bits_per_weight * Parameters() / 8) - least;
    for (const PartFormats& part : result->parts) {
      auto& list = choices.emplace_back();
      int64_t smallest = part.tried.front().bytes;
      for (const PartFormats::Tried& tried : part.tried) {
        list.push_back({.bytes = tried.bytes, .loss = tried.divergence});
        smallest = std::min(smallest, tried.bytes);
      }
      least += smallest;
    }
    const auto chosen = AllocateBits(choices, budget);
    if (!chosen.has_value()) {
      return InvalidArgument("bits_per_weight is {}; in the smallest of the formats this model takes {:.3f}",
                             options_.bits_per_weight, BitsOf(least));
    }
    for (size_t i = 0; i < chosen->size(); ++i) result->parts[i].chosen = (*chosen)[i];
    return absl::OkStatus();
  }

  // One rule for neighbouring layers of a part that have the same format.
  static std::vector<WeightPolicy::Rule> Rules(const std::vector<PartFormats>& parts) {
    std::vector<WeightPolicy::Rule> rules;
    for (size_t name = 0; name < kWeightPartNames.size(); ++name) {
      const auto first = std::ssize(rules);
      for (const PartFormats& part : parts) {
        if (part.part != static_cast<WeightPart>(name)) continue;
        const WeightPolicy::Rule rule = RuleOf(part, part.tried[part.chosen].format);
        const bool joins = std::ssize(rules) > first && rules.back().format == rule.format &&
                           rules.back().last_layer + 1 == rule.first_layer;
        if (joins) {
          rules.back().last_layer = rule.last_layer;
        } else {
          rules.push_back(rule);
        }
      }
    }
    return rules;
  }

  Calibration& calibration_;
  Checkpoint& checkpoint_;
  const ChooseFormatsOptions& options_;
  const ModelConfig& config_;
  const DType dtype_;
  std::map<std::pair<int32_t, WeightPart>, std::vector<ModelMatrix>> matrices_;
};

}  // namespace

absl::StatusOr<ChosenFormats> ChooseFormats(Calibration* calibration, Checkpoint& checkpoint,
                                            const ChooseFormatsOptions& options) {
  return FormatChooser(calibration, checkpoint, options).Run();
}

}  // namespace moed
