#include "model/overlay_checkpoint.h"

namespace moed {

absl::StatusOr<WeightMatrix> OverlayCheckpoint::GetMatrix(std::string_view name, int64_t rows, int64_t columns) {
  const auto it = matrices_.find({std::string(name), 0});
  return it != matrices_.end() ? it->second : base_.GetMatrix(name, rows, columns);
}

absl::StatusOr<WeightMatrix> OverlayCheckpoint::GetStackedMatrix(std::string_view name, int64_t index, int64_t count,
                                                                 int64_t rows, int64_t columns) {
  const auto it = matrices_.find({std::string(name), index});
  return it != matrices_.end() ? it->second : base_.GetStackedMatrix(name, index, count, rows, columns);
}

absl::StatusOr<std::optional<IntegerScheme>> OverlayCheckpoint::Describe(std::string_view name, int64_t count,
                                                                         int64_t rows, int64_t columns) {
  const auto it = matrices_.find({std::string(name), 0});
  if (it == matrices_.end()) return base_.Describe(name, count, rows, columns);
  return it->second.integers() == nullptr ? std::nullopt : std::optional(*it->second.integers());
}

}  // namespace moed
