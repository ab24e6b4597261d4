// A model's folder as the Hugging Face Hub lays it out: configuration and weights by name.
#ifndef MOED_CHECKPOINT_CHECKPOINT_H_
#define MOED_CHECKPOINT_CHECKPOINT_H_

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "checkpoint/json_file.h"
#include "checkpoint/weight_matrix.h"
#include "tensor/tensor_view.h"

namespace moed {

// --load-format: where the weights come from.
enum class LoadFormat : uint8_t {
  kAuto,         // "auto": whatever the folder holds
  kSafetensors,  // "safetensors": model.safetensors, or the shards of model.safetensors.index.json
  kGguf,         // "gguf": the model is a .gguf file (model/open_model.h)
  kDummy,        // "dummy": random weights of the right shapes; the folder needs a config.json only
};
// INVALID_ARGUMENT for an unknown word, with the known ones.
absl::StatusOr<LoadFormat> ParseLoadFormat(std::string_view name);

// Whether `path` is named like a GGUF file, which is a whole model by itself.
bool IsGgufPath(std::string_view path);
// NOT_FOUND when there is no such folder or GGUF file; INVALID_ARGUMENT when it is something else, such as another file
// of weights.
absl::Status CheckModelPath(const std::string& path);

struct LoadOptions {
  LoadFormat load_format = LoadFormat::kAuto;
  // Of the dummy weights.
  uint64_t dummy_seed = 0;
};

// What is known of a tensor without reading it, for listings.
struct TensorInfo {
  std::string name;
  std::string dtype_name;  // as the file writes it: "BF16"
  std::vector<int64_t> shape;
  uint64_t num_bytes = 0;
  std::string file;  // the file's name within the folder
};

// An open checkpoint. The way for a model's loader, the same for files and for dummy weights, is
//
//   MOED_ASSIGN_OR_RETURN(TensorView q, checkpoint.Get("model.layers.0.self_attn.q_proj.weight", {num_heads * d,
//   hidden})); … pack q … checkpoint.Release("model.layers.0.self_attn.q_proj.weight");
//
// which keeps peak memory at the packed weights plus what is being packed. Thread-safe.
class Checkpoint {
 public:
  // Opens a folder: reads the configuration and the headers of all files, and checks them against each other; no weight
  // is read yet. OpenModel (model/open_model.h) takes GGUF files too. NOT_FOUND: no such folder, no config.json, no
  // weights, a missing shard. INVALID_ARGUMENT: a malformed file, or an index and shards that disagree. Errors begin
  // with the file's path.
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& dir, const LoadOptions& options = {});
  virtual ~Checkpoint() = default;

  const std::string& dir() const { return dir_; }
  // For ConfigReader.
  const JsonFile& config() const { return config_; }
  // Empty when the folder has no generation_config.json.
  const JsonFile& generation_config() const { return generation_config_; }

  // The weight `name`: a contiguous CPU view of fp32, fp16 or bf16, aligned to its element size, to be read only, valid
  // until Release(name) or the end of the checkpoint. NOT_FOUND when the checkpoint lacks it; INVALID_ARGUMENT when its
  // shape is not `shape`, both named; UNIMPLEMENTED when its type is another one. Dummy weights are made here, in the
  // type that config.json names (bf16 where it names none).
  virtual absl::StatusOr<TensorView> Get(std::string_view name, std::initializer_list<int64_t> shape) = 0;

  // The matrix of weights `name`, [rows, columns], plain or quantised, as long-lived as Get's views. A quantised one is
  // asked for by the name that it would have if it were plain ("….q_proj.weight"). Errors as Get's.
  virtual absl::StatusOr<WeightMatrix> GetMatrix(std::string_view name, int64_t rows, int64_t columns);

  // Matrix `index` of the stack `name`, [count, rows, columns], as experts lie in some checkpoints. Quantised stacks
  // are asked for by the name of the plain one, as above: their tensors have one dimension more. Of MXFP4 that is
  // GPT-OSS's "….experts.gate_up_proj", with outputs before inputs.
  virtual absl::StatusOr<WeightMatrix> GetStackedMatrix(std::string_view name, int64_t index, int64_t count,
                                                        int64_t rows, int64_t columns);

  // What such a call would find (`count` 0: GetMatrix, else GetStackedMatrix), without reading weights: the scheme of
  // the integers that the matrix consists of, nothing for other matrices and for integers in act-order. Errors as the
  // call's; dummy weights have none.
  virtual absl::StatusOr<std::optional<IntegerScheme>> Describe(std::string_view name, int64_t count, int64_t rows,
                                                                int64_t columns);

  // Starts reading layer `layer`, of which names of tensors begin with `prefix` ("model.layers.3."), from the disk, and
  // comes back once the disk has taken the orders, which may be a while. A hint, of which dummy weights have no use.
  virtual void WillNeedLayer(int32_t /*layer*/, std::string_view /*prefix*/) {}

  // Gives the memory of a tensor or matrix back; views of it must not be used afterwards. Get may be called again.
  virtual void Release(std::string_view name) = 0;

  // Whether the files hold `name`: for tensors that only some checkpoints of a family have. Dummy weights answer false,
  // so that what the configuration does not ask for is left out.
  virtual bool Has(std::string_view name) const = 0;

  // All tensors of the files, in no particular order, and their bytes; nothing and 0 for dummy weights.
  virtual std::vector<TensorInfo> List() const = 0;
  virtual uint64_t total_bytes() const = 0;

  // Names that no Get has asked for, sorted: a loader that is done warns of them.
  virtual std::vector<std::string> UnusedTensors() const = 0;

 protected:
  Checkpoint(std::string dir, JsonFile config, JsonFile generation_config);

 private:
  std::string dir_;
  JsonFile config_;
  JsonFile generation_config_;
};

}  // namespace moed

#endif  // MOED_CHECKPOINT_CHECKPOINT_H_
