// A model in the GGUF format: one file, or the shards NAME-00001-of-0000N.gguf.
#ifndef MOED_CHECKPOINT_GGUF_FILE_H_
#define MOED_CHECKPOINT_GGUF_FILE_H_

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/status.h"
#include "checkpoint/gguf_header.h"
#include "checkpoint/mapped_file.h"
#include "checkpoint/weight_matrix.h"
#include "tensor/tensor_view.h"

namespace moed {

// The integers that blocks of a type consist of; nothing for other types.
std::optional<IntegerScheme> IntegersOf(const GgufType& type);

// Memory-mapped. Immutable after Open, hence thread-safe.
class GgufFile {
 public:
  // Maps `path`, and where it is the first of several shards the others beside it, and checks their headers, alone and
  // against each other. Errors begin with the path.
  static absl::StatusOr<std::unique_ptr<GgufFile>> Open(const std::string& path);

  const std::string& path() const { return path_; }
  // Of the first shard, which holds all but the bookkeeping of the others.
  const GgufMetadata& metadata() const { return shards_.front().header.metadata; }

  // Metadata by key. INVALID_ARGUMENT, naming file, key and what would be right, when it is there and of another type;
  // nothing when it is not there. Floats take integers too.
  absl::StatusOr<std::optional<int64_t>> Int(std::string_view key) const;
  absl::StatusOr<std::optional<double>> Float(std::string_view key) const;
  absl::StatusOr<std::optional<bool>> Bool(std::string_view key) const;
  absl::StatusOr<std::optional<std::string_view>> String(std::string_view key) const;
  // Null where it is not there.
  absl::StatusOr<const std::vector<std::string_view>*> Strings(std::string_view key) const;
  absl::StatusOr<const std::vector<int64_t>*> Ints(std::string_view key) const;
  absl::StatusOr<const std::vector<double>*> Floats(std::string_view key) const;

  struct Location {
    const GgufTensor* tensor;
    size_t shard;
  };
  // All tensors, shard after shard.
  const std::vector<Location>& tensors() const { return tensors_; }
  std::string_view shard_path(size_t shard) const { return shards_[shard].file.path(); }
  // Null when there is none.
  const Location* Find(std::string_view name) const;

  // A tensor of two dimensions, or matrix `index` of one of three, as a matrix of weights; or a vector as a matrix of
  // one row. UNIMPLEMENTED names a type that is not supported. Views live as long as this.
  absl::StatusOr<WeightMatrix> Matrix(const Location& location, int64_t index = 0) const;

  // Starts reading matrix `index`, or all of the tensor, from the disk in the background.
  void WillNeed(const Location& location, std::optional<int64_t> index) const;
  // Says that matrix `index`, or all of the tensor, has been packed and its memory can go; touching it again reads it
  // again.
  void Release(const Location& location, std::optional<int64_t> index) const;

 private:
  struct Shard {
    MappedFile file;
    GgufHeader header;
  };

  // Where it lies in its shard: offset and size.
  std::pair<uint64_t, uint64_t> Extent(const Location& location, std::optional<int64_t> index) const;

  explicit GgufFile(std::string path) : path_(std::move(path)) {}
  absl::Status AddShard(const std::string& path);
  absl::Status AddOtherShards();
  template <typename T>
  absl::StatusOr<const std::vector<T>*> Array(std::string_view key, std::string_view expected) const;

  std::string path_;
  std::vector<Shard> shards_;
  std::vector<Location> tensors_;
  std::unordered_map<std::string_view, Location> by_name_;
};

}  // namespace moed

#endif  // MOED_CHECKPOINT_GGUF_FILE_H_
