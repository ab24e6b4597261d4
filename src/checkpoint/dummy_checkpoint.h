// A checkpoint that consists of a config.json only: --load-format dummy.
#ifndef MOED_CHECKPOINT_DUMMY_CHECKPOINT_H_
#define MOED_CHECKPOINT_DUMMY_CHECKPOINT_H_

#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/dummy_weights.h"
#include "tensor/buffer.h"

namespace moed {

// Makes each tensor when it is asked for, in the shape that it is asked for, and frees it on Release.
class DummyCheckpoint final : public Checkpoint {
 public:
  // The deviation is config.json's initializer_range, the type its dtype or torch_dtype.
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& dir, JsonFile config,
                                                          JsonFile generation_config, uint64_t seed);

  // RESOURCE_EXHAUSTED when there is no memory for the tensor; INVALID_ARGUMENT when the same name is still held in
  // another shape.
  absl::StatusOr<TensorView> Get(std::string_view name, std::initializer_list<int64_t> shape) override;
  void Release(std::string_view name) override;
  bool Has(std::string_view) const override { return false; }
  std::vector<TensorInfo> List() const override { return {}; }
  uint64_t total_bytes() const override { return 0; }
  std::vector<std::string> UnusedTensors() const override { return {}; }

 private:
  struct Held {
    Buffer buffer;
    TensorView view;
  };

  DummyCheckpoint(std::string dir, JsonFile config, JsonFile generation_config, DummyWeights weights);

  const DummyWeights weights_;
  std::mutex mutex_;
  std::unordered_map<std::string, Held> held_;  // guarded by mutex_
};

}  // namespace moed

#endif  // MOED_CHECKPOINT_DUMMY_CHECKPOINT_H_
