#include "engine/moe_engine.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <utility>

#include "base/logging.h"
#include "base/text.h"
#include "model/family.h"
#include "model/open_model.h"
#include "model/stored_format.h"
#include "tensor/cuda_devices.h"

namespace moed {
namespace {

// MemAvailable of /proc/meminfo: what can be had without swapping. 0 when it cannot be read.
uint64_t AvailableMemory() {
  std::ifstream file("/proc/meminfo");
  std::string key;
  uint64_t kilobytes = 0;
  while (file >> key >> kilobytes) {
    if (key == "MemAvailable:") return kilobytes * 1024;
    file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return 0;
}

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
  MOED_RETURN_IF_ERROR(check("max_num_batched_tokens", options.max_num_batched_tokens, 1, 1 << 20));
  MOED_RETURN_IF_ERROR(check("threads", options.num_threads, 0, 1024));
  if (options.isa && *options.isa > BestIsa()) {
    return InvalidArgument("cpu_isa is {}; this processor has {} at best", IsaName(*options.isa), IsaName(BestIsa()));
  }
  return absl::OkStatus();
}

template <typename T>
TensorView CopyToWorkspace(Workspace* workspace, const std::vector<T>& values) {
  TensorView view = workspace->Tensor({static_cast<int64_t>(values.size())}, DTypeOf<T>::value);
  if (!values.empty()) std::memcpy(view.data, values.data(), values.size() * sizeof(T));
  return view;
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
absl::StatusOr<Device> ResolveDevice(const std::optional<Device>& wanted) {
  if (wanted && wanted->type == DeviceType::kCpu) return *wanted;
  std::string reason;
  MOED_ASSIGN_OR_RETURN(const Device device, ChooseDevice(wanted, ListCudaDevices(), &reason));
  if (device.type == DeviceType::kCuda) {
    const absl::Status missing = Unimplemented("the engine does not compute on GPUs yet");
    if (wanted) return Annotate(missing, fmt::format("device {}", DeviceName(device)));
    MOED_LOG_INFO("device auto: cpu ({}; {})", Message(missing), reason);
    return Device{};
  }
  MOED_LOG_INFO("device auto: {} ({})", DeviceName(device), reason);
  return device;
}

}  // namespace

MoeEngine::MoeEngine(const MoeEngineOptions& options, Device device)
    : threads_(std::make_unique<ThreadPool>(options.num_threads > 0 ? options.num_threads : NumUsableCpus())),
      workspace_(device) {
  ctx_.device = device;
  ctx_.threads = threads_.get();
  ctx_.workspace = &workspace_;
  if (options.isa) ctx_.isa = *options.isa;
}

absl::StatusOr<std::unique_ptr<MoeEngine>> MoeEngine::Load(const MoeEngineOptions& options) {
  MOED_RETURN_IF_ERROR(CheckOptions(options));
  MOED_ASSIGN_OR_RETURN(const Device device, ResolveDevice(options.device));
  LoadOptions load{.load_format = options.load_format, .dummy_seed = options.dummy_seed};
  MOED_ASSIGN_OR_RETURN(std::unique_ptr<Checkpoint> checkpoint, OpenModel(options.model_dir, load));
  std::unique_ptr<MoeEngine> engine(new MoeEngine(options, device));
  MOED_RETURN_IF_ERROR(engine->LoadModel(options, *checkpoint));
  MOED_RETURN_IF_ERROR(engine->CreateCache(options));
  engine->FillInfo(options);
  return engine;
}

absl::Status MoeEngine::LoadModel(const MoeEngineOptions& options, Checkpoint& checkpoint) {
  MOED_ASSIGN_OR_RETURN(ModelConfig config, ReadModelConfig(checkpoint));
  if (options.max_model_len > config.max_positions) {
    return InvalidArgument("max_model_len is {}; the model was made for at most {} positions", options.max_model_len,
                           config.max_positions);
  }
  // There is no arithmetic in fp16 on the CPU, and bf16 would lose its digits.
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

absl::Status MoeEngine::CreateCache(const MoeEngineOptions& options) {
  const DType dtype = options.kv_cache_dtype.value_or(decoder_->weights().dtype());
  if (dtype != DType::kF32 && dtype != DType::kBF16 && dtype != DType::kF16 && dtype != DType::kI8) {
    return Unimplemented("kv_cache_dtype {} is not supported; fp32, bf16, fp16 and int8 are", DTypeName(dtype));
  }
  const std::vector<CacheSpec> specs = CacheSpecs(decoder_->config(), dtype);
  uint64_t bytes_per_position = 0;
  for (const CacheSpec& spec : specs) bytes_per_position += spec.bytes_per_position();
  const uint64_t block_bytes = bytes_per_position * options.block_size;

  const int64_t blocks_per_context = (info_.max_context + options.block_size - 1) / options.block_size;
  int64_t blocks = blocks_per_context * options.max_num_seqs;
  if (options.kv_cache_bytes > 0) {
    blocks = static_cast<int64_t>(options.kv_cache_bytes / block_bytes);
    if (blocks < 1) {
      return InvalidArgument("kv_cache_memory is {}; one block of {} positions takes {}",
                             HumanBytes(options.kv_cache_bytes), options.block_size, HumanBytes(block_bytes));
    }
  } else if (const uint64_t available = AvailableMemory(); available > 0) {
    blocks = std::clamp<int64_t>(available / 4 / block_bytes, 1, blocks);
  }
  blocks = std::min<int64_t>(blocks, std::numeric_limits<int32_t>::max());
  MOED_ASSIGN_OR_RETURN(cache_,
                        PagedKvCache::Create(specs, options.block_size, static_cast<int32_t>(blocks), ctx_.device));
  memory_plan_.kv_cache = block_bytes * blocks;
  memory_plan_.kv_bytes_per_token = bytes_per_position;
  memory_plan_.kv_blocks = static_cast<int32_t>(blocks);
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
                                                .bytes_per_block = cache_->BytesPerBlock(static_cast<int32_t>(g))});
  }
  slots_.resize(options.max_num_seqs);
}

absl::StatusOr<Engine::Ticket> MoeEngine::Submit(const StepPlan& plan) {
  MOED_CHECK(!ready_, "step {} was not collected", ready_->step);
  MOED_RETURN_IF_ERROR(CheckPlan(plan, info_));
  ready_ = Run(plan);
  return next_ticket_++;
}

absl::StatusOr<StepResult> MoeEngine::Collect(Ticket ticket) {
  MOED_CHECK(ready_ && ticket + 1 == next_ticket_, "ticket {} is not out", ticket);
  StepResult result = std::move(*ready_);
  ready_.reset();
  return result;
}

StepResult MoeEngine::Run(const StepPlan& plan) {
  StepResult result;
  result.step = plan.step;
  for (const SlotInit& init : plan.slot_inits) slots_[init.slot] = SamplerSlot(init);
  for (const BlockCopy& copy : plan.block_copies) cache_->CopyBlock(copy.group, copy.source, copy.destination);
  if (plan.empty()) return result;
  const Workspace::Scope scope(&workspace_);
  DecoderOutput output = decoder_->Forward(ctx_, BuildBatch(plan), &*cache_);
  result.expert_loads = std::move(output.expert_loads);
  Sample(plan, output.logits, &result);
  return result;
}

DecoderBatch MoeEngine::BuildBatch(const StepPlan& plan) {
  std::vector<int32_t> tokens = plan.token_ids;
  std::vector<int32_t> context_lens(plan.slots.size());
  for (int32_t s = 0; s < plan.num_sequences(); ++s) {
    for (int32_t t = plan.query_starts[s]; t < plan.query_starts[s + 1]; ++t) {
      if (tokens[t] == kPendingToken) tokens[t] = std::max(0, slots_[plan.slots[s]].last_token());
    }
    context_lens[s] = plan.positions[plan.query_starts[s + 1] - 1] + 1;
  }
  std::vector<int32_t> rows;
  for (const LogitsRow& row : plan.logits_rows) rows.push_back(row.token);

  DecoderBatch batch;
  batch.token_ids = CopyToWorkspace(&workspace_, tokens);
  batch.positions = CopyToWorkspace(&workspace_, plan.positions);
  batch.query_starts = CopyToWorkspace(&workspace_, plan.query_starts);
  batch.context_lens = CopyToWorkspace(&workspace_, context_lens);
  batch.logits_tokens = CopyToWorkspace(&workspace_, rows);
  for (const BlockTables& tables : plan.block_tables) {
    std::vector<int64_t> slots(tokens.size());
    for (int32_t s = 0; s < plan.num_sequences(); ++s) {
      for (int32_t t = plan.query_starts[s]; t < plan.query_starts[s + 1]; ++t) {
        const int32_t position = plan.positions[t];
        const int64_t block = tables.ids[tables.starts[s] + position / cache_->block_size()];
        slots[t] = block * cache_->block_size() + position % cache_->block_size();
      }
    }
    batch.groups.push_back({.slots = CopyToWorkspace(&workspace_, slots),
                            .block_starts = CopyToWorkspace(&workspace_, tables.starts),
                            .block_ids = CopyToWorkspace(&workspace_, tables.ids)});
  }
  return batch;
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
