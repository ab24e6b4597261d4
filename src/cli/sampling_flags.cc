#include "cli/sampling_flags.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "request/sampling_params.h"

namespace moed {

void SamplingFlags::AddTo(CLI::App* command) {
  const SamplingParams defaults;
  const auto add = [command](const char* flag, auto& field, const char* help, auto default_value) {
    command->add_option(flag, field, help)->default_str(fmt::format("{}", default_value))->group("Sampling");
  };
  add("--max-tokens", max_tokens, "Tokens to generate at most", defaults.max_tokens);
  const auto models_own = [](auto value) { return fmt::format("the model's, else {}", value); };
  add("--temperature", temperature, "0 always takes the most likely token", models_own(defaults.temperature));
  add("--top-k", top_k, "Only the k most likely tokens; 0: all", models_own(defaults.top_k));
  add("--top-p", top_p, "Only the most likely tokens that together reach this probability", models_own(defaults.top_p));
  add("--min-p", min_p, "Only tokens at least so likely, measured by the most likely one", models_own(defaults.min_p));
  add("--repetition-penalty", repetition_penalty, "Above 1 discourages tokens of prompt and output",
      models_own(defaults.repetition_penalty));
  add("--presence-penalty", presence_penalty, "Taken from the logit of tokens of the output",
      defaults.presence_penalty);
  add("--frequency-penalty", frequency_penalty, "The same, for each time that the token is there",
      defaults.frequency_penalty);
  command->add_option("--stop", stop, "End at this text; may be given several times")
      ->take_all()
      ->expected(1)
      ->group("Sampling");
  command->add_flag("--ignore-eos", ignore_eos, "Go on at the model's end of text")->group("Sampling");
}

void SamplingFlags::AddSeedTo(CLI::App* command) {
  command->add_option("--seed", seed, "The same seed gives the same tokens")->default_str("random")->group("Sampling");
}

v1::SamplingParams SamplingFlags::ToMessage() const {
  v1::SamplingParams message;
  if (max_tokens) message.set_max_tokens(*max_tokens);
  if (temperature) message.set_temperature(*temperature);
  if (top_k) message.set_top_k(*top_k);
  if (top_p) message.set_top_p(*top_p);
  if (min_p) message.set_min_p(*min_p);
  if (repetition_penalty) message.set_repetition_penalty(*repetition_penalty);
  if (presence_penalty) message.set_presence_penalty(*presence_penalty);
  if (frequency_penalty) message.set_frequency_penalty(*frequency_penalty);
  if (seed) message.set_seed(*seed);
  for (const std::string& text : stop) message.add_stop(text);
  if (ignore_eos) message.set_ignore_eos(true);
  return message;
}

}  // namespace moed
