// moed inspect: what a model's folder holds, what it would need, and what of it is not supported; no weight is read.
#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <vector>

#include "base/logging.h"
#include "base/text.h"
#include "checkpoint/checkpoint.h"
#include "cli/commands.h"
#include "cli/model_path.h"
#include "cli/model_text.h"
#include "cli/option_table.h"
#include "model/family.h"
#include "model/model_config.h"
#include "model/open_model.h"
#include "model/weights.h"
#include "tokenizer/chat_template.h"
#include "tokenizer/tokenizer.h"

namespace moed {
namespace {

struct InspectFlags {
  std::string model_dir;
  LoadFormat load_format = LoadFormat::kAuto;
  std::optional<DType> dtype;
  std::optional<DType> kv_cache_dtype;
  int32_t max_num_seqs = 64;
  OptionTable table;
};

std::string Count(int64_t parameters) {
  if (parameters >= 1'000'000'000) return fmt::format("{:.2f} B", static_cast<double>(parameters) / 1e9);
  if (parameters >= 1'000'000) return fmt::format("{:.2f} M", static_cast<double>(parameters) / 1e6);
  return fmt::format("{:.1f} K", static_cast<double>(parameters) / 1e3);
}

std::string Bytes(int64_t bytes) { return HumanBytes(static_cast<uint64_t>(bytes)); }

void Title(std::string_view title) { fmt::print("\n{}\n", title); }

template <typename Value>
void Line(std::string_view name, const Value& value) {
  fmt::print("  {:<28} {}\n", name, value);
}

void PrintShapes(const ModelConfig& model) {
  Title("Shapes");
  const AttentionConfig& attention = model.attention;
  Line("layers", fmt::format("{}, of which {} with experts", model.num_layers(), model.num_moe_layers()));
  Line("hidden size", model.hidden_size);
  Line("vocabulary", fmt::format("{}{}", model.vocab_size, model.tied_embeddings ? ", embeddings tied" : ""));
  Line("context", model.max_positions);
  if (attention.is_latent()) {
    const LatentAttentionConfig& latent = attention.latent;
    Line("attention heads", fmt::format("{}, of {} + {} dimensions for keys and {} for values", attention.num_heads,
                                        latent.nope_head_dim, latent.rope_head_dim, attention.v_head_dim));
    Line("latent of keys and values", fmt::format("{}, and a rotary key of {}: {} cached for a token in each layer",
                                                  latent.kv_lora_rank, latent.rope_head_dim, latent.cached_dim()));
    if (latent.q_lora_rank > 0) Line("latent of queries", latent.q_lora_rank);
  } else {
    Line("attention heads", fmt::format("{}, {} for keys and values, of {} and {} dimensions", attention.num_heads,
                                        attention.num_kv_heads, attention.k_head_dim, attention.v_head_dim));
  }
  Line("experts", fmt::format("{}, {} a token{}, intermediate size {}", model.moe.num_experts, model.moe.top_k,
                              model.moe.renormalize ? " (renormalised)" : "", model.moe.intermediate_size));
  if (model.num_moe_layers() < model.num_layers()) Line("dense intermediate size", model.intermediate_size);
}

void PrintParameters(const ParameterCount& count) {
  Title("Parameters");
  Line("total", Count(count.total));
  Line("active for one token", Count(count.active));
}

void PrintMemory(const ModelConfig& model, const ParameterCount& count, const InspectFlags& flags) {
  const DType dtype = flags.dtype.value_or(model.checkpoint_dtype == DType::kBF16 ? DType::kBF16 : DType::kF32);
  const DType kv_dtype = flags.kv_cache_dtype.value_or(dtype);
  const auto size = static_cast<int64_t>(DTypeSize(dtype));
  Title(fmt::format("Memory with weights in {}, KV cache in {}", DTypeName(dtype), DTypeName(kv_dtype)));
  const std::pair<std::string_view, int64_t> parts[] = {
      {"experts", count.experts},     {"shared experts", count.shared_experts},   {"dense feed-forward", count.dense},
      {"attention", count.attention}, {"embedding and LM head", count.embedding}, {"routers", count.router},
      {"norms", count.norms}};
  for (const auto& [name, parameters] : parts) {
    // Routers and norms are small and compute in fp32 always.
    const bool fp32 = name == "routers" || name == "norms";
    if (parameters > 0) Line(name, Bytes(parameters * (fp32 ? 4 : size)));
  }
  Line("weights together",
       Bytes(static_cast<int64_t>(ModelWeights::PlannedBytes(model, WeightPolicy{.dtype = dtype, .rules = {}}))));
  int64_t per_token = 0;
  for (const CacheSpec& spec : CacheSpecs(model, kv_dtype)) per_token += spec.bytes_per_position();
  Line("KV cache for one token", Bytes(per_token));
  Line("KV cache for one context", Bytes(per_token * model.max_positions));
  Line(fmt::format("KV cache for {} contexts", flags.max_num_seqs),
       Bytes(per_token * model.max_positions * flags.max_num_seqs));
}

absl::Status Inspect(InspectFlags* flags) {
  MOED_RETURN_IF_ERROR(flags->table.ApplyFlags());
  if (flags->model_dir.empty()) return InvalidArgument("no model is named; give --model DIR");
  InitLogging("error");
  std::vector<std::string> not_supported;
  const auto note = [&not_supported](const absl::Status& status) {
    if (!status.ok()) not_supported.emplace_back(Message(status));
  };
  MOED_ASSIGN_OR_RETURN(const std::string path, ResolveModelPath(flags->model_dir));
  MOED_ASSIGN_OR_RETURN(const auto checkpoint, OpenModel(path, {.load_format = flags->load_format, .dummy_seed = 0}));
  Title(flags->model_dir);
  if (checkpoint->total_bytes() > 0) {
    Line("weights on disk", fmt::format("{} tensors, {}", checkpoint->List().size(),
                                        Bytes(static_cast<int64_t>(checkpoint->total_bytes()))));
  }
  const absl::StatusOr<ModelConfig> model = ReadModelConfig(*checkpoint);
  note(model.status());
  if (model.ok()) {
    Line("family", fmt::format("{} ({})", model->family, model->architecture));
    const ParameterCount count = CountParameters(*model);
    PrintShapes(*model);
    PrintParameters(count);
    PrintMemory(*model, count, *flags);
  }

  Title("Text");
  const auto tokenizer = LoadTokenizer(path);
  if (tokenizer.ok()) Line("tokenizer", fmt::format("{} tokens", (*tokenizer)->vocab_size()));
  note(tokenizer.status());
  const auto chat_template = LoadChatTemplate(path);
  Line("chat template", chat_template.ok() ? "yes" : "no");
  if (!absl::IsNotFound(chat_template.status())) note(chat_template.status());

  Title("Not supported");
  for (const std::string& message : not_supported) fmt::print("  {}\n", message);
  if (not_supported.empty()) fmt::print("  nothing: all of it can be served\n");
  return absl::OkStatus();
}

}  // namespace

Command AddInspectCommand(CLI::App* app) {
  CLI::App* command = app->add_subcommand("inspect", "What a model's folder holds, and the memory that it would need");
  command->footer(
      "Example:\n"
      "  moed inspect --model models/demo\n"
      "  moed inspect --model configs/shapes/qwen3-30b-a3b --load-format dummy --dtype bf16");
  auto flags = std::make_shared<InspectFlags>();
  flags->table.BeginGroup("Model");
  flags->table.Add("model", &flags->model_dir, "Folder or GGUF file of the model, or its name on the Hub");
  flags->table.Add("load_format", &flags->load_format, "dummy for a folder with config.json only");
  flags->table.Add("dtype", &flags->dtype, "Plan for weights in auto, fp32, bf16");
  flags->table.Add("kv_cache_dtype", &flags->kv_cache_dtype,
                   "Plan for keys and values in auto, fp32, bf16, fp16, int8");
  flags->table.Add("max_num_seqs", &flags->max_num_seqs, "Plan for so many sequences at once");
  flags->table.AddFlags(command);
  return {command, [flags] { return Inspect(flags.get()); }};
}

}  // namespace moed
