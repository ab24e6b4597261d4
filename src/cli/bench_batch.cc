// moed bench batch: how fast a model runs here, as fractions of what the machine has to give.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/logging.h"
#include "cli/commands.h"
#include "cli/progress_bar.h"
#include "cli/server_config.h"
#include "engine/batch_bench.h"
#include "tensor/cuda_devices.h"

namespace moed {
namespace {

struct BatchFlags {
  ServerConfig config;
  OptionTable table;
  int32_t prompt = 128;
  int32_t generate = 64;
  std::vector<int32_t> batches = {1, 2, 4, 8, 16, 32};
  int32_t rounds = 3;
  bool json = false;
};

// Median of the rounds, by time.
PhaseResult Median(std::vector<PhaseResult> phases) {
  std::nth_element(phases.begin(), phases.begin() + static_cast<std::ptrdiff_t>(phases.size() / 2), phases.end(),
                   [](const PhaseResult& a, const PhaseResult& b) { return a.seconds < b.seconds; });
  return phases[phases.size() / 2];
}

nlohmann::json PhaseJson(const PhaseResult& phase) {
  if (phase.tokens == 0) return nullptr;
  const kernels::Ceilings& ceilings = phase.ceilings;
  return {{"tokens_per_s", static_cast<double>(phase.tokens) / phase.seconds},
          {"ms_per_step", 1e3 * phase.seconds / static_cast<double>(phase.steps)},
          {"gb_per_step", phase.bytes / static_cast<double>(phase.steps) / 1e9},
          {"gop_per_step", phase.operations / static_cast<double>(phase.steps) / 1e9},
          {"attention_gop_per_step", phase.attention_operations / static_cast<double>(phase.steps) / 1e9},
          {"read_gb_per_s", ceilings.bytes / 1e9},
          {"peak_gop_per_s", ceilings.operations / 1e9},
          {"of_read_bandwidth", phase.bytes / phase.seconds / ceilings.bytes},
          {"of_peak_operations", phase.OfPeakOperations()}};
}

absl::StatusOr<nlohmann::json> MeasureBatch(MoeEngine& engine, const BatchFlags& flags, int32_t batch) {
  std::vector<PhaseResult> prefills, decodes;
  for (int32_t round = 0; round < flags.rounds; ++round) {
    const BatchBenchOptions options{
        .batch = batch, .prompt = flags.prompt, .generate = flags.generate, .seed = static_cast<uint64_t>(round)};
    MOED_ASSIGN_OR_RETURN(const BatchBenchResult result, RunBatchBench(engine, options));
    prefills.push_back(result.prefill);
    decodes.push_back(result.decode);
  }
  return nlohmann::json{
      {"batch", batch}, {"prefill", PhaseJson(Median(prefills))}, {"decode", PhaseJson(Median(decodes))}};
}

void PrintRow(const nlohmann::json& row) {
  const auto cell = [](const nlohmann::json& phase, std::string_view key) {
    return phase.is_null() ? 0.0 : phase[std::string(key)].get<double>();
  };
  const nlohmann::json &prefill = row["prefill"], &decode = row["decode"];
  fmt::print("{:>5} {:>12.1f} {:>8.2f} {:>12.1f} {:>10.2f} {:>8.2f} {:>8.2f} {:>9.1f} {:>10.1f}\n",
             row["batch"].get<int32_t>(), cell(prefill, "tokens_per_s"), cell(prefill, "of_peak_operations"),
             cell(decode, "tokens_per_s"), cell(decode, "ms_per_step"), cell(decode, "of_read_bandwidth"),
             cell(decode, "of_peak_operations"), cell(decode.is_null() ? prefill : decode, "read_gb_per_s"),
             cell(prefill, "peak_gop_per_s"));
  std::fflush(stdout);
}

// "2 threads, avx2".
std::string HostText(const MoeEngine& engine) {
  return fmt::format("{} threads, {}", engine.num_threads(), IsaName(engine.exec_context().isa));
}

absl::Status BenchBatch(BatchFlags* flags) {
  ServerConfig& config = flags->config;
  config.serving.scheduler.max_num_seqs = *std::max_element(flags->batches.begin(), flags->batches.end());
  MOED_RETURN_IF_ERROR(flags->table.ApplyFlags());
  MOED_RETURN_IF_ERROR(config.Resolve());
  if (!InitLogging(config.log_level)) return InvalidArgument("log_level is \"{}\"; try info", config.log_level);
  if (config.engine.max_model_len == 0) config.engine.max_model_len = flags->prompt + flags->generate;
  std::unique_ptr<MoeEngine> engine;
  {
    ProgressBar bar;
    config.engine.progress = [&bar](double fraction, std::string_view what) { bar.Update(fraction, what); };
    MOED_ASSIGN_OR_RETURN(engine, MoeEngine::Load(config.engine));
  }
  if (!flags->json) {
    fmt::print("{}, {}; medians of {} rounds; prompts of {}, {} generated\n", DeviceName(engine->exec_context().device),
               HostText(*engine), flags->rounds, flags->prompt, flags->generate);
    fmt::print("{:>5} {:>12} {:>8} {:>12} {:>10} {:>8} {:>8} {:>9} {:>10}\n", "batch", "prefill t/s", "of peak",
               "decode t/s", "ms a step", "of read", "of peak", "GB/s read", "GOP/s peak");
  }
  nlohmann::json rows = nlohmann::json::array();
  for (const int32_t batch : flags->batches) {
    MOED_ASSIGN_OR_RETURN(nlohmann::json row, MeasureBatch(*engine, *flags, batch));
    if (!flags->json) PrintRow(row);
    rows.push_back(std::move(row));
  }
  if (flags->json) {
    const nlohmann::json report = {{"model", engine->info().model_name},
                                   {"device", DeviceName(engine->exec_context().device)},
                                   {"threads", engine->num_threads()},
                                   {"isa", std::string(IsaName(engine->exec_context().isa))},
                                   {"prompt", flags->prompt},
                                   {"generate", flags->generate},
                                   {"rounds", flags->rounds},
                                   {"weight_bytes", engine->memory_plan().weights},
                                   {"batches", rows}};
    fmt::print("{}\n", report.dump(2));
  }
  return absl::OkStatus();
}

}  // namespace

Command AddBenchBatchCommand(CLI::App* bench) {
  CLI::App* command = bench->add_subcommand("batch", "Prefill and decode of batches, without server and scheduler");
  command->footer(
      "Ceilings (reading memory, arithmetic on registers) are sampled between the steps of the same run.\n"
      "\n"
      "Example:\n"
      "  moed bench batch --model configs/shapes/olmoe-1b-7b --load-format dummy --batch 1,8,32");
  auto flags = std::make_shared<BatchFlags>();
  flags->config.log_level = "warning";
  flags->config.engine.max_model_len = 0;
  command->add_option("--prompt", flags->prompt, "Tokens of each prompt")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--generate", flags->generate, "Tokens generated for each")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--batch", flags->batches, "Sequences at once, several with commas")
      ->delimiter(',')
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--rounds", flags->rounds, "Runs of each batch, of which the median counts")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_flag("--json", flags->json, "A JSON object instead of a table");
  flags->config.AddModelOptions(&flags->table);
  flags->table.AddFlags(command);
  return {command, [flags] { return BenchBatch(flags.get()); }};
}

}  // namespace moed
