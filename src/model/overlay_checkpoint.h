// A checkpoint some of whose matrices are others than in its files.
#ifndef MOED_MODEL_OVERLAY_CHECKPOINT_H_
#define MOED_MODEL_OVERLAY_CHECKPOINT_H_

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/checkpoint.h"

namespace moed {

// Borrows `base`. Matrices are put in before others ask.
class OverlayCheckpoint final : public Checkpoint {
 public:
  explicit OverlayCheckpoint(Checkpoint* base)
      : Checkpoint(base->dir(), base->config(), base->generation_config()), base_(*base) {}

  // Takes the place of the matrix `name`, or of matrix `index` of a stack.
  void Put(const std::string& name, int64_t index, WeightMatrix matrix) {
    matrices_.insert_or_assign({name, index}, std::move(matrix));
  }

  absl::StatusOr<TensorView> Get(std::string_view name, std::initializer_list<int64_t> shape) override {
    return base_.Get(name, shape);
  }
  absl::StatusOr<WeightMatrix> GetMatrix(std::string_view name, int64_t rows, int64_t columns) override;
  absl::StatusOr<WeightMatrix> GetStackedMatrix(std::string_view name, int64_t index, int64_t count, int64_t rows,
                                                int64_t columns) override;
  absl::StatusOr<std::optional<IntegerScheme>> Describe(std::string_view name, int64_t count, int64_t rows,
                                                        int64_t columns) override;
  void WillNeedLayer(int32_t layer, std::string_view prefix) override { base_.WillNeedLayer(layer, prefix); }
  void Release(std::string_view name) override { base_.Release(name); }
  bool Has(std::string_view name) const override { return base_.Has(name); }
  std::vector<TensorInfo> List() const override { return base_.List(); }
  uint64_t total_bytes() const override { return base_.total_bytes(); }
  // All are: those that have been replaced are not asked for.
  std::vector<std::string> UnusedTensors() const override { return {}; }

 private:
  Checkpoint& base_;
  std::map<std::pair<std::string, int64_t>, WeightMatrix> matrices_;
};

}  // namespace moed

#endif  // MOED_MODEL_OVERLAY_CHECKPOINT_H_
