// A checkpoint whose weights are in safetensors files.
#ifndef MOED_CHECKPOINT_SAFETENSORS_CHECKPOINT_H_
#define MOED_CHECKPOINT_SAFETENSORS_CHECKPOINT_H_

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/quantization_config.h"
#include "checkpoint/quantized_matrix.h"
#include "checkpoint/safetensors_file.h"

namespace moed {

// model.safetensors alone, or else the shards that model.safetensors.index.json lists:
//   {"metadata": {…}, "weight_map": {"TENSOR": "model-00001-of-00002.safetensors", …}}
// Matrices may be quantised, as quantization_config of config.json says.
class SafetensorsCheckpoint final : public Checkpoint, private TensorSource {
 public:
  // See Checkpoint::Open. The index is the list of tensors: one that a shard has beside it is left out, with a warning.
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& dir, JsonFile config,
                                                          JsonFile generation_config);

  absl::StatusOr<TensorView> Get(std::string_view name, std::initializer_list<int64_t> shape) override;
  absl::StatusOr<WeightMatrix> GetMatrix(std::string_view name, int64_t rows, int64_t columns) override;
  absl::StatusOr<WeightMatrix> GetStackedMatrix(std::string_view name, int64_t index, int64_t count, int64_t rows,
                                                int64_t columns) override;
  absl::StatusOr<std::optional<IntegerScheme>> Describe(std::string_view name, int64_t count, int64_t rows,
                                                        int64_t columns) override;
  void WillNeedLayer(int32_t layer, std::string_view prefix) override;
  void Release(std::string_view name) override;
  bool Has(std::string_view name) const override { return tensors_.contains(name); }
  std::vector<TensorInfo> List() const override;
  uint64_t total_bytes() const override { return total_bytes_; }
  std::vector<std::string> UnusedTensors() const override;

 private:
  struct Location {
    SafetensorsFile* file;
    const SafetensorsEntry* entry;
  };

  class Peek;

  using Checkpoint::Checkpoint;
  // The plain tensor `name`; errors as Get's.
  absl::StatusOr<Location> Find(std::string_view name, std::initializer_list<int64_t> shape) const;
  bool IsPlain(std::string_view name) const;
  void MarkParts(std::string_view name);
  absl::StatusOr<TensorView> GetRaw(std::string_view name) override;
  absl::Status CheckQuantization();
  absl::Status AddSingleFile(const std::string& path);
  absl::Status AddShards(const std::string& index_path);
  absl::Status AddShard(const std::string& shard, const std::unordered_map<std::string, std::string>& weight_map);
  void AddTensor(SafetensorsFile* file, const SafetensorsEntry* entry);

  std::optional<QuantizationConfig> quantization_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::unordered_map<std::string_view, Location> tensors_;  // the names are the entries' own
  uint64_t total_bytes_ = 0;

  mutable std::mutex mutex_;
  std::unordered_set<std::string_view> used_;  // guarded by mutex_; the names are the entries' own
};

}  // namespace moed

#endif  // MOED_CHECKPOINT_SAFETENSORS_CHECKPOINT_H_
