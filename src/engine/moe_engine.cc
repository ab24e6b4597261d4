#include "engine/moe_engine.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>
#include <utility>

#include "base/available_memory.h"
#include "base/logging.h"
#include "base/text.h"
#include "model/family.h"
#include "model/open_model.h"
#include "model/stored_format.h"
#include "tensor/cuda_devices.h"
#include "tensor/cuda_memory.h"

namespace moed {
namespace {

std::string ModelName(const MoeEngineOptions& options) {
  if (!options.served_model_name.empty()) return options.served_model_name;
  std::filesystem::path path = std::filesystem::absolute(options.model_dir).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  return path.filename().string();
}

absl::Status CheckOptions(const MoeEngineOptions& options) {
  const auto check = [](const char* name, int64_t value, int64_t low, int64_t high) {
    if (value >= low && value <= high) return absl::OkStatus();
    return InvalidArgument("{} is {}; it must be in [{}, {}]", name, value, low, high);
  };
  MOED_RETURN_IF_ERROR(check("block_size", options.block_size, 1, 1024));
  MOED_RETURN_IF_ERROR(check("max_model_len", options.max_model_len, 0, 1 << 24));
  MOED_RETURN_IF_ERROR(check("max_num_seqs", options.max_num_seqs, 1, 65536));
  // Tiles of rows are small where results must not depend on how many there are, and a grid takes so many.
  const int64_t most_tokens = options.batch_invariant ? 1 << 15 : 1 << 20;
  MOED_RETURN_IF_ERROR(check("max_num_batched_tokens", options.max_num_batched_tokens, 1, most_tokens));
  MOED_RETURN_IF_ERROR(check("threads", options.num_threads, 0, 1024));
  if (const DType kv = options.kv_cache_dtype.value_or(DType::kF32);
      kv != DType::kF32 && kv != DType::kBF16 && kv != DType::kF16 && kv != DType::kI8) {
    return Unimplemented("kv_cache_dtype {} is not supported; fp32, bf16, fp16 and int8 are", DTypeName(kv));
  }
  if (!(options.gpu_memory_utilization > 0.0 && options.gpu_memory_utilization <= 1.0)) {
    return InvalidArgument("gpu_memory_utilization is {}; it must be in (0, 1]", options.gpu_memory_utilization);
  }
  if (options.isa && !IsUsable(*options.isa)) {
    return InvalidArgument("cpu_isa is {}, which this processor lacks; it has {} at best", IsaName(*options.isa),
                           IsaName(BestIsa()));
  }
  return absl::OkStatus();
}

// Warns of tensors that the model has no use for. Layers behind the last are heads that predict further tokens
// (num_nextn_predict_layers of DeepSeek-V3 and GLM-4.5), which decoding does without: one line says so.
void ReportUnused(const ModelConfig& config, const std::vector<std::string>& names) {
  const std::string& pattern = config.names.attention_norm;
  const std::string prefix = pattern.substr(0, pattern.find("{0}"));
  int64_t skipped = 0;
  for (const std::string& name : names) {
    int32_t layer = -1;
    if (name.starts_with(prefix)) std::from_chars(name.data() + prefix.size(), name.data() + name.size(), layer);
    if (layer >= config.num_layers()) {
      ++skipped;
    } else {
      MOED_LOG_WARNING("the checkpoint's tensor {} is not used by this model", name);
    }
  }
  if (skipped > 0) {
    MOED_LOG_INFO("{} tensors of the layers that predict further tokens, from {}{} on, are skipped", skipped, prefix,
                  config.num_layers());
  }
}

// Where the model is computed; logged where it was left to us.
absl::StatusOr<Device> ResolveDevice(const std::optional<Device>& wanted, const ModelConfig& config) {
  std::string reason;
  const bool needs_list = !wanted || wanted->type == DeviceType::kCuda;
  MOED_ASSIGN_OR_RETURN(Device device, needs_list ? ChooseDevice(wanted, ListCudaDevices(), &reason) : *wanted);
  if (const absl::Status able = TransformerDecoder::CheckDevice(config, device); !able.ok()) {
    if (wanted) return Annotate(able, fmt::format("device {}", DeviceName(device)));
    reason = std::string(Message(able));
    device = Device{};
  }
  if (!wanted) MOED_LOG_INFO("device auto: {} ({})", DeviceName(device), reason);
  return device;
}

}  // namespace

MoeEngine::MoeEngine(const MoeEngineOptions& options)
    : threads_(std::make_unique<ThreadPool>(options.num_threads > 0 ? options.num_threads : NumUsableCpus())) {
  ctx_.threads = threads_.get();
  ctx_.workspace = &workspace_;
  ctx_.batch_invariant = options.batch_invariant;
  if (options.isa) ctx_.isa = *options.isa;
}

MoeEngine::~MoeEngine() {
  // A step that nobody collects may still write to what is freed now.
  if (stream_ != nullptr) stream_->Synchronize().IgnoreError();
}

absl::StatusOr<std::unique_ptr<MoeEngine>> MoeEngine::Load(const MoeEngineOptions& options) {
  MOED_RETURN_IF_ERROR(CheckOptions(options));
  LoadOptions load{.load_format = options.load_format, .dummy_seed = options.dummy_seed};
  MOED_ASSIGN_OR_RETURN(std::unique_ptr<Checkpoint> checkpoint, OpenModel(options.model_dir, load));
  return Load(options, *checkpoint);
}

absl::StatusOr<std::unique_ptr<MoeEngine>> MoeEngine::Load(const MoeEngineOptions& options, Checkpoint& checkpoint) {
  MOED_RETURN_IF_ERROR(CheckOptions(options));
  std::unique_ptr<MoeEngine> engine(new MoeEngine(options));
  MOED_RETURN_IF_ERROR(engine->LoadModel(options, checkpoint));
  MOED_RETURN_IF_ERROR(engine->ReserveWorkspace(options));
  MOED_RETURN_IF_ERROR(engine->ReserveGraphs(options));
  MOED_RETURN_IF_ERROR(engine->CreateCache(options));
  engine->FillInfo(options);
  return engine;
}

absl::Status MoeEngine::OpenDevice(Device device) {
  ctx_.device = device;
  if (device.type == DeviceType::kCpu) return absl::OkStatus();
  MOED_ASSIGN_OR_RETURN(stream_, CudaStream::Create(device));
  ctx_.stream = stream_.get();
  workspace_ = Workspace(stream_.get());
  return absl::OkStatus();
}

absl::Status MoeEngine::LoadModel(const MoeEngineOptions& options, Checkpoint& checkpoint) {
  MOED_ASSIGN_OR_RETURN(ModelConfig config, ReadModelConfig(checkpoint));
  if (options.max_model_len > config.max_positions) {
    return InvalidArgument("max_model_len is {}; the model was made for at most {} positions", options.max_model_len,
                           config.max_positions);
  }
  MOED_ASSIGN_OR_RETURN(const Device device, ResolveDevice(options.device, config));
  MOED_RETURN_IF_ERROR(OpenDevice(device));
  // There is no arithmetic in fp16, and bf16 would lose its digits.
  const DType own = config.checkpoint_dtype == DType::kBF16 ? DType::kBF16 : DType::kF32;
  const DType dtype = options.dtype.value_or(own);
  LoadProgress progress;
  if (options.progress) progress = [&](double fraction) { options.progress(fraction, "loading weights"); };
  WeightPolicy policy{.dtype = dtype, .rules = options.weight_rules, .as_stored = options.weights_as_stored};
  if (policy.as_stored) AddStoredFormats(config, checkpoint, &policy);
  MOED_ASSIGN_OR_RETURN(ModelWeights weights, ModelWeights::Load(config, checkpoint, policy, ctx_, progress));
  memory_plan_.weights = weights.num_bytes();
  ReportUnused(config, checkpoint.UnusedTensors());
  const int32_t max_context = options.max_model_len > 0 ? options.max_model_len : config.max_positions;
  MOED_ASSIGN_OR_RETURN(decoder_,
                        TransformerDecoder::Create(std::move(config), std::move(weights), max_context, ctx_.device));
  info_.max_context = max_context;
  return absl::OkStatus();
}

namespace {

// A step of `tokens` tokens in `sequences` sequences, to be measured: no view leads anywhere.
DecoderBatch EmptyBatch(int64_t tokens, int64_t sequences, int64_t max_context, int64_t num_groups, Device device) {
  static char nothing;
  const auto view = [&](int64_t size, DType dtype = DType::kI32) {
    return TensorView(&nothing, {size}, dtype, device);
  };
  DecoderBatch batch;
  batch.token_ids = batch.positions = view(tokens);
  batch.context_lens = batch.logits_tokens = view(sequences);
  batch.query_starts = view(sequences + 1);
  batch.max_context = max_context;
  batch.one_expert = {.weights = view(tokens, DType::kF32), .sorted_pairs = view(tokens), .offsets = view(2)};
  for (int64_t g = 0; g < num_groups; ++g) {
    batch.groups.push_back(
        {.slots = view(tokens, DType::kI64), .block_starts = view(sequences + 1), .block_ids = view(sequences)});
  }
  return batch;
}

DType KvDType(const MoeEngineOptions& options, const ModelWeights& weights) {
  return options.kv_cache_dtype.value_or(weights.dtype());
}

}  // namespace

// On a GPU: the scratch memory of the largest step, found by going through steps of all sizes without running them.
absl::Status MoeEngine::ReserveWorkspace(const MoeEngineOptions& options) {
  if (ctx_.device.type == DeviceType::kCpu) return absl::OkStatus();
  const std::vector<CacheSpec> specs = CacheSpecs(decoder_->config(), KvDType(options, decoder_->weights()));
  MOED_ASSIGN_OR_RETURN(PagedKvCache one_block, PagedKvCache::Create(specs, options.block_size, 1, ctx_.device));
  const int64_t blocks_per_context = (info_.max_context + options.block_size - 1) / options.block_size;
  const int64_t max_tokens = options.max_num_batched_tokens;
  size_t bytes = 0;
  for (int64_t tokens = 1;; tokens = std::min(2 * tokens, max_tokens)) {
    const int64_t sequences = std::min<int64_t>(tokens, options.max_num_seqs);
    const auto num_groups = static_cast<int64_t>(one_block.groups().size());
    const StepSize inputs = {.tokens = tokens,
                             .sequences = sequences,
                             .rows = sequences,
                             .groups = num_groups,
                             .blocks = blocks_per_context * sequences,
                             .adjustments = StepGraphs::kAdjustmentsPerSequence * sequences};
    const DecoderBatch batch = EmptyBatch(tokens, sequences, info_.max_context, num_groups, ctx_.device);
    bytes = std::max(bytes, workspace_.Measure([&] {
      workspace_.Allocate(inputs.NumBytes());
      const DecoderOutput output = decoder_->Forward(ctx_, batch, &one_block);
      SampleOnDevice(ctx_, output.logits,
                     {.num_adjustments = inputs.adjustments, .max_top = SamplingParams::kMaxLogprobs});
    }));
    if (tokens == max_tokens) break;
  }
  memory_plan_.workspace = bytes;
  return workspace_.Reserve(bytes);
}

// On a GPU: what graphs will take, by the one of the largest decode step, which is recorded and thrown away.
absl::Status MoeEngine::ReserveGraphs(const MoeEngineOptions& options) {
  if (ctx_.device.type == DeviceType::kCpu || options.enforce_eager) return absl::OkStatus();
  const std::vector<CacheSpec> specs = CacheSpecs(decoder_->config(), KvDType(options, decoder_->weights()));
  MOED_ASSIGN_OR_RETURN(PagedKvCache one_block, PagedKvCache::Create(specs, options.block_size, 1, ctx_.device));
  const int64_t sequences = std::min({options.max_num_seqs, options.max_num_batched_tokens, StepGraphs::kMaxSequences});
  const StepBatch batch = {
      .decoder = EmptyBatch(sequences, sequences, info_.max_context, std::ssize(one_block.groups()), ctx_.device),
      .sampling = {.num_adjustments = StepGraphs::kAdjustmentsPerSequence * sequences,
                   .max_top = SamplingParams::kMaxLogprobs}};
  MOED_ASSIGN_OR_RETURN(const CudaMemory before, CudaMemoryOf(ctx_.device));
  const auto graph = Record(batch, &one_block);
  if (!graph.ok()) {
    MOED_LOG_WARNING("steps are not recorded as CUDA graphs: {}", Message(graph.status()));
    return absl::OkStatus();
  }
  MOED_ASSIGN_OR_RETURN(const CudaMemory after, CudaMemoryOf(ctx_.device));
  const uint64_t bytes = before.free_bytes - std::min(before.free_bytes, after.free_bytes);
  memory_plan_.graphs = bytes * StepGraphs::kMaxGraphs;
  graphs_.emplace(info_.max_context, decoder_->config().vocab_size, options.block_size);
  return absl::OkStatus();
}

absl::StatusOr<int64_t> MoeEngine::NumKvBlocks(const MoeEngineOptions& options, uint64_t block_bytes) const {
  const bool on_host = ctx_.device.type == DeviceType::kCpu;
  const std::optional<uint64_t> available = on_host ? AvailableMemory() : std::nullopt;
  if (options.kv_cache_bytes > 0) {
    if (available && options.kv_cache_bytes > *available) {
      return ResourceExhausted("kv_cache_memory is {}; {} of memory are available beside the weights",
                               HumanBytes(options.kv_cache_bytes), HumanBytes(*available));
    }
    if (options.kv_cache_bytes >= block_bytes) return static_cast<int64_t>(options.kv_cache_bytes / block_bytes);
    return InvalidArgument("kv_cache_memory is {}; one block of {} positions takes {}",
                           HumanBytes(options.kv_cache_bytes), options.block_size, HumanBytes(block_bytes));
  }
  if (!on_host) {
    MOED_ASSIGN_OR_RETURN(const CudaMemory memory, CudaMemoryOf(ctx_.device));
    const double may_use = options.gpu_memory_utilization * static_cast<double>(memory.total_bytes);
    const double left = may_use - static_cast<double>(memory.total_bytes - memory.free_bytes + memory_plan_.graphs);
    if (left >= static_cast<double>(block_bytes)) return static_cast<int64_t>(left / static_cast<double>(block_bytes));
    return ResourceExhausted(
        "{} has no room for keys and values: of {}, gpu_memory_utilization {} lets {} be in use, and {} are (weights "
        "{}, scratch memory {}), CUDA graphs need {}",
        DeviceName(ctx_.device), HumanBytes(memory.total_bytes), options.gpu_memory_utilization,
        HumanBytes(static_cast<uint64_t>(may_use)), HumanBytes(memory.total_bytes - memory.free_bytes),
        HumanBytes(memory_plan_.weights), HumanBytes(memory_plan_.workspace), HumanBytes(memory_plan_.graphs));
  }
  const int64_t blocks_per_context = (info_.max_context + options.block_size - 1) / options.block_size;
  const int64_t blocks = blocks_per_context * options.max_num_seqs;
  if (!available) return blocks;
  if (*available / 4 < block_bytes) {
    return ResourceExhausted(
        "{} of memory are available, a quarter of which is less than the {} of one block of keys and values",
        HumanBytes(*available), HumanBytes(block_bytes));
  }
  return std::min(static_cast<int64_t>(*available / 4 / block_bytes), blocks);
}

absl::Status MoeEngine::CreateCache(const MoeEngineOptions& options) {
  const DType dtype = KvDType(options, decoder_->weights());
  const std::vector<CacheSpec> specs = CacheSpecs(decoder_->config(), dtype);
  uint64_t bytes_per_position = 0;
  for (const CacheSpec& spec : specs) bytes_per_position += spec.bytes_per_position();
  const uint64_t block_bytes = bytes_per_position * options.block_size;
  MOED_ASSIGN_OR_RETURN(int64_t blocks, NumKvBlocks(options, block_bytes));
  blocks = std::min<int64_t>(blocks, std::numeric_limits<int32_t>::max());
  MOED_ASSIGN_OR_RETURN(cache_,
                        PagedKvCache::Create(specs, options.block_size, static_cast<int32_t>(blocks), ctx_.device));
  memory_plan_.kv_cache = block_bytes * blocks;
  memory_plan_.kv_bytes_per_token = bytes_per_position;
  memory_plan_.kv_blocks = static_cast<int32_t>(blocks);
  return options.kv_host_bytes > 0 ? CreateHostTier(options, block_bytes) : absl::OkStatus();
}

absl::Status MoeEngine::CreateHostTier(const MoeEngineOptions& options, uint64_t block_bytes) {
  const std::string asked = HumanBytes(options.kv_host_bytes);
  if (ctx_.device.type == DeviceType::kCpu) {
    return InvalidArgument(
        "kv_host_memory is {}; it must be 0 where the model runs on the processor, whose cache is "
        "in the host's memory as it is (kv_cache_memory)",
        asked);
  }
  if (options.kv_host_bytes < block_bytes) {
    return InvalidArgument("kv_host_memory is {}; one block of {} positions takes {}", asked, options.block_size,
                           HumanBytes(block_bytes));
  }
  if (const auto available = AvailableMemory(); available && options.kv_host_bytes > *available) {
    return ResourceExhausted("kv_host_memory is {}; {} of memory are available", asked, HumanBytes(*available));
  }
  const auto blocks = static_cast<int32_t>(
      std::min<uint64_t>(options.kv_host_bytes / block_bytes, std::numeric_limits<int32_t>::max()));
  MOED_ASSIGN_OR_RETURN(host_tier_, KvHostTier::Create(*cache_, blocks, ctx_.device));
  memory_plan_.kv_host = block_bytes * blocks;
  memory_plan_.kv_host_blocks = blocks;
  return absl::OkStatus();
}

void MoeEngine::FillInfo(const MoeEngineOptions& options) {
  info_.model_name = ModelName(options);
  info_.vocab_size = decoder_->config().vocab_size;
  info_.max_slots = options.max_num_seqs;
  info_.max_tokens_per_step = options.max_num_batched_tokens;
  info_.eos_token_ids = decoder_->config().eos_token_ids;
  for (size_t g = 0; g < cache_->groups().size(); ++g) {
    info_.cache_groups.push_back(CacheGroupInfo{.block_size = cache_->block_size(),
                                                .num_blocks = cache_->num_blocks(),
                                                .window = cache_->groups()[g].spec.window,
                                                .bytes_per_block = cache_->BytesPerBlock(static_cast<int32_t>(g)),
                                                .num_host_blocks = memory_plan_.kv_host_blocks});
  }
  slots_.resize(options.max_num_seqs);
}

absl::StatusOr<Engine::Ticket> MoeEngine::Submit(const StepPlan& plan) {
  MOED_CHECK(!in_flight_, "step {} was not collected", in_flight_->plan.step);
  MOED_RETURN_IF_ERROR(CheckPlan(plan, info_));
  absl::Status status = Start(plan);
  // After the kernels, which they run beside: the device has work already.
  if (status.ok()) StartTransfers(plan);
  in_flight_.emplace(StepInFlight{plan, std::move(status)});
  return next_ticket_++;
}

absl::Status MoeEngine::Start(const StepPlan& plan) {
  if (stream_ != nullptr) stream_->MakeCurrent();
  for (const SlotInit& init : plan.slot_inits) slots_[init.slot] = SamplerSlot(init);
  for (const BlockCopy& copy : plan.block_copies) {
    cache_->CopyBlock(copy.group, copy.source, copy.destination, stream_.get());
  }
  if (plan.token_ids.empty()) return outputs_.Fetch(ctx_, DecoderOutput(), SampledRows());
  const bool samples_on_device = ctx_.device.type == DeviceType::kCuda && CanSampleOnDevice(plan);
  // A graph has no place for an observer.
  const bool may_record = graphs_ && observer_ == nullptr;
  const std::optional<StepGraphKey> key = may_record ? graphs_->KeyOf(plan, slots_) : std::nullopt;
  const StepLayout layout = key ? graphs_->LayoutOf(*key, std::ssize(plan.block_tables))
                                : StepLayout::Fit(plan, slots_, info_.vocab_size, samples_on_device);
  scope_.emplace(&workspace_);
  MOED_ASSIGN_OR_RETURN(const StepBatch batch, inputs_.Make(ctx_, plan, slots_, layout, cache_->block_size()));
  if (const StepGraphs::Step* const step = key ? GraphOf(*key, batch) : nullptr; step != nullptr) {
    step->graph.Launch(stream_.get());
    return outputs_.Fetch(ctx_, step->output, step->sampled);
  }
  const DecoderOutput output = decoder_->Forward(ctx_, batch.decoder, &*cache_, observer_);
  SampledRows sampled;
  if (samples_on_device) sampled = SampleOnDevice(ctx_, output.logits, batch.sampling);
  return outputs_.Fetch(ctx_, output, sampled);
}

// All of the step before is done, since it was collected.
void MoeEngine::StartTransfers(const StepPlan& plan) {
  if (!host_tier_) return;
  for (const BlockTransfer& transfer : plan.transfers) {
    host_tier_->Add(transfer.group, transfer.block, transfer.host_block, transfer.to_host);
  }
  host_tier_->Start();
}

absl::Status MoeEngine::Wait() {
  absl::Status status = outputs_.Wait(ctx_);
  if (host_tier_) status.Update(host_tier_->Wait());
  return status;
}

absl::StatusOr<StepGraphs::Step> MoeEngine::Record(const StepBatch& batch, PagedKvCache* cache) {
  // The step's memory is what the workspace gives next, at each of its launches.
  const Workspace::Scope scope(&workspace_);
  MOED_RETURN_IF_ERROR(CudaGraph::BeginCapture(stream_.get()));
  const DecoderOutput output = decoder_->Forward(ctx_, batch.decoder, cache);
  const SampledRows sampled = SampleOnDevice(ctx_, output.logits, batch.sampling);
  MOED_ASSIGN_OR_RETURN(CudaGraph graph, CudaGraph::EndCapture(stream_.get()));
  return StepGraphs::Step{std::move(graph), batch.decoder.token_ids.data, output, sampled};
}

const StepGraphs::Step* MoeEngine::GraphOf(const StepGraphKey& key, const StepBatch& batch) {
  if (const StepGraphs::Step* const step = graphs_->Find(key, batch.decoder.token_ids.data)) return step;
  auto step = Record(batch, &*cache_);
  if (step.ok()) return graphs_->Add(key, *std::move(step));
  MOED_LOG_WARNING("steps are no longer recorded as CUDA graphs: {}", Message(step.status()));
  graphs_.reset();
  return nullptr;
}

absl::StatusOr<StepResult> MoeEngine::Collect(Ticket ticket) {
  MOED_CHECK(in_flight_ && ticket + 1 == next_ticket_, "ticket {} is not out", ticket);
  const StepInFlight step = *std::exchange(in_flight_, std::nullopt);
  absl::Status status = Wait();  // even a step that failed may have work under way
  StepResult result;
  if (step.status.ok() && status.ok()) {
    result.step = step.plan.step;
    result.expert_loads = outputs_.ExpertLoads();
    if (outputs_.sampled()) {
      TakeSampled(step.plan, *outputs_.sampled(), &result);
    } else {
      Sample(step.plan, outputs_.logits(), &result);
    }
  }
  scope_.reset();
  MOED_RETURN_IF_ERROR(step.status);
  MOED_RETURN_IF_ERROR(status);
  return result;
}

void MoeEngine::TakeSampled(const StepPlan& plan, const SampledRows& sampled, StepResult* result) {
  for (size_t r = 0; r < plan.logits_rows.size(); ++r) {
    SamplerSlot& slot = slots_[plan.slots[plan.logits_rows[r].sequence]];
    result->rows.push_back(TakeSampledRow(sampled, static_cast<int64_t>(r), &slot));
  }
}

void MoeEngine::Sample(const StepPlan& plan, const TensorView& logits, StepResult* result) {
  const int64_t vocab = info_.vocab_size;
  result->rows.resize(plan.logits_rows.size());
  // The rows of one sequence follow each other in time; different sequences do not touch each other.
  threads_->ParallelFor(plan.num_sequences(), 1, [&](int64_t begin, int64_t end, int) {
    for (size_t r = 0; r < plan.logits_rows.size(); ++r) {
      const LogitsRow& row = plan.logits_rows[r];
      if (row.sequence < begin || row.sequence >= end) continue;
      const std::span<float> values(logits.As<float>() + static_cast<int64_t>(r) * vocab, vocab);
      std::vector<float> kept;
      if (row.return_logits) kept.assign(values.begin(), values.end());
      if (row.sample) result->rows[r] = SampleRow(ctx_, values, &slots_[plan.slots[row.sequence]]);
      result->rows[r].logits = std::move(kept);
    }
  });
}

}  // namespace moed
