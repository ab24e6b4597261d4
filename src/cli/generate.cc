// moed generate: one prompt, here, without a server.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/model_loader.h"
#include "cli/sampling_flags.h"
#include "cli/server_config.h"
#include "service/convert.h"
#include "serving/request_log.h"

namespace moed {
namespace {

struct GenerateFlags {
  ServerConfig config;
  OptionTable table;
  SamplingFlags sampling;
  std::string prompt;
  std::string prompt_file;
  bool json = false;
};

absl::StatusOr<std::string> ReadPrompt(const GenerateFlags& flags) {
  if (flags.prompt_file.empty()) return flags.prompt;
  std::ifstream file(flags.prompt_file, std::ios::binary);
  if (!file) return NotFound("--prompt-file: {} cannot be read", flags.prompt_file);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

void PrintJson(const std::string& text, const std::vector<int32_t>& ids, const ResponseChunk& last) {
  const RequestTimings timings = TimingsOf(last.stats);
  const nlohmann::ordered_json json = {
      {"text", text},
      {"token_ids", ids},
      {"finish_reason", FinishReasonName(last.finish)},
      {"usage", {{"prompt_tokens", last.stats.prompt_tokens}, {"completion_tokens", last.stats.completion_tokens}}},
      {"timings",
       {{"time_to_first_token_ms", timings.time_to_first_token_ms},
        {"total_ms", timings.total_ms},
        {"tokens_per_second", timings.tokens_per_second}}}};
  fmt::print("{}\n", json.dump());
}

absl::Status Generate(GenerateFlags* flags) {
  MOED_RETURN_IF_ERROR(flags->table.ApplyFlags());
  ServerConfig& config = flags->config;
  MOED_RETURN_IF_ERROR(config.Resolve());
  MOED_RETURN_IF_ERROR(config.StartLogging());
  MOED_ASSIGN_OR_RETURN(const std::string prompt, ReadPrompt(*flags));
  MOED_ASSIGN_OR_RETURN(const auto model, LoadServedModel(config));

  GenerateRequest request;
  request.params = ToSamplingParams(flags->sampling.ToMessage(), model->sampling_defaults());
  request.params.seed = config.seed;
  MOED_ASSIGN_OR_RETURN(request.prompt_ids, model->EncodePrompt(prompt, /*add_special_tokens=*/true));
  MOED_ASSIGN_OR_RETURN(const auto stream, model->loop().Submit(std::move(request)));

  std::string text;
  std::vector<int32_t> ids;
  ResponseChunk chunk;
  do {
    chunk = stream->Next();
    text += chunk.text;
    ids.insert(ids.end(), chunk.token_ids.begin(), chunk.token_ids.end());
    if (flags->json) continue;
    std::fwrite(chunk.text.data(), 1, chunk.text.size(), stdout);
    std::fflush(stdout);
  } while (!chunk.last());
  MOED_RETURN_IF_ERROR(chunk.status);
  if (flags->json) {
    PrintJson(text, ids, chunk);
    return absl::OkStatus();
  }
  const RequestTimings timings = TimingsOf(chunk.stats);
  std::fputc('\n', stdout);
  fmt::print(stderr, "[{} prompt tokens, {} generated, {}, first after {:.1f} ms, {:.1f} tokens/s]\n",
             chunk.stats.prompt_tokens, chunk.stats.completion_tokens, FinishReasonName(chunk.finish),
             timings.time_to_first_token_ms, timings.tokens_per_second);
  return absl::OkStatus();
}

}  // namespace

Command AddGenerateCommand(CLI::App* app) {
  CLI::App* command = app->add_subcommand("generate", "Continue one prompt here, without a server");
  command->footer(
      "Example:\n"
      "  moed generate --model models/demo --prompt \"Once upon a time\" --max-tokens 100 --temperature 0.8 --seed 1");
  auto flags = std::make_shared<GenerateFlags>();
  flags->config.log_level = "warning";
  flags->config.serving.log_requests = false;
  flags->config.serving.scheduler.max_num_seqs = 1;
  CLI::Option_group* prompt = command->add_option_group("Prompt");
  prompt->require_option(1);
  prompt->add_option("--prompt", flags->prompt, "The text to continue")->type_name("TEXT");
  prompt->add_option("--prompt-file", flags->prompt_file, "The same from a file")->type_name("FILE");
  command->add_flag("--json", flags->json, "Print one JSON object with text, token ids, usage and timings");
  flags->sampling.AddTo(command);
  flags->config.AddModelOptions(&flags->table);
  flags->table.AddFlags(command);
  return {command, [flags] { return Generate(flags.get()); }};
}

}  // namespace moed
