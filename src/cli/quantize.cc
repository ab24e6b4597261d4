// moed quantize: a checkpoint rewritten with integer weights.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "base/cpu_info.h"
#include "base/logging.h"
#include "base/text.h"
#include "cli/commands.h"
#include "cli/model_path.h"
#include "cli/progress_bar.h"
#include "cli/stop_signals.h"
#include "model/open_model.h"
#include "model/quantize_model.h"

namespace moed {
namespace {

struct QuantizeFlags {
  std::string model;
  std::string to;
  int32_t group_size = kernels::WeightFormat::kDefaultGroup;
  std::string policy;
  std::string out;
  int32_t threads = 0;
  bool json = false;
};

absl::StatusOr<std::vector<WeightPolicy::Rule>> Rules(const QuantizeFlags& flags) {
  std::vector<WeightPolicy::Rule> rules;
  if (!flags.policy.empty()) {
    MOED_ASSIGN_OR_RETURN(rules, ReadWeightRules(flags.policy));
  }
  if (flags.to.empty()) {
    if (rules.empty()) return InvalidArgument("nothing says what weights shall become; give --to int8 or --to int4");
    return rules;
  }
  MOED_ASSIGN_OR_RETURN(const kernels::WeightFormat format,
                        ParseWeightFormat(fmt::format("{}:{}", flags.to, flags.group_size)));
  for (WeightPolicy::Rule& rule : IntegerRules(format)) rules.push_back(std::move(rule));
  return rules;
}

std::string LayerName(const QuantizedPart& part) {
  return part.part == WeightPart::kHead ? "-" : std::to_string(part.layer);
}

void PrintTable(const QuantizeReport& report) {
  fmt::print("{:>5}  {:<10} {:<9} {:>11} {:>11}  {:>14}\n", "layer", "part", "format", "before", "after",
             "relative error");
  for (const QuantizedPart& part : report.parts) {
    fmt::print("{:>5}  {:<10} {:<9} {:>11} {:>11}  {:>13.3f}%\n", LayerName(part),
               kWeightPartNames[static_cast<size_t>(part.part)], WeightFormatText(part.format),
               HumanBytes(part.bytes_before), HumanBytes(part.bytes_after), 100 * part.relative_error);
  }
  fmt::print("{:>5}  {:<10} {:<9} {:>11} {:>11}\n", "", "all", "", HumanBytes(report.bytes_before),
             HumanBytes(report.bytes_after));
}

void PrintJson(const QuantizeFlags& flags, const QuantizeReport& report) {
  nlohmann::json parts = nlohmann::json::array();
  for (const QuantizedPart& part : report.parts) {
    nlohmann::json row = {{"part", std::string(kWeightPartNames[static_cast<size_t>(part.part)])},
                          {"format", WeightFormatText(part.format)},
                          {"bytes_before", part.bytes_before},
                          {"bytes_after", part.bytes_after},
                          {"relative_error", part.relative_error}};
    if (part.part != WeightPart::kHead) row["layer"] = part.layer;
    parts.push_back(std::move(row));
  }
  const nlohmann::json json = {{"model", flags.model},
                               {"out", flags.out},
                               {"bytes_before", report.bytes_before},
                               {"bytes_after", report.bytes_after},
                               {"parts", std::move(parts)}};
  fmt::print("{}\n", json.dump(2));
}

absl::Status Quantize(const QuantizeFlags& flags) {
  InitLogging("warning");
  QuantizeOptions options;
  MOED_ASSIGN_OR_RETURN(options.rules, Rules(flags));
  std::atomic<bool> stopped = false;
  options.cancelled = [&stopped] { return stopped.load(); };
  const StopSignals signals([&stopped](int) { stopped = true; });
  MOED_ASSIGN_OR_RETURN(const std::string path, ResolveModelPath(flags.model));
  MOED_ASSIGN_OR_RETURN(const auto checkpoint, OpenModel(path));
  ThreadPool threads(flags.threads > 0 ? flags.threads : NumUsableCpus());
  QuantizeReport report;
  {
    ProgressBar bar;
    options.progress = [&bar](double fraction, std::string_view what) { bar.Update(fraction, what); };
    MOED_ASSIGN_OR_RETURN(report, QuantizeModel(*checkpoint, flags.out, options, &threads));
  }
  if (flags.json) {
    PrintJson(flags, report);
  } else {
    PrintTable(report);
  }
  return absl::OkStatus();
}

}  // namespace

Command AddQuantizeCommand(CLI::App* app) {
  CLI::App* command = app->add_subcommand("quantize", "Write a model with integer weights");
  command->footer(
      "The folder holds the integers that --quantization makes as weights are loaded, in the layout pack-quantized of\n"
      "compressed-tensors, which other programs read too where the groups divide the inputs and experts are no "
      "stacks.\n"
      "\n"
      "Example:\n"
      "  moed quantize --model models/demo --to int4 --out demo-int4\n"
      "  moed serve --model demo-int4");
  auto flags = std::make_shared<QuantizeFlags>();
  command->add_option("--model", flags->model, "Folder of safetensors, or its name on the Hub (ORG/NAME)")
      ->required()
      ->type_name("DIR");
  command->add_option("--out", flags->out, "Folder to write, which must not be there yet")
      ->required()
      ->type_name("DIR");
  command->add_option("--to", flags->to, "int8, or int4 (feed-forwards; attention and head in int8)");
  command->add_option("--group-size", flags->group_size, "Inputs that share a scale: 8 to 1024, by eights")
      ->capture_default_str();
  command->add_option("--policy", flags->policy, "YAML file with formats by part and layer, before --to")
      ->type_name("FILE");
  command->add_option("--threads", flags->threads, "Processor threads; 0: all that this process may use")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  command->add_flag("--json", flags->json, "A JSON object instead of a table");
  return {command, [flags] { return Quantize(*flags); }};
}

}  // namespace moed
