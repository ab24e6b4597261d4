// The engine that runs a mixture-of-experts decoder on one device.
#ifndef MOED_ENGINE_MOE_ENGINE_H_
#define MOED_ENGINE_MOE_ENGINE_H_

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "base/thread_pool.h"
#include "checkpoint/checkpoint.h"
#include "engine/engine.h"
#include "engine/sampler.h"
#include "engine/step_graphs.h"
#include "engine/step_inputs.h"
#include "engine/step_outputs.h"
#include "kv_cache/kv_host_tier.h"
#include "kv_cache/paged_kv_cache.h"
#include "model/decoder.h"
#include "model/weight_policy.h"
#include "tensor/exec_context.h"

namespace moed {

struct MoeEngineOptions {
  // A Hugging Face folder, or a GGUF file. (--model)
  std::string model_dir;
  // auto, safetensors, gguf or dummy. (--load-format)
  LoadFormat load_format = LoadFormat::kAuto;
  // Of dummy weights. (--seed)
  uint64_t dummy_seed = 0;
  // What clients call the model; empty: the folder's name. (--served-model-name)
  std::string served_model_name;
  // fp32 or bf16; nothing: as the checkpoint says. The router is fp32 in any case. (--dtype)
  std::optional<DType> dtype;
  // Which weights become integers as they are loaded; the first rule that fits decides. (--quantization,
  // --weight-policy)
  std::vector<WeightPolicy::Rule> weight_rules;
  // The integers of a quantised checkpoint are multiplied as they are, where no rule fits and a format holds them, and
  // its activations are rounded as it says; else both are floats. (--quantization)
  bool weights_as_stored = true;
  // fp32, bf16, fp16 or int8; nothing: the dtype of the weights. (--kv-cache-dtype)
  std::optional<DType> kv_cache_dtype;
  // Positions in a block. Smaller wastes less at the end of a sequence, larger reads faster. (--block-size)
  int32_t block_size = 16;
  // Memory for the KV cache; 0: on the CPU room for max_num_seqs whole contexts, but at most a quarter of the memory
  // that is free once the weights are there; on a GPU what gpu_memory_utilization leaves. (--kv-cache-memory, bytes)
  uint64_t kv_cache_bytes = 0;
  // Of a GPU: memory of the host, pinned, for keys and values that are not in use and would else be forgotten when
  // their blocks are given out again; 0: none. (--kv-host-memory, bytes)
  uint64_t kv_host_bytes = 0;
  // The part of a GPU's memory that may be in use when the model is loaded, all programs together. The rest is for what
  // the driver takes and for steps that are larger than foreseen. (--gpu-memory-utilization)
  double gpu_memory_utilization = 0.9;
  // On a GPU every kernel of a step is launched by itself: no CUDA graphs, which decode steps are recorded as
  // otherwise. Takes less memory and shows which kernel failed. (--enforce-eager)
  bool enforce_eager = false;
  // On a GPU a request's tokens and log-probabilities are the same to the bit whatever else runs beside it, in chunks
  // of any size and from the prefix cache, as they always are on the CPU. Prompts are slower, and so is attention of
  // few sequences over long contexts. For plans that want no logits: these are sampled by the host. (--batch-invariant)
  bool batch_invariant = false;
  // Positions of a sequence at most; 0: what the model was trained for. (--max-model-len)
  int32_t max_model_len = 0;
  // Sequences that run at once. (--max-num-seqs)
  int32_t max_num_seqs = 64;
  // Tokens of one step at most; sizes the scratch memory. (--max-num-batched-tokens)
  int32_t max_num_batched_tokens = 512;
  // Nothing: the first GPU that will do, else the CPU. (--device)
  std::optional<Device> device;
  // 0: every processor that the process may use. (--threads)
  int32_t num_threads = 0;
  // The instruction set to use at most; nothing: the best there is. (--cpu-isa)
  std::optional<Isa> isa;
  // Told how the load goes on, from the loading thread: fraction in [0, 1] and what is being done.
  std::function<void(double fraction, std::string_view what)> progress;
};

// Where the memory goes, in bytes.
struct MemoryPlan {
  uint64_t weights = 0;
  uint64_t kv_cache = 0;
  uint64_t workspace = 0;  // of a GPU: the scratch memory of the largest step
  uint64_t graphs = 0;     // of a GPU: of all CUDA graphs that may be kept
  uint64_t kv_bytes_per_token = 0;
  int32_t kv_blocks = 0;
  uint64_t kv_host = 0;  // of the host
  int32_t kv_host_blocks = 0;
};

// On the CPU a step is computed inside Submit, on a GPU it is enqueued there with its sampling; Collect waits for it,
// and samples on the host what the device did not. Load may run in any thread, afterwards one thread owns the engine.
class MoeEngine final : public Engine {
 public:
  // Errors: those of Checkpoint::Open, ReadModelConfig and ModelWeights::Load; INVALID_ARGUMENT for options that do not
  // fit the model (named); RESOURCE_EXHAUSTED when memory does not suffice.
  static absl::StatusOr<std::unique_ptr<MoeEngine>> Load(const MoeEngineOptions& options);
  // The same of a checkpoint that is open already, which is read only meanwhile.
  static absl::StatusOr<std::unique_ptr<MoeEngine>> Load(const MoeEngineOptions& options, Checkpoint& checkpoint);
  ~MoeEngine() override;

  const EngineInfo& info() const override { return info_; }
  absl::StatusOr<Ticket> Submit(const StepPlan& plan) override;
  absl::StatusOr<StepResult> Collect(Ticket ticket) override;

  const ModelConfig& model_config() const { return decoder_->config(); }
  const ModelWeights& weights() const { return decoder_->weights(); }
  const ExecContext& exec_context() const { return ctx_; }
  const MemoryPlan& memory_plan() const { return memory_plan_; }
  DType dtype() const { return decoder_->weights().dtype(); }
  int num_threads() const { return threads_->num_threads(); }

  // Who looks on at the next steps, on the CPU only; null: nobody. Borrowed.
  void SetObserver(InputObserver* observer) { observer_ = observer; }

 private:
  struct StepInFlight {
    StepPlan plan;
    absl::Status status;  // of enqueueing it
  };

  explicit MoeEngine(const MoeEngineOptions& options);

  absl::Status OpenDevice(Device device);
  absl::Status LoadModel(const MoeEngineOptions& options, Checkpoint& checkpoint);
  absl::Status ReserveWorkspace(const MoeEngineOptions& options);
  absl::Status ReserveGraphs(const MoeEngineOptions& options);
  absl::StatusOr<int64_t> NumKvBlocks(const MoeEngineOptions& options, uint64_t block_bytes) const;
  absl::Status CreateCache(const MoeEngineOptions& options);
  absl::Status CreateHostTier(const MoeEngineOptions& options, uint64_t block_bytes);
  void FillInfo(const MoeEngineOptions& options);

  absl::Status Start(const StepPlan& plan);
  void StartTransfers(const StepPlan& plan);
  // For all that a step has started.
  absl::Status Wait();
  absl::StatusOr<StepGraphs::Step> Record(const StepBatch& batch, PagedKvCache* cache);
  // The graph for a step, recorded now if it is new; null where that fails, which it will not be tried again after.
  const StepGraphs::Step* GraphOf(const StepGraphKey& key, const StepBatch& batch);
  // On the host, from logits, or what the device has sampled.
  void Sample(const StepPlan& plan, const TensorView& logits, StepResult* result);
  void TakeSampled(const StepPlan& plan, const SampledRows& sampled, StepResult* result);

  EngineInfo info_;
  MemoryPlan memory_plan_;
  std::unique_ptr<ThreadPool> threads_;
  std::unique_ptr<CudaStream> stream_;  // of a GPU; before all that it may still work on
  Workspace workspace_;
  ExecContext ctx_;
  std::optional<TransformerDecoder> decoder_;
  std::optional<PagedKvCache> cache_;
  std::optional<KvHostTier> host_tier_;
  std::optional<StepGraphs> graphs_;
  StepInputs inputs_;
  StepOutputs outputs_;
  std::vector<SamplerSlot> slots_;  // [max_slots]

  InputObserver* observer_ = nullptr;
  Ticket next_ticket_ = 1;
  std::optional<StepInFlight> in_flight_;  // of ticket next_ticket_ - 1, not collected yet
  std::optional<Workspace::Scope> scope_;  // of the step in flight
};

// INVALID_ARGUMENT when the plan does not fit the engine: an id, position, block or index out of range, or arrays whose
// lengths disagree; names the field.
absl::Status CheckPlan(const StepPlan& plan, const EngineInfo& info);

}  // namespace moed

#endif  // MOED_ENGINE_MOE_ENGINE_H_
