// A GGUF model under the names of the Hub, so that families and loader see one kind of checkpoint.
#ifndef MOED_MODEL_GGUF_CHECKPOINT_H_
#define MOED_MODEL_GGUF_CHECKPOINT_H_

#include <initializer_list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/gguf_file.h"
#include "model/families/gguf.h"
#include "tensor/buffer.h"

namespace moed {

// config() is made of the metadata and called by the file's name in messages. Thread-safe.
class GgufCheckpoint final : public Checkpoint {
 public:
  // Errors as GgufFile::Open's; UNIMPLEMENTED for an architecture that is not known.
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& path);

  // Vectors, and matrices that are plain. A tensor that is quantised or whose rows are in another order is made here,
  // in fp32.
  absl::StatusOr<TensorView> Get(std::string_view name, std::initializer_list<int64_t> shape) override;
  absl::StatusOr<WeightMatrix> GetMatrix(std::string_view name, int64_t rows, int64_t columns) override;
  absl::StatusOr<WeightMatrix> GetStackedMatrix(std::string_view name, int64_t index, int64_t count, int64_t rows,
                                                int64_t columns) override;
  absl::StatusOr<std::optional<IntegerScheme>> Describe(std::string_view name, int64_t count, int64_t rows,
                                                        int64_t columns) override;
  void WillNeedLayer(int32_t layer, std::string_view prefix) override;
  void Release(std::string_view name) override;
  bool Has(std::string_view name) const override;
  // By the names of the file.
  std::vector<TensorInfo> List() const override;
  uint64_t total_bytes() const override { return total_bytes_; }
  std::vector<std::string> UnusedTensors() const override;

 private:
  // Where a tensor of the Hub's name lies.
  struct Resolved {
    const GgufFile::Location* location;
    int64_t expert = 0;      // the matrix in the stack
    bool is_expert = false;  // whether the name holds its number
    int64_t head_dim = 0;    // not 0: heads of so many rows in the interleaved order
  };
  // Two of GGUF's tensors that are one on the Hub.
  struct Joined {
    const GgufFile::Location *first, *second;
    bool by_turns;
  };

  GgufCheckpoint(std::unique_ptr<GgufFile> file, const families::GgufArchitecture& architecture, JsonFile config);

  std::optional<Resolved> Resolve(std::string_view name) const;
  std::optional<Joined> ResolveJoin(std::string_view name) const;
  // The halves of kv_b_proj, keys' and values', where a file has them apart.
  std::optional<Joined> ResolveSplitLatent(std::string_view name) const;
  std::vector<const GgufFile::Location*> LocationsOf(std::string_view name) const;

  // GetMatrix and GetStackedMatrix without reading ahead.
  absl::StatusOr<WeightMatrix> OpenMatrix(std::string_view name, int64_t rows, int64_t columns);
  absl::StatusOr<WeightMatrix> OpenStackedMatrix(std::string_view name, int64_t index, int64_t count, int64_t rows,
                                                 int64_t columns);
  // Starts reading all matrices of the tensor, or `index` of its stack.
  void ReadAhead(std::string_view name, std::optional<int64_t> index) const;
  absl::StatusOr<WeightMatrix> Matrix(const Resolved& resolved, int64_t rows, int64_t columns);
  absl::StatusOr<WeightMatrix> JoinedMatrix(const Joined& joined, int64_t index, int64_t rows, int64_t columns);
  absl::StatusOr<WeightMatrix> LatentMatrix(const Joined& halves, int64_t rows, int64_t columns);
  absl::Status NoTensor(std::string_view name, int64_t rows, int64_t columns) const;
  TensorView Keep(std::string_view name, Buffer buffer, std::initializer_list<int64_t> shape);

  std::unique_ptr<GgufFile> file_;
  const families::GgufArchitecture& architecture_;
  std::unordered_map<std::string_view, std::string_view> patterns_;  // the Hub's to GGUF's
  std::unordered_map<std::string_view, const families::GgufJoin*> joins_;
  int64_t head_dim_ = 0;
  uint64_t total_bytes_ = 0;

  mutable std::mutex mutex_;
  std::unordered_set<std::string_view> used_;     // guarded by mutex_; GGUF's names
  std::unordered_map<std::string, Buffer> made_;  // guarded by mutex_; by the Hub's names
};

}  // namespace moed

#endif  // MOED_MODEL_GGUF_CHECKPOINT_H_
