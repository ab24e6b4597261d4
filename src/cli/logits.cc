// moed logits: what the model says about every token of given prompts, for comparing with other programs.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/model_path.h"
#include "cli/npy_writer.h"
#include "cli/progress_bar.h"
#include "cli/server_config.h"
#include "engine/score.h"

namespace moed {
namespace {

struct LogitsFlags {
  ServerConfig config;
  OptionTable table;
  std::string ids_file;
  std::string out_file;
  int32_t chunk = 0;
};

using Prompts = std::vector<std::vector<int32_t>>;

absl::StatusOr<Prompts> ReadPrompts(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return NotFound("--ids: {} cannot be read", path);
  const nlohmann::json json = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (!json.is_array()) return InvalidArgument("{}: it must be a JSON list of lists of token ids", path);
  Prompts prompts;
  for (const nlohmann::json& prompt : json) {
    if (!prompt.is_array()) return InvalidArgument("{}: prompt {} is not a list of token ids", path, prompts.size());
    std::vector<int32_t>& ids = prompts.emplace_back();
    for (const nlohmann::json& id : prompt) {
      if (!id.is_number_integer()) {
        return InvalidArgument("{}: prompt {} holds {}; it must hold integers only", path, prompts.size() - 1,
                               id.dump());
      }
      ids.push_back(static_cast<int32_t>(std::clamp<int64_t>(id.get<int64_t>(), -1, INT32_MAX)));
    }
  }
  if (prompts.empty()) return InvalidArgument("{}: there are no prompts", path);
  return prompts;
}

absl::Status Logits(LogitsFlags* flags) {
  ServerConfig& config = flags->config;
  MOED_ASSIGN_OR_RETURN(const Prompts prompts, ReadPrompts(flags->ids_file));
  std::vector<int64_t> first_rows = {0};
  for (const auto& prompt : prompts) first_rows.push_back(first_rows.back() + std::ssize(prompt));
  // One ragged batch, unless a flag says otherwise or it grows beyond reason.
  config.serving.scheduler.max_num_seqs = static_cast<int32_t>(std::min<size_t>(prompts.size(), 256));
  config.serving.scheduler.max_num_batched_tokens =
      static_cast<int32_t>(std::clamp<int64_t>(first_rows.back(), 16, 4096));
  MOED_RETURN_IF_ERROR(flags->table.ApplyFlags());
  MOED_RETURN_IF_ERROR(config.Resolve());
  MOED_RETURN_IF_ERROR(config.StartLogging());

  MOED_ASSIGN_OR_RETURN(config.engine.model_dir, ResolveModelPath(config.engine.model_dir));
  std::unique_ptr<MoeEngine> engine;
  {
    ProgressBar bar;
    config.engine.progress = [&bar](double fraction, std::string_view what) { bar.Update(fraction, what); };
    MOED_ASSIGN_OR_RETURN(engine, MoeEngine::Load(config.engine));
  }
  MOED_ASSIGN_OR_RETURN(const auto writer,
                        NpyWriter::Create(flags->out_file, first_rows.back(), engine->info().vocab_size));
  absl::Status written;
  MOED_RETURN_IF_ERROR(
      ScorePrompts(*engine, prompts, flags->chunk, [&](size_t prompt, size_t index, std::span<const float> logits) {
        if (!written.ok()) return;
        written = writer->WriteRow(first_rows[prompt] + index, logits);
      }));
  return written;
}

}  // namespace

Command AddLogitsCommand(CLI::App* app) {
  CLI::App* command = app->add_subcommand("logits", "The model's logits for every token of given prompts");
  command->footer(
      "FILE.json holds [[ids of a prompt], ...]; FILE.npy gets float32 [total tokens, vocabulary], prompt after "
      "prompt. Unless flags say otherwise, all prompts are one batch (up to 256 prompts and 4096 tokens).\n"
      "\n"
      "Example:\n"
      "  moed logits --model models/demo --dtype fp32 --ids prompts.json --out logits.npy");
  auto flags = std::make_shared<LogitsFlags>();
  flags->config.log_level = "warning";
  command->add_option("--ids", flags->ids_file, "The prompts")->required()->type_name("FILE.json");
  command->add_option("--out", flags->out_file, "Where the logits go")->required()->type_name("FILE.npy");
  command->add_option("--chunk", flags->chunk, "Tokens of a prompt in one step at most; 0: as many as fit")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  flags->config.AddModelOptions(&flags->table);
  flags->table.AddFlags(command);
  return {command, [flags] { return Logits(flags.get()); }};
}

}  // namespace moed
