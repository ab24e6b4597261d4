#include "cli/server_config.h"

#include <filesystem>
#include <utility>

#include "base/logging.h"

namespace moed {

void ServerConfig::AddModelOptions(OptionTable* table) {
  table->BeginGroup("Model");
  table->Add("model", &engine.model_dir,
             "Folder of the model as the Hugging Face Hub lays it out, a .gguf file, or its name on the Hub "
             "(ORG/NAME, of several GGUF models ORG/NAME:Q4_K_M)");
  table->Add("tokenizer", &tokenizer_dir, "Folder of tokenizer and chat template, where it is not the model's");
  table->Add("served_model_name", &engine.served_model_name, "What clients call the model; else the folder's name");
  table->Add("generation_config", &generation_config,
             "Sampling of requests that leave it out: model (its generation_config.json), or moed (temperature 1)");
  table->Add(
      "load_format", &engine.load_format,
      "auto, safetensors, gguf, or dummy: random weights for any config.json, to try a shape without its weights");
  table->Add("dtype", &engine.dtype, "What weights compute in: auto (as the checkpoint says), fp32, bf16");
  table->Add(
      "quantization", &quantization,
      "Integers for weights: auto (those of a quantised checkpoint), none (all become floats), or made as weights are "
      "loaded: int8, or int4 (feed-forwards; attention, head and embedding in int8); with the inputs of a group, "
      "int4:32, else "
      "128");
  table->Add("weight_policy", &weight_policy_file, "YAML file with formats by part and layer, before quantization");
  table->Add("max_model_len", &engine.max_model_len, "Tokens of prompt and output together; 0: what the model allows");
  table->Add("seed", &seed, "Of draws for requests that name no seed, and of dummy weights: a number, or random");

  table->BeginGroup("Cache");
  table->Add("kv_cache_dtype", &engine.kv_cache_dtype,
             "What keys and values are kept in: auto, fp32, bf16, fp16, int8");
  table->Add(
      "kv_cache_memory", &engine.kv_cache_bytes,
      "Memory for keys and values, like 8GiB; 0: for max_num_seqs whole contexts, at most a quarter of what is free");
  table->Add("kv_host_memory", &engine.kv_host_bytes,
             "Of a GPU: memory of the host where keys and values go that would else be forgotten, like 32GiB; 0: none");
  table->Add(
      "gpu_memory_utilization", &engine.gpu_memory_utilization,
      "Part of a GPU's memory that may be in use once the model is loaded; keys and values get what is left of it");
  table->Add("block_size", &engine.block_size,
             "Tokens in a block; small blocks waste less at a sequence's end, large ones read faster");

  table->BeginGroup("Compute");
  table->Add("device", &engine.device,
             "auto (a GPU where there is one that will do, else the processor), cpu, cuda, or cuda:N; `moed devices` "
             "lists them");
  table->Add("enforce_eager", &engine.enforce_eager, "On a GPU: no CUDA graphs, every kernel is launched by itself");
  table->Add("batch_invariant", &engine.batch_invariant,
             "On a GPU: the same tokens to the bit whatever else runs, as always on the processor; slower for prompts, "
             "and for few "
             "sequences over long contexts");
  table->Add("threads", &engine.num_threads, "Processor threads; 0: all that this process may use");
  table->Add("cpu_isa", &engine.isa,
             "Instruction set to use at most: auto, generic, avx2, avx_vnni, avx512, avx512_vnni, avx512_bf16, amx");
  table->Add("max_num_seqs", &serving.scheduler.max_num_seqs, "Sequences that run at once; more wait");
  table->Add("max_num_batched_tokens", &serving.scheduler.max_num_batched_tokens,
             "Tokens of one step; more: faster prompts, fewer: less delay for those who decode meanwhile");

  table->BeginGroup("Log");
  table->Add("log_level", &log_level, "trace, debug, info, warning, error, off");
}

void ServerConfig::AddServingOptions(OptionTable* table) {
  table->BeginGroup("Scheduling");
  table->Add("scheduling_policy", &scheduling_policy, "Who goes first: fcfs (first come, first served)");
  table->Add("max_prefill_chunk", &serving.scheduler.max_prefill_chunk,
             "Tokens of one prompt in one step; 0: as many as fit");
  table->Add("max_queue", &serving.scheduler.max_queue, "Requests that may wait; one more is refused");
  table->Add("enable_prefix_caching", &serving.scheduler.enable_prefix_caching,
             "Keep what was computed for prompts that begin alike");
  table->Add("stream_capacity", &serving.stream_capacity,
             "Tokens that a reader may leave unread before its sequence is held back");
  table->Add("slow_reader_timeout", &serving.slow_reader_timeout,
             "How long a sequence is held back before its request is cut off");
  table->Add("log_requests", &serving.log_requests, "One line in the log for each request, refused ones too");
}

void ServerConfig::AddServerOptions(OptionTable* table) {
  table->BeginGroup("Server");
  table->Add("host", &server.host, "Address to listen on; 0.0.0.0 for all");
  table->Add("port", &server.port, "Port to listen on; 0 picks a free one");
  table->Add("max_message_bytes", &server.max_message_bytes, "The largest request");
  table->Add("connection_memory_bytes", &server.connection_memory_bytes, "Buffers of all connections together");
  table->Add("max_connections", &server.max_connections, "Connections open at once; one more is closed as it comes");
  table->Add("handshake_timeout", &server.handshake_timeout, "For a new connection to speak HTTP/2");
  table->Add("keepalive_time", &server.keepalive_time, "Silence after which a peer is asked whether it lives");
  table->Add("drain_timeout", &drain_timeout, "After SIGTERM, time for running requests to end");
}

namespace {

absl::StatusOr<std::vector<WeightPolicy::Rule>> WeightRules(const std::string& file, const std::string& quantization) {
  std::vector<WeightPolicy::Rule> rules;
  if (!file.empty()) {
    MOED_ASSIGN_OR_RETURN(rules, ReadWeightRules(file));
  }
  if (quantization == "auto" || quantization == "none") return rules;
  const auto format = ParseWeightFormat(quantization);
  if (!format.ok() || !format->is_integer()) {
    return InvalidArgument("quantization is \"{}\"; it must be auto, none, int8 or int4, or like int4:32",
                           quantization);
  }
  for (WeightPolicy::Rule& rule : IntegerRules(*format)) rules.push_back(std::move(rule));
  return rules;
}

}  // namespace

absl::Status ServerConfig::Resolve() {
  if (engine.model_dir.empty()) {
    return InvalidArgument("no model is named; give --model DIR, or model: in the configuration");
  }
  if (drain_timeout < absl::ZeroDuration()) {
    return InvalidArgument("drain_timeout is {}; it must be 0s or more", absl::FormatDuration(drain_timeout));
  }
  if (tokenizer_dir.empty()) tokenizer_dir = engine.model_dir;
  if (engine.served_model_name.empty()) {
    std::filesystem::path dir = std::filesystem::path(engine.model_dir).lexically_normal();
    if (!dir.has_filename()) dir = dir.parent_path();
    engine.served_model_name = dir.filename().string();
  }
  MOED_ASSIGN_OR_RETURN(engine.weight_rules, WeightRules(weight_policy_file, quantization));
  engine.weights_as_stored = quantization == "auto";
  engine.max_num_seqs = serving.scheduler.max_num_seqs;
  engine.max_num_batched_tokens = serving.scheduler.max_num_batched_tokens;
  serving.scheduler.seed = seed;
  server.log_requests = serving.log_requests;
  engine.dummy_seed = seed.value_or(engine.dummy_seed);
  return absl::OkStatus();
}

absl::Status ServerConfig::StartLogging() const {
  if (InitLogging(log_level)) return absl::OkStatus();
  return InvalidArgument("log_level is \"{}\"; known are trace, debug, info, warning, error, off", log_level);
}

}  // namespace moed
