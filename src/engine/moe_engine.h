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
  // fp32, bf16 or fp16; nothing: the dtype of the weights. (--kv-cache-dtype)
  std::optional<DType> kv_cache_dtype;
  // Positions in a block. Smaller wastes less at the end of a sequence, larger reads faster. (--block-size)
  int32_t block_size = 16;
  // Memory for the KV cache; 0: room for max_num_seqs whole contexts, but at most a quarter of the memory that is free
  // once the weights are there. (--kv-cache-memory, bytes)
  uint64_t kv_cache_bytes = 0;
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
  uint64_t kv_bytes_per_token = 0;
  int32_t kv_blocks = 0;
};

// On the CPU a step is computed inside Submit; Collect hands out its result. Load may run in any thread, afterwards one
// thread owns the engine.
class MoeEngine final : public Engine {
 public:
  // Errors: those of Checkpoint::Open, ReadModelConfig and ModelWeights::Load; INVALID_ARGUMENT for options that do not
  // fit the model (named); RESOURCE_EXHAUSTED when memory does not suffice.
  static absl::StatusOr<std::unique_ptr<MoeEngine>> Load(const MoeEngineOptions& options);

  const EngineInfo& info() const override { return info_; }
  absl::StatusOr<Ticket> Submit(const StepPlan& plan) override;
  absl::StatusOr<StepResult> Collect(Ticket ticket) override;

  const ModelConfig& model_config() const { return decoder_->config(); }
  const ModelWeights& weights() const { return decoder_->weights(); }
  const ExecContext& exec_context() const { return ctx_; }
  const MemoryPlan& memory_plan() const { return memory_plan_; }
  DType dtype() const { return decoder_->weights().dtype(); }
  int num_threads() const { return threads_->num_threads(); }

 private:
  MoeEngine(const MoeEngineOptions& options, Device device);

  absl::Status LoadModel(const MoeEngineOptions& options, Checkpoint& checkpoint);
  absl::Status CreateCache(const MoeEngineOptions& options);
  void FillInfo(const MoeEngineOptions& options);

  DecoderBatch BuildBatch(const StepPlan& plan);
  StepResult Run(const StepPlan& plan);
  void Sample(const StepPlan& plan, const TensorView& logits, StepResult* result);

  EngineInfo info_;
  MemoryPlan memory_plan_;
  std::unique_ptr<ThreadPool> threads_;
  Workspace workspace_;
  ExecContext ctx_;
  std::optional<TransformerDecoder> decoder_;
  std::optional<PagedKvCache> cache_;
  std::vector<SamplerSlot> slots_;  // [max_slots]

  Ticket next_ticket_ = 1;
  std::optional<StepResult> ready_;  // of ticket next_ticket_ - 1, not collected yet
};

// INVALID_ARGUMENT when the plan does not fit the engine: an id, position, block or index out of range, or arrays whose
// lengths disagree; names the field.
absl::Status CheckPlan(const StepPlan& plan, const EngineInfo& info);

}  // namespace moed

#endif  // MOED_ENGINE_MOE_ENGINE_H_
