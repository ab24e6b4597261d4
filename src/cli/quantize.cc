// moed quantize: a checkpoint rewritten with integer weights.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <fstream>
#include <functional>
#include <iterator>
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
#include "cli/model_text.h"
#include "cli/progress_bar.h"
#include "cli/stop_signals.h"
#include "engine/auto_quantize.h"
#include "model/open_model.h"
#include "model/quantize_model.h"
#include "tokenizer/tokenizer.h"

namespace moed {
namespace {

struct QuantizeFlags {
  std::string model;
  std::string to;
  int32_t group_size = kernels::WeightFormat::kDefaultGroup;
  std::string policy;
  bool choose = false;
  double bits_per_weight = ChooseFormatsOptions().bits_per_weight;
  std::string calibration;
  int32_t calibration_tokens = 8192;
  int32_t context = 512;
  std::string out;
  int32_t threads = 0;
  bool json = false;
};

absl::Status CheckFlags(const QuantizeFlags& flags) {
  if (!flags.choose) return absl::OkStatus();
  if (flags.calibration.empty()) return InvalidArgument("--auto tries formats on a text; give --calibration FILE");
  if (!flags.to.empty() || !flags.policy.empty()) {
    return InvalidArgument("--auto chooses the formats; --to and --policy name them: leave out the one or the others");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<WeightPolicy::Rule>> Rules(const QuantizeFlags& flags) {
  std::vector<WeightPolicy::Rule> rules;
  if (!flags.policy.empty()) {
    MOED_ASSIGN_OR_RETURN(rules, ReadWeightRules(flags.policy));
  }
  if (flags.to.empty()) {
    if (rules.empty()) {
      return InvalidArgument("nothing says what weights shall become; give --to int8, --to int4 or --auto");
    }
    return rules;
  }
  MOED_ASSIGN_OR_RETURN(const kernels::WeightFormat format,
                        ParseWeightFormat(fmt::format("{}:{}", flags.to, flags.group_size)));
  for (WeightPolicy::Rule& rule : IntegerRules(format)) rules.push_back(std::move(rule));
  return rules;
}

// `count` tokens of the text in windows: where it has more, windows at equal distances.
absl::StatusOr<std::vector<std::vector<int32_t>>> CalibrationWindows(const QuantizeFlags& flags,
                                                                     const std::string& model) {
  std::ifstream file(flags.calibration, std::ios::binary);
  if (!file) return NotFound("--calibration: {} cannot be read", flags.calibration);
  const std::string text(std::istreambuf_iterator<char>(file), {});
  MOED_ASSIGN_OR_RETURN(const auto tokenizer, LoadTokenizer(model));
  MOED_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, tokenizer->Encode(text, EncodeOptions()));
  if (ids.size() < 2)
    return InvalidArgument("{} has {} tokens; two are needed at least", flags.calibration, ids.size());
  const std::vector<std::vector<int32_t>> all = TokenWindows(ids, flags.context);
  const size_t wanted = std::max<size_t>(1, flags.calibration_tokens / flags.context);
  if (wanted >= all.size()) return all;
  std::vector<std::vector<int32_t>> some;
  for (size_t i = 0; i < wanted; ++i) some.push_back(all[i * all.size() / wanted]);
  return some;
}

std::string LayerName(const QuantizedPart& part) {
  return BelongsToLayer(part.part) ? std::to_string(part.layer) : "-";
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

nlohmann::json ToJson(const ChosenFormats& chosen) {
  nlohmann::json parts = nlohmann::json::array();
  for (const PartFormats& part : chosen.parts) {
    nlohmann::json tried = nlohmann::json::object();
    for (const PartFormats::Tried& one : part.tried) tried[WeightFormatText(one.format)] = one.divergence;
    parts.push_back({{"part", std::string(kWeightPartNames[static_cast<size_t>(part.part)])},
                     {"format", WeightFormatText(part.tried[part.chosen].format)},
                     {"divergence", std::move(tried)}});
    if (BelongsToLayer(part.part)) parts.back()["layer"] = part.layer;
  }
  return {{"bits_per_weight", chosen.bits_per_weight}, {"divergence", chosen.divergence}, {"parts", std::move(parts)}};
}

void PrintJson(const QuantizeFlags& flags, const QuantizeReport& report, const ChosenFormats& chosen) {
  nlohmann::json parts = nlohmann::json::array();
  for (const QuantizedPart& part : report.parts) {
    nlohmann::json row = {{"part", std::string(kWeightPartNames[static_cast<size_t>(part.part)])},
                          {"format", WeightFormatText(part.format)},
                          {"bytes_before", part.bytes_before},
                          {"bytes_after", part.bytes_after},
                          {"relative_error", part.relative_error}};
    if (BelongsToLayer(part.part)) row["layer"] = part.layer;
    parts.push_back(std::move(row));
  }
  nlohmann::json json = {{"model", flags.model},
                         {"out", flags.out},
                         {"bytes_before", report.bytes_before},
                         {"bytes_after", report.bytes_after},
                         {"parts", std::move(parts)}};
  if (flags.choose) json["chosen"] = ToJson(chosen);
  fmt::print("{}\n", json.dump(2));
}

const char* FormatColumn(const PartFormats& part, size_t i) { return i == part.chosen ? "*" : ""; }

// What each format of each part did to the predictions, and which was chosen.
void PrintChosen(const ChosenFormats& chosen) {
  fmt::print("{:>5}  {:<10}", "layer", "part");
  for (const PartFormats::Tried& tried : chosen.parts.front().tried) {
    fmt::print(" {:>12}", WeightFormatText(tried.format));
  }
  fmt::print("\n");
  for (const PartFormats& part : chosen.parts) {
    fmt::print("{:>5}  {:<10}", BelongsToLayer(part.part) ? std::to_string(part.layer) : "-",
               kWeightPartNames[static_cast<size_t>(part.part)]);
    for (size_t i = 0; i < part.tried.size(); ++i) {
      fmt::print(" {:>12}", fmt::format("{}{:.6f}", FormatColumn(part, i), part.tried[i].divergence));
    }
    fmt::print("\n");
  }
  fmt::print(
      "Divergence of the predictions in nats a token with one part in integers; * is chosen:\n"
      "{:.3f} bits a weight, and an expected divergence of {:.6f}\n\n",
      chosen.bits_per_weight, chosen.divergence);
}

// The unquantised model and the text that it runs on.
struct CalibratedModel {
  std::unique_ptr<MoeEngine> engine;
  std::unique_ptr<Calibration> calibration;
};

absl::StatusOr<CalibratedModel> Calibrate(const QuantizeFlags& flags, const std::string& path, Checkpoint& checkpoint,
                                          std::function<bool()> cancelled, ProgressBar* bar) {
  MOED_ASSIGN_OR_RETURN(auto windows, CalibrationWindows(flags, path));
  MoeEngineOptions options;
  options.model_dir = path;
  options.weights_as_stored = false;
  options.max_num_seqs = 1;
  options.max_num_batched_tokens = flags.context;
  options.device = Device{};
  options.num_threads = flags.threads;
  options.progress = [bar](double fraction, std::string_view what) { bar->Update(fraction, what); };
  CalibratedModel model;
  MOED_ASSIGN_OR_RETURN(model.engine, MoeEngine::Load(options, checkpoint));
  bar->Update(0, "running the model on the text");
  MOED_ASSIGN_OR_RETURN(model.calibration, Calibration::Create(model.engine.get(), std::move(windows),
                                                               {.cancelled = std::move(cancelled)}));
  return model;
}

absl::Status Quantize(const QuantizeFlags& flags) {
  InitLogging("warning");
  MOED_RETURN_IF_ERROR(CheckFlags(flags));
  QuantizeOptions options;
  if (!flags.choose) {
    MOED_ASSIGN_OR_RETURN(options.rules, Rules(flags));
  }
  std::atomic<bool> stopped = false;
  options.cancelled = [&stopped] { return stopped.load(); };
  const StopSignals signals([&stopped](int) { stopped = true; });
  MOED_ASSIGN_OR_RETURN(const std::string path, ResolveModelPath(flags.model));
  MOED_ASSIGN_OR_RETURN(const auto checkpoint, OpenModel(path));
  ThreadPool threads(flags.threads > 0 ? flags.threads : NumUsableCpus());
  QuantizeReport report;
  ChosenFormats chosen;
  {
    ProgressBar bar;
    CalibratedModel calibrated;
    if (!flags.calibration.empty()) {
      MOED_ASSIGN_OR_RETURN(calibrated, Calibrate(flags, path, *checkpoint, options.cancelled, &bar));
      options.statistics = calibrated.calibration.get();
    }
    if (flags.choose) {
      ChooseFormatsOptions choose{.bits_per_weight = flags.bits_per_weight};
      choose.progress = [&bar](double fraction, std::string_view what) { bar.Update(fraction, what); };
      MOED_ASSIGN_OR_RETURN(chosen, ChooseFormats(calibrated.calibration.get(), *checkpoint, choose));
      options.rules = chosen.rules;
    }
    options.progress = [&bar](double fraction, std::string_view what) { bar.Update(fraction, what); };
    MOED_ASSIGN_OR_RETURN(report, QuantizeModel(*checkpoint, flags.out, options, &threads));
  }
  if (flags.json) {
    PrintJson(flags, report, chosen);
  } else {
    if (flags.choose) PrintChosen(chosen);
    PrintTable(report);
  }
  return absl::OkStatus();
}

}  // namespace

Command AddQuantizeCommand(CLI::App* app) {
  CLI::App* command = app->add_subcommand("quantize", "Write a model with integer weights");
  command->footer(
      "The folder holds the integers that --quantization makes as weights are loaded, in the layout pack-quantized of\n"
      "compressed-tensors, and weight_policy.yaml, which says the formats as --weight-policy takes them. Other\n"
      "programs read it too where the groups divide the inputs, experts are no stacks, and the embedding stays\n"
      "float, as a --policy may say.\n"
      "\n"
      "With --calibration the model runs on a text first, and the integers are those with which its products there\n"
      "change least: scales by squared errors weighted with the inputs, each weight's error made up for by the next\n"
      "(GPTQ). With --auto each part of each layer is then tried alone in each format, and those formats are chosen\n"
      "whose divergences from the model's own predictions have the least sum within --bits-per-weight: the bits of\n"
      "integers, scales, floats, and of routers, norms and biases in fp32, over the parameters. Do not measure the\n"
      "result on the same text.\n"
      "\n"
      "Example:\n"
      "  moed quantize --model models/demo --to int4 --out demo-int4\n"
      "  moed quantize --model models/demo --auto --bits-per-weight 4.5 --calibration text.txt --out demo-auto\n"
      "  moed serve --model demo-auto");
  auto flags = std::make_shared<QuantizeFlags>();
  command->add_option("--model", flags->model, "Folder of safetensors, or its name on the Hub (ORG/NAME)")
      ->required()
      ->type_name("DIR");
  command->add_option("--out", flags->out, "Folder to write, which must not be there yet")
      ->required()
      ->type_name("DIR");
  command->add_option("--to", flags->to, "int8, or int4 (feed-forwards; attention, head and embedding in int8)");
  command->add_option("--group-size", flags->group_size, "Inputs that share a scale: 8 to 1024, by eights")
      ->capture_default_str();
  command->add_option("--policy", flags->policy, "YAML file with formats by part and layer, before --to")
      ->type_name("FILE");
  command->add_flag("--auto", flags->choose, "Choose the formats by trying them on the text of --calibration");
  command->add_option("--bits-per-weight", flags->bits_per_weight, "For --auto: bits over parameters, at most")
      ->check(CLI::Range(1.0, 32.0))
      ->capture_default_str();
  command
      ->add_option("--calibration", flags->calibration,
                   "A file of UTF-8 text like those that the model is for; makes better integers, with --to too")
      ->type_name("FILE");
  command->add_option("--calibration-tokens", flags->calibration_tokens, "So many of the text, spread over it")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  command->add_option("--context", flags->context, "Tokens of a window of the text")
      ->check(CLI::Range(2, 1 << 16))
      ->capture_default_str();
  command->add_option("--threads", flags->threads, "Processor threads; 0: all that this process may use")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  command->add_flag("--json", flags->json, "A JSON object instead of a table");
  return {command, [flags] { return Quantize(*flags); }};
}

}  // namespace moed
