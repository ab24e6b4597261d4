// moed perplexity: how well a model predicts a text, to compare precisions and formats of its weights.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "base/logging.h"
#include "cli/commands.h"
#include "cli/model_text.h"
#include "cli/progress_bar.h"
#include "cli/server_config.h"
#include "engine/calibration.h"
#include "engine/score.h"
#include "tokenizer/tokenizer.h"

namespace moed {
namespace {

struct PerplexityFlags {
  ServerConfig config;
  OptionTable table;
  std::string text_file;
  int32_t context = 512;
  bool json = false;
};

// -log of the probability that `logits` give to `id`, in nats.
double NegativeLogProbability(std::span<const float> logits, int32_t id) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - top);
  return std::log(sum) + top - logits[id];
}

absl::StatusOr<std::string> ReadText(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return NotFound("--text: {} cannot be read", path);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

absl::Status Perplexity(PerplexityFlags* flags) {
  ServerConfig& config = flags->config;
  MOED_ASSIGN_OR_RETURN(const std::string text, ReadText(flags->text_file));
  config.serving.scheduler.max_num_seqs = 8;
  MOED_RETURN_IF_ERROR(flags->table.ApplyFlags());
  MOED_RETURN_IF_ERROR(config.Resolve());
  if (!InitLogging(config.log_level)) return InvalidArgument("log_level is \"{}\"; try info", config.log_level);
  MOED_ASSIGN_OR_RETURN(const auto tokenizer, LoadTokenizer(config.engine.model_dir));
  MOED_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, tokenizer->Encode(text, EncodeOptions()));
  if (ids.size() < 2) return InvalidArgument("{} has {} tokens; two are needed at least", flags->text_file, ids.size());
  const std::vector<std::vector<int32_t>> windows = TokenWindows(ids, flags->context);

  std::unique_ptr<MoeEngine> engine;
  double nats = 0;
  {
    ProgressBar bar;
    config.engine.progress = [&bar](double fraction, std::string_view what) { bar.Update(fraction, what); };
    MOED_ASSIGN_OR_RETURN(engine, MoeEngine::Load(config.engine));
    int64_t done = 0;
    MOED_RETURN_IF_ERROR(
        ScorePrompts(*engine, windows, 0, [&](size_t window, size_t index, std::span<const float> logits) {
          if (index + 1 < windows[window].size()) nats += NegativeLogProbability(logits, windows[window][index + 1]);
          if (++done % 256 == 0) bar.Update(static_cast<double>(done) / static_cast<double>(ids.size()), "scoring");
        }));
  }
  const auto predicted = static_cast<double>(ids.size() - 1);
  const double perplexity = std::exp(nats / predicted);
  const double bits_per_byte = nats / std::log(2.0) / static_cast<double>(text.size());
  if (flags->json) {
    const nlohmann::json report = {{"model", engine->info().model_name},
                                   {"tokens", ids.size()},
                                   {"bytes", text.size()},
                                   {"context", flags->context},
                                   {"perplexity", perplexity},
                                   {"bits_per_byte", bits_per_byte},
                                   {"weight_bytes", engine->memory_plan().weights}};
    fmt::print("{}\n", report.dump(2));
  } else {
    fmt::print("perplexity {:.4f} a token, {:.4f} bits a byte, over {} tokens in windows of {}\n", perplexity,
               bits_per_byte, ids.size(), flags->context);
  }
  return absl::OkStatus();
}

}  // namespace

Command AddPerplexityCommand(CLI::App* app) {
  CLI::App* command = app->add_subcommand("perplexity", "How well the model predicts a text");
  command->footer(
      "Lower is better. Figures compare only over the same text, tokenizer and context.\n"
      "\n"
      "Example:\n"
      "  moed perplexity --model models/demo --text book.txt --dtype bf16");
  auto flags = std::make_shared<PerplexityFlags>();
  flags->config.log_level = "warning";
  command->add_option("--text", flags->text_file, "A file of UTF-8 text")->required()->type_name("FILE");
  command->add_option("--context", flags->context, "Tokens of a window")
      ->check(CLI::Range(2, 1 << 20))
      ->capture_default_str();
  command->add_flag("--json", flags->json, "A JSON object instead of a line");
  flags->config.AddModelOptions(&flags->table);
  flags->table.AddFlags(command);
  return {command, [flags] { return Perplexity(flags.get()); }};
}

}  // namespace moed
